"""COPY into a table, whatever becomes of the connection meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.copy import LibpqWriter


@contextmanager
def copying(
    cur: psycopg.Cursor[Any], statement: sql.Composed, writer: LibpqWriter | None = None
) -> Iterator[psycopg.Copy]:
    """`cur.copy`. Raises psycopg.OperationalError where the connection broke: when a server's process dies, a pooler in between
    hands its last words on and adds some of its own, and psycopg expects one answer to a COPY, not two."""
    try:
        with cur.copy(statement, writer=writer) as copy:
            yield copy
    except (ValueError, psycopg.ProgrammingError) as error:
        if not cur.connection.broken or getattr(error, "sqlstate", None) is not None:
            raise
        raise psycopg.OperationalError("the connection broke in a COPY") from error
