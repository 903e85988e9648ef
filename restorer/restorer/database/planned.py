"""Statements that a connection runs over and over, planned once (PostgreSQL documentation, PREPARE).

A prepared statement is one session's of the server: behind a pooler, where transactions may go to any, none is made. By PREPARE and not
by psycopg's own, which are the extended protocol's and have no place in a message with others (message.py). A session that changes its
session_replication_role forgets all plans, so where triggers are switched off for each batch (load/vouching.py) nothing is gained.
"""

from __future__ import annotations

from psycopg import sql

from restorer.database.connection import Connection
from restorer.database.occupied import Occupied
from restorer.database.pooler import straight

_OFTEN = 3  # runs of a statement until it is worth a round trip of its own


def planned(conn: Connection, query: str) -> sql.SQL:
    """What to run in place of `query`, with the same values for its %s, bound on this side (psycopg.ClientCursor). Of what types they
    are must be plain to see without them: by what they are compared with or assigned to, or by a cast."""
    assert isinstance(conn, Occupied)
    known = conn.planned.get(query, 0)
    if isinstance(known, str):
        return sql.SQL(known)
    conn.planned[query] = known + 1
    if known + 1 < _OFTEN or not straight(conn):
        return sql.SQL(query)
    name, (first, *others) = f"restorer_{list(conn.planned).index(query)}", query.split("%s")
    numbered = first + "".join(f"${number}{part}" for number, part in enumerate(others, 1))
    conn.execute(f"PREPARE {name} AS {numbered}".encode())
    conn.planned[query] = execute = f"EXECUTE {name} ({', '.join(['%s'] * len(others))})"
    return sql.SQL(execute)
