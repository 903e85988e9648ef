"""Several statements in one message to the server: one round trip, however many they are. Of a server in another zone each round
trip is a millisecond in which nothing happens.

They stand in one text, with their values in it (the protocol's simple query; PostgreSQL documentation, "Multiple Statements in a
Simple Query": what is in no transaction block of its own is one transaction, and the first error ends the rest).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from restorer.database.connection import Connection


def in_one_message(
    conn: Connection, *statements: sql.Composable, values: Sequence[object] = ()
) -> tuple[Any, ...] | None:
    """Runs them one after the other. `values`: for the placeholders of all of them. -> the last row that any of them gave"""
    row = None
    with psycopg.ClientCursor(conn) as cur:
        cur.execute(sql.SQL("; ").join(statements), values or None)
        while True:
            if cur.description is not None:
                row = cur.fetchone() or row
            if not cur.nextset():
                return row
