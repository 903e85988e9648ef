"""A temporary table for the rows of one batch, and how they get into it: by COPY, unreadable lines told by their number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
from psycopg import sql

from restorer.convert.field import unquoted
from restorer.database.connection import Connection, kind_of
from restorer.database.copying import copying
from restorer.database.message import in_one_message
from restorer.database.problems import copy_line, problem_of
from restorer.database.relation import Relations, columns
from restorer.load.feeding import Feeder, send
from restorer.model import Problem, Table, Unique

COPY_OPTIONS = sql.SQL("(FORMAT text, NULL 'null', ENCODING 'UTF8')")
_KEPT = "CREATE TEMP TABLE IF NOT EXISTS {s} ON COMMIT DELETE ROWS AS"
_FIRST_WINDOW = 64  # lines tried together next to one that could not be read

Line = tuple[int, bytes]  # (ordinal within the batch, line of COPY as the converter makes it)


class Staged:
    """The table itself, and rows into it. `given`: the columns that these rows bring (the others get their default).

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
        name: str,
        kept: bool = False,
        narrow: bool = False,
    ) -> None:
        """`inner`: names of foreign keys within the table's own cycle. `home`: a schema for the table where the role may
        not make temporary ones. `kept`: the table outlives its transaction, empty, for the next one that asks for `name`; so
        the name stands for these very columns. `narrow`: a table of the `given` columns alone, which nothing can be inserted
        from."""
        self._conn, self.table, self._relations, self.given, self._inner = conn, table, relations, given, inner
        self._target = relations.of(table)
        self.ord = sql.Identifier(ordinal_name(table))
        self.size = 0  # lines that were copied in
        self._dropped = False
        self.indexed = False
        self.emptied = False  # all of them were taken out, if perhaps by word alone
        self._bare = f"{name}_{conn.info.backend_pid}" if home else name
        self.name = sql.Identifier(home or "pg_temp", self._bare)
        self._home = home
        self._identity = identity(table, given)
        kind = "CREATE UNLOGGED TABLE {s} AS" if home else _KEPT if kept else "CREATE TEMP TABLE {s} ON COMMIT DROP AS"
        # not LIKE: that would copy NOT NULL, and a row with a null must get in here to be told apart
        bare = sql.Identifier(name) if not home else self.name
        make = kind + " SELECT 0::bigint AS {ord}, {all} FROM {t} WITH NO DATA"
        names = {
            "s": bare,
            "all": columns(given if narrow else tuple(c.name for c in table.columns)),
            "t": self._target.write,
        }
        if not kept:
            self._run(make, **names)
        elif not self._made_like_the_table(self._sql(make, **names)):
            self._run("DROP TABLE {s}")
            self._run(make, **names)

    def _run(self, text: str, **names: sql.Composable) -> psycopg.Cursor[tuple[Any, ...]]:
        """Values go in as literals, never as parameters: a name with a percent sign in it must not look like one."""
        return self._conn.execute(self._sql(text, **names))

    def _sql(self, text: str, **names: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**({"s": self.name, "ord": self.ord, "t": self._target.read} | names))

    def _made_like_the_table(self, make: sql.Composed) -> bool:
        """Makes it, unless it is there. -> whether its columns are (still) of the table's types. Nobody can change those now: to
        name the table locks it."""
        alike = self._sql(
            "SELECT NOT EXISTS (SELECT attname, atttypid, atttypmod, attcollation FROM pg_attribute "
            "WHERE attrelid = {stage}::regclass AND attnum > 1 EXCEPT "
            "SELECT attname, atttypid, atttypmod, attcollation FROM pg_attribute WHERE attrelid = {table}::regclass AND attnum > 0)",
            stage=sql.Literal(self.name.as_string(None)), table=sql.Literal(self._target.write.as_string(None)),
        )  # fmt: skip
        return bool(in_one_message(self._conn, make, alike)[0][0])

    def drop(self) -> None:
        if not self._dropped:
            self._run("DROP TABLE {s}")
        self._dropped = True

    def ordinals(self) -> list[int]:
        return [row[0] for row in self._run("SELECT {ord} FROM {s} ORDER BY 1")]

    def count(self) -> int:
        if self.emptied:
            return 0
        row = self._run("SELECT count(*) FROM {s}").fetchone()
        return int(row[0]) if row else 0

    def copy(
        self,
        names: tuple[str, ...],
        chunks: Iterable[list[Line]],
        *,
        isolate: bool,
    ) -> dict[int, Problem]:
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
            with copying(cur, copy, Feeder(cur)) as out:
                for lines in chunks:
                    for at in range(0, len(lines), 500):
                        part = lines[at : at + 500]
                        lines_of = [b"%d\t%b\n" % x for x in part] if some else [b"%d\n" % n for n, _ in part]
                        send(out, unquoted(b"".join(lines_of)))
            self.size += max(0, cur.rowcount)


def _keeping(chunks: Iterable[list[Line]], kept: list[Line]) -> Iterator[list[Line]]:
    for chunk in chunks:
        kept.extend(chunk)
        yield chunk


def ordinal_name(table: Table) -> str:
    """A column's name that the table has not."""
    own = {c.name for c in table.columns}
    return next(o for o in ("dbrestore ord", "dbrestore ord 2", "dbrestore ord 3") if o not in own)


def identity(table: Table, given: tuple[str, ...]) -> Unique | None:
    """The key that says whether two records are the same: the primary key, else the first unique one without nulls."""
    not_null = {c.name for c in table.columns if c.not_null}
    for unique in table.uniques:
        if unique.columns and not unique.partial and (unique.primary or set(unique.columns) <= not_null):
            return unique if set(unique.columns) <= set(given) else None
    return None


def _blamed(error: psycopg.Error, name: str, lines: list[Line]) -> int | None:
    """Index of the line that the error's context names."""
    number = copy_line(error, name)
    return number - 1 if 0 < number <= len(lines) else None
