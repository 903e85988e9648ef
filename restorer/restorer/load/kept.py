"""Stages that stay from batch to batch, emptied by each commit: to make one costs as much as to fill it, and leaves its traces in
the catalog. Only where a session is the server's own: a transaction pooler would leave them behind in sessions of others."""

from __future__ import annotations

import zlib

from psycopg import sql

from restorer.database.connection import Connection
from restorer.database.pooler import straight
from restorer.model import Table


class Kept:
    """The names of those that were asked for, on one connection at a time."""

    def __init__(self) -> None:
        self._conn: Connection | None = None
        self._names: set[str] = set()

    def possible(self, conn: Connection) -> bool:
        if self._conn is not conn:
            self._names.clear()
            self._conn = conn
        return straight(conn)

    def name(self, table: Table, columns: tuple[str, ...], number: int) -> str:
        """One for each set of columns of `table`. That they are still of its types is seen when it is used (staged.py)."""
        name = f"dbrestore_stage_{table.oid}_{zlib.crc32(repr(columns).encode()):08x}_{number}"
        self._names.add(name)
        return name

    def drop(self, conn: Connection) -> None:
        if self._conn is conn and self._names:
            names = sql.SQL(", ").join(sql.Identifier("pg_temp", name) for name in sorted(self._names))
            conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(names))
            self._names.clear()
