"""The Merge rung's table: rows wait in a temporary table while set queries say which of them can go in.

One statement finds all the rows with a null, another all that have no parent, another all whose key is there already:
a batch with a hundred bad rows costs what one with a single bad row costs. ON CONFLICT could not do it: it does not
take deferrable constraints (55000), a second key (23505), duplicates inside one statement (21000), or an identity
column GENERATED ALWAYS on update (428C9).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from restorer.database.connection import Connection, kind_of
from restorer.database.problems import copy_line, named, problem_of
from restorer.database.relation import Relations, columns, equal
from restorer.model import ColumnType, ForeignKey, Problem, Table, Unique

COPY_OPTIONS = sql.SQL("(FORMAT csv, NULL 'null', ENCODING 'UTF8')")
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

_FIRST_WINDOW = 64  # lines tried together next to one that could not be read
_HASHED = 100_000  # rows of which a hash table surely fits into work_mem (session.py)

Line = tuple[int, bytes]  # (ordinal within the batch, CSV line)


class Suppressed(Exception):
    """The server took fewer rows than it was given, and said nothing: a trigger returned NULL, or a rule stepped in."""


class Keys(msgspec.Struct):
    """What the keys said: how many rows are there already with the same content, and which with other content."""

    duplicate: int = 0
    updated: int = 0
    different: dict[int, Problem] = {}


class Stage:
    """A temporary table for rows of `table`. `given`: the columns that these rows bring (the others get their default).

    Lives in the caller's transaction. Rows found wanting are taken out and handed back; what stays can go in.
    """

    def __init__(
        self,
        conn: Connection,
        table: Table,
        relations: Relations,
        *,
        given: tuple[str, ...],
        inner: frozenset[str],
        home: str = "",
        number: int = 0,
    ) -> None:
        """`inner`: names of foreign keys within the table's own cycle. `home`: a schema for the table where the role may
        not make temporary ones."""
        self._conn, self.table, self._relations, self.given, self._inner = conn, table, relations, given, inner
        self._target = relations.of(table)
        own = {c.name for c in table.columns}
        self.ord = sql.Identifier(
            next(o for o in ("dbrestore ord", "dbrestore ord 2", "dbrestore ord 3") if o not in own)
        )
        self.size = 0  # lines that were copied in
        name = f"dbrestore_stage_{number}"
        self._bare = f"{name}_{conn.info.backend_pid}" if home else name
        self.name = sql.Identifier(home or "pg_temp", self._bare)
        self._home = home
        self._identity = identity(table, given)
        kind = "CREATE UNLOGGED TABLE {s} AS" if home else "CREATE TEMP TABLE {s} ON COMMIT DROP AS"
        # not LIKE: that would copy NOT NULL, and a row with a null must get in here to be told apart
        bare = sql.Identifier(name) if not home else self.name
        self._run(
            kind + " SELECT 0::bigint AS {ord}, {all} FROM {t} WITH NO DATA",
            s=bare,
            all=columns(tuple(c.name for c in table.columns)),
            t=self._target.write,
        )

    def _run(self, text: str, **names: sql.Composable) -> psycopg.Cursor[tuple[Any, ...]]:
        """Values go in as literals, never as parameters: a name with a percent sign in it must not look like one."""
        query = sql.SQL(text).format(**({"s": self.name, "ord": self.ord, "t": self._target.read} | names))
        return self._conn.execute(query)

    def drop(self) -> None:
        self._run("DROP TABLE {s}")

    # -- rows in -----------------------------------------------------------------------------------------------------

    def copy(self, names: tuple[str, ...], chunks: Iterable[list[Line]], *, isolate: bool) -> dict[int, Problem]:
        """COPY of all lines of `chunks` into the stage. With `isolate`, a line that PostgreSQL cannot read is named by the
        error's own line number, left out and handed back. Without, the first error is raised."""
        into = sql.SQL(", ").join([self.ord, *map(sql.Identifier, names)])
        copy = sql.SQL("COPY {} ({}) FROM STDIN {}").format(self.name, into, COPY_OPTIONS)
        if not isolate:
            self._send(copy, chunks, bool(names))
            return {}
        source, kept = iter(chunks), list[Line]()
        try:
            with self._conn.transaction():
                self._send(copy, _keeping(source, kept), bool(names))
            return {}
        except psycopg.Error as error:
            if kind_of(error) != "record":
                raise
            for chunk in source:
                kept.extend(chunk)
            return self._isolate(copy, names, kept, _blamed(error, self._bare, kept))

    def _isolate(
        self, copy: sql.Composed, names: tuple[str, ...], lines: list[Line], at: int | None
    ) -> dict[int, Problem]:
        """Steps from one unreadable line to the next. What is sent at once grows while all goes well and shrinks where
        it does not, so that neither one bad line nor nothing but bad lines are sent over and over again. `at`: the first
        one's place, where the error told it (its words may be of any language)."""
        bad: dict[int, Problem] = {}
        start, window = 0, _FIRST_WINDOW if at is None else max(_FIRST_WINDOW, at)
        while start < len(lines):
            part = lines[start : start + window]
            try:
                with self._conn.transaction():
                    self._send(copy, [part], bool(names))
                start, window = start + len(part), window * 4
            except psycopg.Error as error:
                if kind_of(error) != "record":
                    raise
                at = 0 if len(part) == 1 else _blamed(error, self._bare, part)
                if at is None:
                    window = len(part) // 2
                    continue
                if at:
                    self._send(copy, [part[:at]], bool(names))
                bad[part[at][0]] = problem_of(error, names, self._bare)
                start, window = start + at + 1, max(4, min(window, 4 * at))
        return bad

    def _send(self, copy: sql.Composed, chunks: Iterable[list[Line]], some: bool) -> None:
        """`some`: the lines have columns (a record may well be empty)."""
        with self._conn.cursor() as cur:
            with cur.copy(copy) as out:
                for lines in chunks:
                    for at in range(0, len(lines), 500):
                        part = lines[at : at + 500]
                        out.write(b"".join([b"%d,%b\n" % x for x in part] if some else [b"%d\n" % n for n, _ in part]))
            self.size += max(0, cur.rowcount)

    # -- rows that cannot go in --------------------------------------------------------------------------------------

    def screen(self) -> dict[int, Problem]:
        """Takes out what no order of loading can help: nulls, CHECK constraints, missing parents outside the cycle. Not
        where a BEFORE trigger may still mend the row: there only the server can tell."""
        if self.table.changing:
            return {}
        return self._nulls() | self._checks() | self._orphans()

    def _nulls(self) -> dict[int, Problem]:
        return self._failing(
            [
                (sql.SQL("{} IS NULL").format(sql.Identifier(c.name)), named("23502", column=c.name))
                for c in self.table.columns
                if c.not_null and c.name in set(self.given)
            ]
        )

    def _checks(self) -> dict[int, Problem]:
        """A CHECK may call anything: one that fails by itself is left to the Row rung."""
        tests = [
            (sql.SQL("NOT ({})").format(sql.SQL(c.expression)), named("23514", constraint=c.name))
            for c in self.table.checks
            if c.columns and set(c.columns) <= set(self.given)
        ]
        try:
            with self._conn.transaction():
                return self._failing(tests)
        except psycopg.Error as error:
            if kind_of(error) == "transient":
                raise
            return {}

    def _failing(self, tests: list[tuple[sql.Composed, Problem]]) -> dict[int, Problem]:
        if not tests:
            return {}
        case = sql.SQL(" ").join(
            sql.SQL("WHEN {} THEN {}").format(test, sql.Literal(i)) for i, (test, _) in enumerate(tests)
        )
        found = self._run(
            "DELETE FROM {s} WHERE (CASE {case} END) IS NOT NULL RETURNING {ord}, CASE {case} END", case=case
        )
        return {ordinal: tests[which][1] for ordinal, which in found}

    def _orphans(self) -> dict[int, Problem]:
        bad: dict[int, Problem] = {}
        for fk in self.table.foreign_keys:
            if fk.name not in self._inner and self._screenable(fk):
                found = self._run("DELETE FROM {s} AS s WHERE {missing} RETURNING s.{ord}", missing=self._missing(fk))
                bad |= {row[0]: named("23503", constraint=fk.name) for row in found}
        return bad

    def _screenable(self, fk: ForeignKey) -> bool:
        return fk.readable and set(fk.columns) <= set(self.given)

    def _missing(self, fk: ForeignKey) -> sql.Composed:
        """The row refers to a parent (MATCH SIMPLE: no null; FULL: not all null) that the table has not."""
        parent = self._relations.get(fk.to_schema, fk.to_table)
        nulls = [sql.SQL("{} IS NOT NULL").format(sql.Identifier("s", c)) for c in fk.columns]
        refers = sql.SQL(" OR " if fk.match == "f" else " AND ").join(nulls)
        there = sql.SQL("EXISTS (SELECT FROM {} p WHERE {} AND {})").format(
            parent.read, equal("p", fk.to_columns, "s", fk.columns), parent.current("p")
        )
        return sql.SQL("({}) AND NOT {}").format(refers, there)

    def inner(self) -> list[ForeignKey]:
        """The foreign keys within the table's own cycle that set queries can look through."""
        return [fk for fk in self.table.foreign_keys if fk.name in self._inner and self._screenable(fk)]

    def refers_to(self, fk: ForeignKey) -> bool:
        return (self.table.schema, self.table.name) == (fk.to_schema, fk.to_table)

    def inner_orphans(self, stages: Iterable[Stage]) -> dict[int, Problem]:
        """Takes out rows whose parent, in the table's own cycle, is neither in its table nor in a stage of it among
        `stages` (all of the cycle)."""
        bad: dict[int, Problem] = {}
        for fk in self.inner():
            missing = self._missing(fk)
            others = [o for o in stages if o.refers_to(fk) and set(fk.to_columns) <= set(o.given)]
            hashed = sum(o.size for o in others) <= _HASHED
            for other in others:
                # NOT IN over a subquery is hashed whatever the planner's settings, but only while it fits into memory
                without = (
                    "{} AND ({}) NOT IN (SELECT {} FROM {} o WHERE ({}) IS NOT NULL)"
                    if hashed
                    else "{0} AND NOT EXISTS (SELECT FROM {3} o WHERE {5})"
                )
                keys = columns(fk.to_columns, "o")
                joined = equal("o", fk.to_columns, "s", fk.columns)
                missing = sql.SQL(without).format(missing, columns(fk.columns, "s"), keys, other.name, keys, joined)
            with self._hash_joins(not hashed):
                found = self._run("DELETE FROM {s} AS s WHERE {missing} RETURNING s.{ord}", missing=missing)
            bad |= {row[0]: named("23503", constraint=fk.name) for row in found}
        return bad

    def waiting(self, fk: ForeignKey) -> list[int]:
        """Ordinals of the rows whose parent is not in its table yet."""
        with self._hash_joins(self.size > _HASHED):
            return [
                row[0] for row in self._run("SELECT s.{ord} FROM {s} AS s WHERE {missing}", missing=self._missing(fk))
            ]

    def edges(self, fk: ForeignKey, other: Stage) -> list[tuple[int, int]]:
        """(ordinal here, ordinal there) of rows that refer to a row of the stage `other`."""
        with self._hash_joins(True):
            found = self._run(
                "SELECT s.{ord}, o.{theirs} FROM {s} AS s JOIN {o} AS o ON {joined}",
                o=other.name,
                theirs=other.ord,
                joined=equal("o", fk.to_columns, "s", fk.columns),
            )
            return [(a, b) for a, b in found]

    @contextlib.contextmanager
    def _hash_joins(self, wanted: bool) -> Iterator[None]:
        """Between stages, or for very many rows, hashing is right; against a table an index is (session.py)."""
        if wanted:
            self._conn.execute("SET LOCAL enable_hashjoin = on")
        yield
        if wanted:
            self._conn.execute("SET LOCAL enable_hashjoin = off")

    # -- rows that are there already ---------------------------------------------------------------------------------

    def _uniques(self) -> list[Unique]:
        """The keys that set queries can look at, the identity first."""
        others = [
            u
            for u in self.table.uniques
            if u.columns and not u.partial and u is not self._identity and set(u.columns) <= set(self.given)
        ]
        return [self._identity, *others] if self._identity else others

    def existing(self, on_conflict: str, ordinal: int | None = None) -> Keys:
        """Takes out rows whose key the table has (`ordinal`: only this row): with the same content it is a duplicate
        whatever the policy; with other content it is handed back in `different` (Skip, Reject), or stays to be written
        (Update, but for another unique key than the identity)."""
        keys = Keys(different={})
        only = sql.SQL("") if ordinal is None else sql.SQL(" AND s.{} = {}").format(self.ord, sql.Literal(ordinal))
        for unique in self._uniques():
            if unique is self._identity:
                self._existing(unique, keys, on_conflict, only)
            else:
                self._other_existing(unique, keys, only)
        return keys

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
            whole=sql.SQL("true") if unique.nulls_not_distinct
            else sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(sql.Identifier(c)) for c in unique.columns),
        )  # fmt: skip
        return [(o, f) for o, f in found]

    def shares_key_with(self, others: list[Stage]) -> bool:
        """Whether a row here and one in `others` (rows of the same batch that bring other columns) have one key."""
        for unique in self._uniques():
            for other in others:
                if not set(unique.columns) <= set(other.given):
                    continue
                with self._hash_joins(True):
                    row = self._run(
                        "SELECT EXISTS (SELECT FROM {s} AS s JOIN {o} AS t ON {joined})",
                        o=other.name,
                        joined=self._joined(unique),
                    ).fetchone()
                if row and row[0]:
                    return True
        return False

    def _index(self) -> None:
        """On the ordinal, where single rows are looked for. CREATE … IF NOT EXISTS, as a savepoint may have undone it."""
        self._run("CREATE INDEX IF NOT EXISTS {i} ON {s} ({ord})", i=sql.Identifier(f"{self._bare}_ord"))

    def _same(self, a: str, b: str) -> sql.Composed:
        """The columns that the rows bring have the same content in `a` and `b`."""

        def content(alias: str, name: str, kind: ColumnType) -> sql.Composable:
            column = sql.Identifier(alias, name)
            if kind.kind == "b" and kind.name in _COMPARABLE:
                return column
            text = column if kind.name in _TEXT else sql.SQL("{}::text").format(column)
            return sql.SQL('({} COLLATE "C")').format(text)

        parts = [
            sql.SQL("{} IS NOT DISTINCT FROM {}").format(content(a, c.name, c.type), content(b, c.name, c.type))
            for c in self.table.columns
            if c.name in set(self.given) and c.name not in (self._identity.columns if self._identity else ())
        ]
        return sql.SQL(" AND ").join(parts) if parts else sql.SQL("true").format()

    def _existing(self, unique: Unique, keys: Keys, on_conflict: str, only: sql.Composable) -> None:
        same = self._same("s", "t")
        if on_conflict == "Update":
            only = sql.SQL("{} AND {}").format(only, same)
        # Summed up by the server: all the rows may be there, and each would cost more here than there.
        found = self._run(
            "WITH hit AS (DELETE FROM {s} AS s USING {t} AS t WHERE {join}{only} AND {current} "
            "RETURNING s.{ord} AS o, {same} AS same) "
            "SELECT count(*) FILTER (WHERE same), array_agg(o) FILTER (WHERE NOT same) FROM hit",
            current=self._target.current("t"), join=equal("t", unique.columns, "s", unique.columns), only=only, same=same,
        ).fetchone()  # fmt: skip
        assert found is not None
        keys.duplicate += found[0]
        keys.different |= dict.fromkeys(found[1] or (), named("23505", constraint=unique.name))

    def _other_existing(self, unique: Unique, keys: Keys, only: sql.Composable) -> None:
        """Another key than the identity. Under Update the row that is about to be updated may of course have it itself."""
        own = (
            sql.SQL(" AND NOT ({})").format(equal("t", self._identity.columns, "s", self._identity.columns))
            if self._identity
            else sql.SQL("")
        )
        found = self._run(
            "DELETE FROM {s} AS s USING {t} AS t WHERE {join}{own}{only} AND {current} RETURNING s.{ord}, {same}",
            current=self._target.current("t"), join=self._joined(unique), own=own, only=only,
            same=sql.SQL("false") if self._identity else self._same("s", "t"),
        )  # fmt: skip
        for ordinal, is_same in found:
            if is_same:
                keys.duplicate += 1
            else:
                keys.different[ordinal] = named("23505", constraint=unique.name)

    def _joined(self, unique: Unique) -> sql.Composed:
        if not unique.nulls_not_distinct:
            return equal("t", unique.columns, "s", unique.columns)
        pairs = [
            sql.SQL("{} IS NOT DISTINCT FROM {}").format(sql.Identifier("t", c), sql.Identifier("s", c))
            for c in unique.columns
        ]
        return sql.SQL(" AND ").join(pairs)

    # -- rows that go in -----------------------------------------------------------------------------------------------

    def ordinals(self) -> list[int]:
        return [row[0] for row in self._run("SELECT {ord} FROM {s} ORDER BY 1")]

    def count(self) -> int:
        row = self._run("SELECT count(*) FROM {s}").fetchone()
        return int(row[0]) if row else 0

    def _which(self, which: list[int] | None) -> sql.Composable:
        return sql.SQL("true") if which is None else sql.SQL("s.{} = ANY ({})").format(self.ord, sql.Literal(which))

    def update_clause(self, which: list[int] | None = None) -> sql.Composed | None:
        """`UPDATE t SET … FROM stage`: the rows that are there (policy Update) get what the stage's rows, or those in
        `which`, bring. None when there is nothing that may be updated."""
        fixed = {c.name for c in self.table.columns if c.identity == "a"} | set(
            self._identity.columns if self._identity else ()
        )
        settable = tuple(n for n in self.given if n not in fixed)
        if not self._identity or not settable:
            return None
        if self._target.real is not None:
            self._adopt(which)
        assign = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(n), sql.Identifier("s", n)) for n in settable
        )
        return sql.SQL("UPDATE {} AS t SET {} FROM {} AS s WHERE {} AND {}").format(
            self._target.write, assign, self.name,
            equal("t", self._identity.columns, "s", self._identity.columns), self._which(which),
        )  # fmt: skip

    def _adopt(self, which: list[int] | None) -> None:
        """A dry run: the stand-in gets the rows that are about to be updated as the table has them."""
        assert self._identity is not None
        assert self._target.real is not None
        every = columns(tuple(c.name for c in self.table.columns if not c.generated))
        of_it = columns(tuple(c.name for c in self.table.columns if not c.generated), "t")
        self._run(
            "INSERT INTO {w} ({every}) OVERRIDING SYSTEM VALUE SELECT {of_it} FROM {real} AS t "
            "WHERE EXISTS (SELECT FROM {s} AS s WHERE {join} AND {which}) AND NOT EXISTS (SELECT FROM {w} AS n WHERE {known})",
            w=self._target.write, every=every, of_it=of_it, real=self._target.real, which=self._which(which),
            join=equal("t", self._identity.columns, "s", self._identity.columns),
            known=equal("n", self._target.key, "t", self._target.key),
        )  # fmt: skip

    def insert_clause(self, which: list[int] | None = None, *, new: bool = False) -> sql.Composed:
        """`INSERT INTO t (…) OVERRIDING SYSTEM VALUE SELECT … FROM stage`, in the file's order. `new`: only rows that the
        table has not."""
        only = self._which(which)
        if new and self._identity:
            only = sql.SQL("{} AND NOT EXISTS (SELECT FROM {} AS t WHERE {})").format(
                only, self._target.read, equal("t", self._identity.columns, "s", self._identity.columns)
            )
        given = sql.SQL(" ({})").format(columns(self.given)) if self.given else sql.SQL("")
        return sql.SQL("INSERT INTO {}{} OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s WHERE {} ORDER BY s.{}").format(
            self._target.write, given, columns(self.given, "s"), self.name, only, self.ord
        )

    def insert(self, which: list[int] | None = None) -> int:
        """-> how many rows the server says it took"""
        return self._conn.execute(self.insert_clause(which)).rowcount

    def absent(self) -> list[int] | None:
        """After `insert`: ordinals of the rows whose key the table has not; None where there is no key to tell by."""
        if self._identity is None:
            return None
        return [
            row[0]
            for row in self._run(
                "SELECT s.{ord} FROM {s} AS s WHERE NOT EXISTS (SELECT FROM {t} AS t WHERE {join})",
                join=equal("t", self._identity.columns, "s", self._identity.columns),
            )
        ]

    def remove(self, ordinals: list[int]) -> None:
        if len(ordinals) > 1:
            self._index()
        if ordinals:
            self._run("DELETE FROM {s} WHERE {ord} = ANY ({which})", which=sql.Literal(ordinals))

    def compare(self) -> tuple[int, int, list[int]]:
        """(same, different, missing): how many of the rows the table has with the same content, how many with other
        content, and the ordinals of those it has not. Without a key a row is there when one with the same content is."""
        if self._identity:
            there = sql.SQL("t.{} IS NOT NULL").format(sql.Identifier(self._identity.columns[0]))
            join, same = equal("t", self._identity.columns, "s", self._identity.columns), self._same("s", "t")
            source = sql.SQL("SELECT s.{} AS o, {} AS there, {} AS same FROM {} AS s LEFT JOIN {} AS t ON {}")
            rows = source.format(self.ord, there, same, self.name, self._target.read, join)
        else:
            with self._hash_joins(True):
                missing = [
                    row[0]
                    for row in self._run(
                        "SELECT s.{ord} FROM {s} AS s WHERE NOT EXISTS (SELECT FROM {t} AS t WHERE {a} = {b} AND {same})",
                        a=self._digest("t"), b=self._digest("s"), same=self._same("s", "t"),
                    )
                ]  # fmt: skip
            return self.count() - len(missing), 0, missing
        row = self._run(
            "SELECT count(*) FILTER (WHERE there AND same), count(*) FILTER (WHERE there AND NOT same), "
            "array_agg(o) FILTER (WHERE NOT there) FROM ({rows}) x",
            rows=rows,
        ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1]), list(row[2] or ())

    def _digest(self, alias: str) -> sql.Composed:
        """A hash of what the rows bring, alike for the same content; types that spell one value in several ways are left
        out. IS NOT DISTINCT FROM alone would hold every row against every other one."""
        texts = [
            sql.SQL("{}::text").format(sql.Identifier(alias, c.name))
            for c in self.table.columns
            if c.name in set(self.given) and c.type.name not in ("numeric", "float4", "float8", "jsonb")
        ]
        return sql.SQL("hashtextextended(ROW({})::text, 0)").format(sql.SQL(", ").join(texts))


