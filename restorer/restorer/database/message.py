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

COMMIT = sql.SQL("COMMIT")


def in_one_message(
    conn: Connection, *statements: sql.Composable, values: Sequence[object] = ()
) -> list[tuple[Any, ...]]:
    """Runs them one after the other. `values`: for the placeholders of all of them. -> the rows of the last one that gives any"""
    rows = list[tuple[Any, ...]]()
    with psycopg.ClientCursor(conn) as cur:
        cur.execute(sql.SQL("; ").join(statements), values or None)
        while True:
            if cur.description is not None:
                rows = cur.fetchall()
            if not cur.nextset():
                return rows
