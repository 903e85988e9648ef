"""COPY that does not wait for the server: while that has enough to read, the connection does its other work (occupied.py)."""

from __future__ import annotations

import sys
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.copy import LibpqWriter

from restorer.database.occupied import Occupied

_MESSAGE = 32 << 10  # bytes; a longer CopyData message passes through the server's caches once more


def send(copy: psycopg.Copy, data: bytes) -> None:
    """Sends lines of COPY, whole ones or not, in messages that suit the server."""
    whole = memoryview(data)
    for at in range(0, len(whole), _MESSAGE):
        copy.write(whole[at : at + _MESSAGE])


class Feeder(LibpqWriter):
    """The other work is done whenever the socket is full (it holds what the server needs a millisecond or so for), and, as for every
    statement, when all is sent until the server answers: over TCP a socket may hold all of a batch."""

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        super().__init__(cursor)
        assert isinstance(cursor.connection, Occupied)
        self._conn, self._patient = cursor.connection, self.flush_threshold

    def write(self, data: Buffer) -> None:
        self.flush_threshold = self._patient if self._conn.meanwhile is None else sys.maxsize
        super().write(data)
        while self._conn.meanwhile is not None and self._conn.pgconn.flush():
            self._conn.work()
