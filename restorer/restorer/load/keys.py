"""Set queries for rows whose key is there already, in the table or in the same batch: duplicates told from conflicts."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from psycopg import sql

from restorer.database.problems import named
from restorer.database.relation import columns, equal
from restorer.load.conditions import joined, visible, whole, within
from restorer.load.screening import Screened
from restorer.model import Column, ColumnType, Problem, Unique

# Types whose = means the same content; anything else is compared as text, byte by byte.
_COMPARABLE = frozenset(
    [
        "bool",
        "int2",
        "int4",
        "int8",
        "float4",
        "float8",
        "numeric",
        "date",
        "time",
        "timestamp",
        "timestamptz",
        "uuid",
        "bytea",
        "jsonb",
        "oid",
    ]
)
_TEXT = frozenset(["text", "varchar", "bpchar", "name"])
_HASHED = frozenset(["inet", "cidr", "macaddr", "macaddr8", "interval", "timetz"])  # but not compared as they are
_FEW = 200  # rows that are looked through as fast as an index is made


class Keys(msgspec.Struct):
    """What the keys said: how many rows are there already with the same content, and which with other content."""

    duplicate: int = 0
    updated: int = 0
    different: dict[int, Problem] = {}


class Keyed(Screened):
    """Rows that need no writing, or must not be written, are taken out and counted."""

    def _uniques(self) -> list[Unique]:
        return visible(self.table, self.given)

    def existing(
        self, on_conflict: str, ordinal: int | None = None, *, lazily: bool = False, but: sql.Composable | None = None
    ) -> Keys:
        """Takes out rows whose key the table has (`ordinal`: only this row): with the same content it is a duplicate
        whatever the policy; with other content it is handed back in `different` (Skip, Reject), or stays to be written
        (Update, but for another unique key than the identity). `lazily`: where that is all of them `count` says so, and the
        table, which goes with its transaction, is left as it is. `but`: a condition on the table's rows, with its AND."""
        keys = Keys(different={})
        only = but or sql.SQL("").format()
        if ordinal is not None:
            only = sql.SQL("{} AND s.{} = {}").format(only, self.ord, sql.Literal(ordinal))
        for unique in self._uniques():
            if self.emptied:
                break
            if unique is self._identity:
                self._existing(unique, keys, on_conflict, only, lazily)
            else:
                self._other_existing(unique, keys, on_conflict, only)
        return keys

    def colliding(self) -> set[int]:
        """Ordinals of the rows that share a key with another one, in the table or here. Takes nothing out."""
        found = set[int]()
        for unique in self._uniques():
            rows = self._run(
                "SELECT s.{ord} FROM {s} AS s WHERE {within} AND EXISTS (SELECT FROM {t} AS t WHERE {join} AND {current}) "
                "UNION ALL SELECT unnest(array_agg({ord})) FROM {s} WHERE {whole} GROUP BY {key} HAVING count(*) > 1",
                within=within(unique, self.table, self._target), join=joined(unique), current=self._target.current("t"),
                whole=whole(unique), key=columns(unique.columns),
            )  # fmt: skip
            found.update(row[0] for row in rows)
        return found

    def meets_own(self) -> bool:
        """Whether a row here shares a key with one that this very transaction put into the table."""
        met = [
            self._sql(
                "EXISTS (SELECT FROM {s} AS s, {t} AS t WHERE {join} AND t.xmin = pg_current_xact_id()::xid)",
                join=joined(unique),
            )
            for unique in self._uniques()
        ]
        row = self._conn.execute(sql.SQL("SELECT {}").format(sql.SQL(" OR ").join(met))).fetchone() if met else None
        return row is not None and bool(row[0])

    def inside(self, on_conflict: str) -> Keys:
        """Takes out rows whose key another row of the stage has, as if they came one after the other: the first counts,
        the others are held against it. Under Update the last one does."""
        keys, taken, against = Keys(different={}), list[int](), list[int]()
        by: dict[int, Unique] = {}
        for ordinal, holder, unique in beaten(
            [(u, u is self._identity, self._clusters(u)) for u in self._uniques()], on_conflict == "Update"
        ):
            taken.append(ordinal)
            against.append(holder)
            by[ordinal] = unique
        if not taken:
            return keys
        self._index()
        found = self._run(
            "DELETE FROM {s} AS s USING unnest({taken}::bigint[], {against}::bigint[]) AS p (o, k), {s} AS t "
            "WHERE s.{ord} = p.o AND t.{ord} = p.k RETURNING s.{ord}, {same}",
            taken=sql.Literal(taken), against=sql.Literal(against), same=self._same("s", "t"),
        ).fetchall()  # fmt: skip
        for ordinal, same in found:
            unique = by[ordinal]
            if same and (unique is self._identity or self._identity is None):
                keys.duplicate += 1
            elif on_conflict == "Update" and unique is self._identity:
                keys.updated += 1
            else:
                keys.different[ordinal] = named("23505", constraint=unique.name)
        return keys

    def _clusters(self, unique: Unique) -> list[tuple[int, int]]:
        """(ordinal, first ordinal with the same key) of the rows that share a key with another one."""
        found = self._run(
            "SELECT o, f FROM (SELECT {ord} AS o, first_value({ord}) OVER w AS f, count(*) OVER (PARTITION BY {key}) AS n "
            "FROM {s} WHERE {whole} WINDOW w AS (PARTITION BY {key} ORDER BY {ord})) x WHERE n > 1 ORDER BY o",
            key=columns(unique.columns),
            whole=whole(unique),
        )  # fmt: skip
        return [(o, f) for o, f in found]

    def remove(self, ordinals: list[int]) -> None:
        if len(ordinals) > _FEW:
            self._index()
        if ordinals:
            self._run("DELETE FROM {s} WHERE {ord} = ANY ({which})", which=sql.Literal(ordinals))

    def hashes(self) -> dict[int, list[int]]:
        """ordinal -> a hash of each of its keys, by PostgreSQL's own hash functions: equal keys have equal hashes. Keys of
        types without one are taken to be all alike. Partial keys and those on expressions are not among them."""
        uniques = self._uniques()
        if not uniques:
            return {ordinal: [] for ordinal in self.ordinals()}
        found = self._run(
            "SELECT {ord}, array_remove(ARRAY[{hashes}]::bigint[], NULL) FROM {s}",
            hashes=sql.SQL(", ").join(self._hash(u) for u in uniques),
        )  # fmt: skip
        return dict(found.fetchall())

    def _hash(self, unique: Unique) -> sql.Composed:
        seed = sql.Literal(zlib.crc32(unique.name.encode()))
        parts = [self._hash_of(self.table.column(name)) for name in unique.columns]
        hashed = sql.SQL("hash_array_extended(ARRAY[{}]::bigint[], {})").format(sql.SQL(", ").join(parts), seed)
        return sql.SQL("CASE WHEN {} THEN {} END").format(whole(unique), hashed)

    def _hash_of(self, column: Column) -> sql.Composable:
        name, kind = sql.Identifier(column.name), column.type
        if kind.name == "citext":
            return sql.SQL("hash_array_extended(ARRAY[lower({}::text)], 0)").format(name)
        if kind.kind == "e" or (kind.kind == "b" and kind.name in _COMPARABLE | _TEXT | _HASHED):
            return sql.SQL("hash_array_extended(ARRAY[{}], 0)").format(name)
        return sql.SQL("0")

    def shares_key_with(self, others: Sequence[Keyed]) -> bool:
        """Whether a row here and one in `others` (rows of the same batch that bring other columns) have one key, as far as both
        bring it."""
        for unique in self._uniques():
            for other in others:
                if not set(unique.columns) <= set(other.given):
                    continue
                with self._hash_joins(True):
                    row = self._run(
                        "SELECT EXISTS (SELECT FROM {s} AS s JOIN {o} AS t ON {joined})",
                        o=other.name,
                        joined=joined(unique),
                    ).fetchone()
                if row and row[0]:
                    return True
        return False

    def _index(self) -> None:
        """On the ordinal, where single rows are looked for among many. CREATE … IF NOT EXISTS, as a savepoint may have undone
        it."""
        if self.size > _FEW:
            self.indexed = True
            self._run("CREATE INDEX IF NOT EXISTS {i} ON {s} ({ord})", i=sql.Identifier(f"{self._bare}_ord"))

    def _same(self, a: str, b: str) -> sql.Composed:
        """The columns that the rows bring have the same content in `a` and `b`."""

        def content(alias: str, name: str, kind: ColumnType) -> sql.Composable:
            column = sql.Identifier(alias, name)
            if kind.kind == "b" and kind.name in _COMPARABLE:
                return column
            text = column if kind.name in _TEXT else sql.SQL("{}::text").format(column)
            return sql.SQL('({} COLLATE "C")').format(text)

        def alike(name: str, kind: ColumnType) -> sql.Composable:
            return sql.SQL("{} IS NOT DISTINCT FROM {}").format(content(a, name, kind), content(b, name, kind))

        key = self._identity.columns if self._identity else ()
        others = [c for c in self.table.columns if c.name in set(self.given) and c.name not in key]
        if not others:
            return sql.SQL("true").format()
        names = tuple(c.name for c in others)
        # What is written alike is mostly stored alike, and the bytes of whole rows are compared faster than what they mean
        # (PostgreSQL documentation, "Composite Type Comparison": record *= record).
        return sql.SQL("(ROW({})::record *= ROW({})::record OR ({}))").format(
            columns(names, a), columns(names, b), sql.SQL(" AND ").join(alike(c.name, c.type) for c in others)
        )

    def _existing(self, unique: Unique, keys: Keys, on_conflict: str, only: sql.Composable, lazily: bool) -> None:
        same = self._same("s", "t")
        if on_conflict == "Update":
            only = sql.SQL("{} AND {}").format(only, same)
            if changed_back := self._changed_back(unique):
                only = sql.SQL("{} AND s.{} <> ALL ({})").format(only, self.ord, sql.Literal(changed_back))
        # Summed up by the server: all the rows may be there, and each would cost more here than there. Then they need not be
        # taken out one by one either.
        join, current = equal("t", unique.columns, "s", unique.columns), self._target.current("t")
        names = {"same": same, "join": join, "only": only, "current": current}
        hit = "SELECT s.{ord} AS o, {same} AS same FROM {s} AS s, {t} AS t WHERE {join}{only} AND {current}"
        rows, different = self._summed(hit, names)
        if rows and (rows == self.size or rows == self.count()):  # not counted where it is all that ever came in
            self.emptied = True
            if not lazily:
                self._run("TRUNCATE {s}")
        elif rows:
            # Counted by the statement that takes them out: another worker may have committed one in the meantime.
            hit = "DELETE FROM {s} AS s USING {t} AS t WHERE {join}{only} AND {current} RETURNING s.{ord} AS o, {same} AS same"
            rows, different = self._summed(hit, names)
        keys.duplicate += rows - len(different)
        keys.different |= dict.fromkeys(different, named("23505", constraint=unique.name))

    def _changed_back(self, unique: Unique) -> list[int]:
        """Under Update rows come one after the other: one with the table's content is no duplicate when one of its key came
        before it that has other content. -> ordinals of the rows that have one of other content before them"""
        clusters = self._clusters(unique)
        if not clusters:
            return []
        alike = self._run(
            "SELECT s.{ord} FROM {s} AS s, {t} AS t WHERE s.{ord} = ANY ({which}) AND {join} AND {same} AND {current}",
            which=sql.Literal([ordinal for ordinal, _ in clusters]), same=self._same("s", "t"),
            join=equal("t", unique.columns, "s", unique.columns), current=self._target.current("t"),
        )  # fmt: skip
        as_it_is = {row[0] for row in alike}
        changed, found = set[int](), list[int]()
        for ordinal, cluster in clusters:
            if cluster in changed:
                found.append(ordinal)
            elif ordinal not in as_it_is:
                changed.add(cluster)
        return found

    def _summed(self, hit: str, names: dict[str, sql.Composable]) -> tuple[int, list[int]]:
        """`hit`: a statement that gives (o, same) for each row. -> (how many, o of those that are not the same)"""
        # `same` is asked for once: the planner would put all of it wherever it is named.
        found = self._run(
            f"WITH hit AS ({hit}) SELECT count(*), array_agg(o) FILTER (WHERE NOT same) FROM hit", **names
        ).fetchone()
        assert found is not None
        rows, different = found
        return rows, different or []

    def _other_existing(self, unique: Unique, keys: Keys, on_conflict: str, only: sql.Composable) -> None:
        """Another key than the identity. Under Update the row that is about to be updated may of course have it itself; and
        one that a row of the stage is about to update may let go of it: what comes of that only the server can tell (not in a
        dry run, whose stand-in has no such row: there it counts as taken)."""
        own = (
            sql.SQL(" AND NOT ({})").format(equal("t", self._identity.columns, "s", self._identity.columns))
            if self._identity
            else sql.SQL("")
        )
        if self._identity and on_conflict == "Update" and self._target.real is None:
            theirs, ours = columns(self._identity.columns, "t"), columns(self._identity.columns, "e")
            own = sql.SQL("{} AND ({}) NOT IN (SELECT {} FROM {} AS e)").format(own, theirs, ours, self.name)
        found = self._run(
            "DELETE FROM {s} AS s USING {t} AS t WHERE {join}{own}{only} AND {current} RETURNING s.{ord}, {same}",
            current=self._target.current("t"), join=joined(unique), own=own, only=only,
            same=sql.SQL("false") if self._identity else self._same("s", "t"),
        )  # fmt: skip
        for ordinal, is_same in found:
            if is_same:
                keys.duplicate += 1
            else:
                keys.different[ordinal] = named("23505", constraint=unique.name)