def write_together(
    conn: Connection, parts: list[tuple[Stage, list[int] | None]], *, update: bool
) -> list[tuple[int, int]]:
    """(inserted, updated) for each stage (all its rows, or some), by ONE statement: foreign keys are checked at its end
    (PostgreSQL documentation, CREATE TABLE, NOT DEFERRABLE), so rows may refer to each other whatever is done to them.
    `update`: rows that are there are updated (policy Update)."""
    clauses, counts = [], []
    for n, (stage, which) in enumerate(parts):
        for kind, clause in (
            ("i", stage.insert_clause(which, new=update)),
            ("u", stage.update_clause(which) if update else None),
        ):
            name = sql.SQL(f"{kind}{n}")
            if clause is None:
                counts.append(sql.SQL("0").format())
                continue
            clauses.append(sql.SQL("{} AS ({} RETURNING 1)").format(name, clause))
            counts.append(sql.SQL("(SELECT count(*) FROM {})").format(name))
    query = sql.SQL("WITH {} SELECT {}").format(sql.SQL(", ").join(clauses), sql.SQL(", ").join(counts))
    row = conn.execute(query).fetchone()
    assert row is not None
    return list(zip(row[::2], row[1::2], strict=True))


def _keeping(chunks: Iterable[list[Line]], kept: list[Line]) -> Iterator[list[Line]]:
    for chunk in chunks:
        kept.extend(chunk)
        yield chunk


def identity(table: Table, given: tuple[str, ...]) -> Unique | None:
    """The key that says whether two records are the same: the primary key, else the first unique one without nulls."""
    not_null = {c.name for c in table.columns if c.not_null}
    for unique in table.uniques:
        if unique.columns and not unique.partial and (unique.primary or set(unique.columns) <= not_null):
            return unique if set(unique.columns) <= set(given) else None
    return None


def _blamed(error: psycopg.Error, name: str, lines: list[Line]) -> int | None:
    """Index of the line that the error's context names. CSV lines are counted physically: quoted fields may hold newlines."""
    number = copy_line(error, name)
    if not number:
        return None
    for index, (_, line) in enumerate(lines):
        number -= 1 + line.count(b"\n")
        if number <= 0:
            return index
    return None


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
