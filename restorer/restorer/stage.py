"""The Merge rung's table: rows wait in a temporary table while set queries say which of them can go in.

One statement finds all the rows with a null, another all that have no parent, another all whose key is there already:
a batch with a hundred bad rows costs what one with a single bad row costs. ON CONFLICT could not do it: it does not
take deferrable constraints (55000), a second key (23505), duplicates inside one statement (21000), or an identity
column GENERATED ALWAYS on update (428C9).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from .connection import Connection
from .model import ColumnType, ForeignKey, Problem, Table, Unique
from .problems import copy_place, named, problem_of
from .relation import Relations, columns, equal

ORD = sql.Identifier("dbrestore ord")
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

Line = tuple[int, bytes]  # (ordinal within the batch, CSV line)


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
        name = f"dbrestore_stage_{number}"
        self.name = sql.Identifier(home, f"{name}_{conn.info.backend_pid}") if home else sql.Identifier("pg_temp", name)
        self._home = home
        self._identity = _identity(table, given)
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
        query = sql.SQL(text).format(**({"s": self.name, "ord": ORD, "t": self._target.read} | names))
        return self._conn.execute(query)

    def drop(self) -> None:
        self._run("DROP TABLE {s}")

    # -- rows in -----------------------------------------------------------------------------------------------------

    def copy(self, names: tuple[str, ...], chunks: Iterable[list[Line]], *, isolate: bool) -> dict[int, Problem]:
        """COPY of all lines of `chunks` into the stage. With `isolate`, a line that PostgreSQL cannot read is named by the
        error's own line number, left out and handed back; every other line is sent at most twice. Without, the first
        error is raised."""
        copy = sql.SQL("COPY {} ({}, {}) FROM STDIN {}").format(self.name, ORD, columns(names), COPY_OPTIONS)
        if not isolate:
            self._send(copy, chunks)
            return {}
        bad: dict[int, Problem] = {}
        source, kept = iter(chunks), list[Line]()
        try:
            with self._conn.transaction():
                self._send(copy, _keeping(source, kept))
            return bad
        except psycopg.Error as error:
            for chunk in source:
                kept.extend(chunk)
            self._isolate(copy, names, kept, error, bad)
        return bad

    def _isolate(
        self,
        copy: sql.Composed,
        names: tuple[str, ...],
        lines: list[Line],
        error: psycopg.Error | None,
        bad: dict[int, Problem],
    ) -> None:
        """Steps from one unreadable line to the next: what stands before it went through once, so it goes in now."""
        while error is not None:
            at = _blamed(error, lines)
            if at is None:
                raise error
            bad[lines[at][0]] = problem_of(error, names)
            self._send(copy, [lines[:at]])
            lines, error = lines[at + 1 :], None
            try:
                with self._conn.transaction():
                    self._send(copy, [lines])
            except psycopg.Error as another:
                error = another

    def _send(self, copy: sql.Composed, chunks: Iterable[list[Line]]) -> None:
        with self._conn.cursor() as cur, cur.copy(copy) as out:
            for lines in chunks:
                for at in range(0, len(lines), 500):
                    out.write(b"".join([b"%d,%b\n" % line for line in lines[at : at + 500]]))

    # -- rows that cannot go in --------------------------------------------------------------------------------------

    def screen(self) -> dict[int, Problem]:
        """Takes out what no order of loading can help: nulls, CHECK constraints, missing parents outside the cycle."""
        return self._constraints() | self._orphans()

    def _constraints(self) -> dict[int, Problem]:
        given = set(self.given)
        tests: list[tuple[sql.Composable, Problem]] = [
            (sql.SQL("{} IS NULL").format(sql.Identifier(c.name)), named("23502", column=c.name))
            for c in self.table.columns
            if c.not_null and c.name in given
        ]
        tests += [
            (sql.SQL("NOT ({})").format(sql.SQL(c.expression)), named("23514", constraint=c.name))
            for c in self.table.checks
        ]
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
        parent = self._relations.get(fk.to_schema, fk.to_table).read
        nulls = [sql.SQL("{} IS NOT NULL").format(sql.Identifier("s", c)) for c in fk.columns]
        refers = sql.SQL(" OR " if fk.match == "f" else " AND ").join(nulls)
        there = sql.SQL("EXISTS (SELECT FROM {} p WHERE {})").format(parent, equal("p", fk.to_columns, "s", fk.columns))
        return sql.SQL("({}) AND NOT {}").format(refers, there)

    def inner_orphans(self, stages: Iterable[Stage]) -> dict[int, Problem]:
        """Takes out rows whose parent, in the table's own cycle, is neither in its table nor in its stage. To be called
        for all stages of the cycle (`stages`, a list) until none finds any."""
        bad: dict[int, Problem] = {}
        for fk in self.table.foreign_keys:
            if fk.name not in self._inner or not self._screenable(fk):
                continue
            missing = self._missing(fk)
            for other in stages:
                if (other.table.schema, other.table.name) != (fk.to_schema, fk.to_table):
                    continue
                # NOT IN over a subquery is hashed whatever the planner's settings; the nulls are settled above
                missing = sql.SQL("{} AND ({}) NOT IN (SELECT {} FROM {} o WHERE ({}) IS NOT NULL)").format(
                    missing,
                    columns(fk.columns, "s"),
                    columns(fk.to_columns, "o"),
                    other.name,
                    columns(fk.to_columns, "o"),
                )
            found = self._run("DELETE FROM {s} AS s WHERE {missing} RETURNING s.{ord}", missing=missing)
            bad |= {row[0]: named("23503", constraint=fk.name) for row in found}
        return bad

    # -- rows that are there already ---------------------------------------------------------------------------------

    def keys(self, on_conflict: str) -> Keys:
        """Takes out rows that need no writing or must not be written: the same key with the same content is a duplicate
        whatever the policy; with other content it is handed back in `different` (Skip, Reject) or stays for `apply`
        (Update, but for another unique key than the identity)."""
        keys = Keys(different={})
        if self._identity:
            self._inside(self._identity, keys, on_conflict)
            self._existing(self._identity, keys, on_conflict)
        for unique in self.table.uniques:
            if (
                unique.columns
                and not unique.partial
                and unique is not self._identity
                and set(unique.columns) <= set(self.given)
            ):
                self._other_unique(unique, keys)
        return keys

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

    def _inside(self, unique: Unique, keys: Keys, on_conflict: str) -> None:
        """Several rows of the batch with one key: the first counts (Update: the last), the others are held against it."""
        order = sql.SQL("DESC" if on_conflict == "Update" else "ASC")
        found = self._run(
            "WITH o AS (SELECT {ord}, first_value({ord}) OVER (PARTITION BY {key} ORDER BY {ord} {order}) AS kept FROM {s}) "
            "DELETE FROM {s} AS s USING o, {s} AS k WHERE s.{ord} = o.{ord} AND o.kept <> o.{ord} AND k.{ord} = o.kept RETURNING s.{ord}, {same}",
            key=columns(unique.columns), order=order, same=self._same("s", "k"),
        )  # fmt: skip
        self._sort(found, unique, keys, on_conflict)

    def _existing(self, unique: Unique, keys: Keys, on_conflict: str) -> None:
        same = self._same("s", "t")
        pretend = on_conflict == "Update" and self._target.apart
        only = sql.SQL(" AND {}").format(same) if on_conflict == "Update" and not pretend else sql.SQL("")
        found = self._run(
            "WITH hit AS (DELETE FROM {s} AS s USING {t} AS t WHERE {join}{only} RETURNING s.{ord} AS o, {same} AS same) "
            "SELECT count(*) FILTER (WHERE same), array_agg(o) FILTER (WHERE NOT same) FROM hit",
            join=equal("t", unique.columns, "s", unique.columns), only=only, same=same,
        ).fetchone()  # fmt: skip
        assert found is not None
        keys.duplicate += found[0]
        if pretend:
            keys.updated += len(found[1] or ())
            return
        keys.different |= {o: named("23505", constraint=unique.name) for o in found[1] or ()}

    def _other_unique(self, unique: Unique, keys: Keys) -> None:
        """Another key than the identity. Under Update the row that is about to be updated may of course have it itself."""
        own = (
            sql.SQL(" AND NOT ({})").format(equal("t", self._identity.columns, "s", self._identity.columns))
            if self._identity
            else sql.SQL("")
        )
        same = sql.SQL("false") if self._identity else self._same("s", "t")
        for found in (
            self._run(
                "DELETE FROM {s} AS s USING {t} AS t WHERE {join}{own} RETURNING s.{ord}, {same}",
                join=self._joined(unique), own=own, same=same,
            ),
            self._run(
                "WITH o AS (SELECT {ord}, first_value({ord}) OVER (PARTITION BY {key} ORDER BY {ord}) AS kept FROM {s} WHERE {whole}) "
                "DELETE FROM {s} AS s USING o, {s} AS t WHERE s.{ord} = o.{ord} AND o.kept <> o.{ord} AND t.{ord} = o.kept RETURNING s.{ord}, {same}",
                key=columns(unique.columns), same=same,
                whole=sql.SQL("true") if unique.nulls_not_distinct
                else sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(sql.Identifier(c)) for c in unique.columns),
            ),
        ):  # fmt: skip
            self._sort(found, unique, keys, "")

    def _joined(self, unique: Unique) -> sql.Composed:
        if not unique.nulls_not_distinct:
            return equal("t", unique.columns, "s", unique.columns)
        pairs = [
            sql.SQL("{} IS NOT DISTINCT FROM {}").format(sql.Identifier("t", c), sql.Identifier("s", c))
            for c in unique.columns
        ]
        return sql.SQL(" AND ").join(pairs)

    @staticmethod
    def _sort(found: Iterable[tuple[Any, ...]], unique: Unique, keys: Keys, on_conflict: str) -> None:
        for ordinal, same in dict(found).items():  # a row may match several: once is enough
            if same:
                keys.duplicate += 1
            elif on_conflict == "Update":
                keys.updated += 1
            else:
                keys.different[ordinal] = named("23505", constraint=unique.name)

    # -- rows that go in -----------------------------------------------------------------------------------------------

    def ordinals(self) -> list[int]:
        return [row[0] for row in self._run("SELECT {ord} FROM {s} ORDER BY 1")]

    def update(self, low: int | None = None, high: int | None = None) -> list[int]:
        """Updates the rows that are there (policy Update) from the stage's rows, or those with low <= ordinal <= high.
        -> their ordinals"""
        fixed = {c.name for c in self.table.columns if c.identity == "a"} | set(
            self._identity.columns if self._identity else ()
        )
        settable = tuple(n for n in self.given if n not in fixed)
        if not self._identity or not settable:
            return []
        assign = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(n), sql.Identifier("s", n)) for n in settable
        )
        found = self._run(
            "UPDATE {w} AS t SET {assign} FROM {s} AS s WHERE {join}{only} RETURNING s.{ord}",
            w=self._target.write, assign=assign, join=equal("t", self._identity.columns, "s", self._identity.columns),
            only=sql.SQL("") if low is None else sql.SQL(" AND s.{} BETWEEN {} AND {}").format(ORD, sql.Literal(low), sql.Literal(high)),
        )  # fmt: skip
        return [row[0] for row in found]

    def insert_clause(self, low: int | None = None, high: int | None = None) -> sql.Composed:
        """`INSERT INTO t (…) OVERRIDING SYSTEM VALUE SELECT … FROM stage`, in the file's order."""
        only = (
            sql.SQL("")
            if low is None
            else sql.SQL("WHERE {} BETWEEN {} AND {} ").format(ORD, sql.Literal(low), sql.Literal(high))
        )
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} {}ORDER BY {}").format(
            self._target.write, columns(self.given), columns(self.given), self.name, only, ORD
        )

    def insert(self, low: int | None = None, high: int | None = None) -> int:
        return self._conn.execute(self.insert_clause(low, high)).rowcount

    def remove(self, ordinals: Iterable[int]) -> None:
        self._run("DELETE FROM {s} WHERE {ord} = ANY ({which})", which=sql.Literal(list(ordinals)))

    def compare(self) -> tuple[int, int, list[int]]:
        """(same, different, missing): how many of the rows the table has with the same content, how many with other
        content, and the ordinals of those it has not. Without a key a row is there when one with the same content is."""
        if self._identity:
            there = sql.SQL("t.{} IS NOT NULL").format(sql.Identifier(self._identity.columns[0]))
            join, same = equal("t", self._identity.columns, "s", self._identity.columns), self._same("s", "t")
            source = sql.SQL("SELECT s.{} AS o, {} AS there, {} AS same FROM {} AS s LEFT JOIN {} AS t ON {}")
            rows = source.format(ORD, there, same, self.name, self._target.read, join)
        else:
            found = sql.SQL("EXISTS (SELECT FROM {} t WHERE {})").format(self._target.read, self._same("s", "t"))
            rows = sql.SQL("SELECT s.{} AS o, {} AS there, true AS same FROM {} AS s").format(ORD, found, self.name)
        row = self._run(
            "SELECT count(*) FILTER (WHERE there AND same), count(*) FILTER (WHERE there AND NOT same), "
            "array_agg(o) FILTER (WHERE NOT there) FROM ({rows}) x",
            rows=rows,
        ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1]), list(row[2] or ())


def _keeping(chunks: Iterable[list[Line]], kept: list[Line]) -> Iterator[list[Line]]:
    for chunk in chunks:
        kept.extend(chunk)
        yield chunk


def _identity(table: Table, given: tuple[str, ...]) -> Unique | None:
    """The key that says whether two records are the same: the primary key, else the first unique one without nulls."""
    not_null = {c.name for c in table.columns if c.not_null}
    for unique in table.uniques:
        if unique.columns and not unique.partial and (unique.primary or set(unique.columns) <= not_null):
            return unique if set(unique.columns) <= set(given) else None
    return None


def _blamed(error: psycopg.Error, lines: list[Line]) -> int | None:
    """Index of the line that the error's context names. CSV lines are counted physically: quoted fields may hold newlines."""
    number = copy_place(error)[0]
    if not number or (error.sqlstate or "")[:2] not in ("22", "23", "54"):
        return None
    for index, (_, line) in enumerate(lines):
        number -= 1 + line.count(b"\n")
        if number <= 0:
            return index
    return None