def beaten(
    uniques: Iterable[tuple[Unique, bool, list[tuple[int, int]]]], last_wins: bool
) -> Iterator[tuple[int, int, Unique]]:
    """(ordinal, ordinal that has the key, key) of the rows that lose one when rows come one after the other. `uniques`:
    (key, whether it is the identity, its clusters (ordinal, name of the cluster)). A row that lost one key holds no other.
    """
    clusters: dict[int, list[tuple[Unique, bool, int]]] = {}
    for unique, identity, rows in uniques:
        for ordinal, cluster in rows:
            clusters.setdefault(ordinal, []).append((unique, identity, cluster))
    holders: dict[tuple[str, int], int] = {}
    for ordinal in sorted(clusters):
        mine = clusters[ordinal]
        older = next((holders.get((u.name, c)) for u, identity, c in mine if identity), None) if last_wins else None
        for unique, _, cluster in mine:
            holder = holders.get((unique.name, cluster))
            if holder is not None and holder != older:
                yield ordinal, holder, unique
                break
        else:
            if older is not None:
                yield older, ordinal, next(u for u, identity, _ in mine if identity)
                for unique, _, cluster in clusters[older]:
                    if holders.get((unique.name, cluster)) == older:
                        del holders[unique.name, cluster]
            holders |= {(unique.name, cluster): ordinal for unique, _, cluster in mine}
