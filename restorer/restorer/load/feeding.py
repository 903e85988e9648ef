"""COPY that does not wait for the server: while that has enough to read, the same thread makes the next batch ready.

A second thread would want Python's lock just when there is room in the socket again, and the server would stand still until
it has it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.copy import LibpqWriter

_AT_THE_END = 2  # times, where the socket was full a moment ago: the server has something to read still
_LONGEST = 0.02  # seconds; a volume that takes longer keeps the server waiting, and its statement_timeout runs


class Feeder(LibpqWriter):
    """`meanwhile` does a little of the other work, less than the server needs for what the socket holds (a millisecond or so).
    -> False: there is none left; from then on, or once it took long, it is waited as psycopg does."""

    def __init__(self, cursor: psycopg.Cursor[Any], meanwhile: Callable[[], bool]) -> None:
        super().__init__(cursor)
        self._meanwhile: Callable[[], bool] | None = meanwhile
        self._patient, self.flush_threshold = self.flush_threshold, sys.maxsize
        self._full = False

    def write(self, data: Buffer) -> None:
        super().write(data)
        self._full = False
        while self._meanwhile is not None and self.connection.pgconn.flush():
            self._full = True
            self._work(self._meanwhile)

    def finish(self, exc: BaseException | None = None) -> None:
        for _ in range(_AT_THE_END if self._full and exc is None else 0):
            if self._meanwhile is not None:
                self._work(self._meanwhile)
        super().finish(exc)

    def _work(self, meanwhile: Callable[[], bool]) -> None:
        began = time.monotonic()
        if not meanwhile() or time.monotonic() - began > _LONGEST:
            self._meanwhile, self.flush_threshold = None, self._patient
