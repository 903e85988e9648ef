"""Which transaction wrote what, of a file that several workers load in segments.

A row tells by its xmin which transaction (or subtransaction, under a savepoint) put it there; so a row of the ledger that the
same one wrote leads from any row of the table to the batch it came with, and so to its place in the file. (PostgreSQL
documentation, System Columns.)
"""

from __future__ import annotations

import msgspec
from psycopg import sql

from restorer.database.connection import Connection
from restorer.database.ledger import Ledger


class Origin(msgspec.Struct, frozen=True):
    """A batch, or a part of one: hand `start`, `stop` and `ordinal` to reader.pieces. `task`: the id of its task."""

    task: int
    start: int
    stop: int
    ordinal: int


class Origins:
    """The origins of one table in one run. Every method is called inside a transaction."""

    def __init__(self, ledger: Ledger, table: str) -> None:
        self._run, self._q, self._table = ledger.run, ledger.q, table

    def add(self, conn: Connection, origin: Origin) -> None:
        """In the very (sub)transaction that writes the rows."""
        conn.execute(
            self._q(
                "INSERT INTO {origins} (run, table_name, task, start_offset, stop_offset, ordinal) VALUES (%s, %s, %s, %s, %s, %s)"
            ),
            (self._run, self._table, *msgspec.structs.astuple(origin)),
        )

    def wrote(self, alias: str) -> sql.Composed:
        """The condition that this run put the row of `alias` there. Spelled so that the subquery is hashed, whatever else the
        planner may do (session.py)."""
        return sql.SQL("({}.xmin IN (SELECT o.xmin FROM {} o WHERE o.run = {} AND o.table_name = {})) IS TRUE").format(
            sql.Identifier(alias), self._q("{origins}"), sql.Literal(self._run), sql.Literal(self._table)
        )

    def all(self, conn: Connection) -> dict[str, Origin]:
        """xmin, as text -> origin."""
        rows = conn.execute(
            self._q(
                "SELECT xmin::text, task, start_offset, stop_offset, ordinal FROM {origins} WHERE run = %s AND table_name = %s"
            ),
            (self._run, self._table),
        )
        return {xmin: Origin(*origin) for xmin, *origin in rows}
