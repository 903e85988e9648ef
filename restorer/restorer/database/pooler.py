"""Whether a pooler stands between us and the server, and what it does with sessions."""

from __future__ import annotations

import select
from contextlib import closing

import psycopg

from restorer.database.connection import Connection, open_connection
from restorer.database.occupied import Occupied
from restorer.errors import Refused

_QUESTIONS = 24  # more than a pool of PgBouncer's default size has processes
_ANSWER_SECONDS = 2.0


def refuse_statement_mode(conn: Connection, label: str) -> None:
    """Raises Refused where a pooler allows no transactions of more than one statement."""
    if pooled(conn):
        try:
            conn.execute("BEGIN")
            conn.execute("ROLLBACK")
        except psycopg.errors.ProtocolViolation:
            words = f"{label} is a pooler in statement mode, which has no transactions"
            raise Refused(words, "connect to the server itself, or to a pool in transaction or session mode") from None


def pooled(conn: Connection) -> bool:
    """Whether the server's process is another one than libpq was told (protocol, BackendKeyData): a pooler stands in between."""
    return backend_pid(conn) != conn.info.backend_pid


def straight(conn: Connection) -> bool:
    """Whether no pooler stands in between, asked once for each connection."""
    assert isinstance(conn, Occupied)
    if conn.straight is None:
        conn.straight = not pooled(conn)
    return conn.straight


def pinned(conn: Connection, conninfo: str) -> bool:
    """Whether one process of the server answers from transaction to transaction, so that temporary tables stay with us. Behind
    a pooler in transaction mode it does not: another client gets the process that we have just had, at the first question or,
    if they take turns, at a later one."""
    if not pooled(conn):
        return True
    ours = backend_pid(conn)
    try:
        other = open_connection(conninfo)
    except psycopg.OperationalError:
        return True  # there is no room for another one: in transaction mode there would be
    with closing(other):
        for _ in range(_QUESTIONS):
            other.pgconn.send_query(b"SELECT pg_backend_pid()")
            other.pgconn.flush()
            if not select.select([other.fileno()], [], [], _ANSWER_SECONDS)[0]:
                return True  # it waits for a process that is free, and ours would be
            while (answer := other.pgconn.get_result()) is not None:
                if answer.ntuples and int(answer.get_value(0, 0) or b"0") == ours:
                    return False
            if backend_pid(conn) != ours:
                return False
    return True


def backend_pid(conn: Connection) -> int:
    """The process that answers, which behind a pooler is another one than libpq was told."""
    row = conn.execute("SELECT pg_backend_pid()").fetchone()
    return int(row[0]) if row else 0
