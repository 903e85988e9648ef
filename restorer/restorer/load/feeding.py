"""COPY that does not wait for the server: while that has enough to read, the same thread makes the next batch ready.

A second thread would want Python's lock just when there is room in the socket again, and the server would stand still until
it has it.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
from psycopg.abc import Buffer, PQGen
from psycopg.copy import LibpqWriter
from psycopg.waiting import Wait

T = TypeVar("T")
_MESSAGE = 32 << 10  # bytes; a longer CopyData message passes through the server's caches once more
_LONGEST = 0.02  # seconds; a volume that takes longer keeps the server waiting, and its statement_timeout runs


def send(copy: psycopg.Copy, data: bytes) -> None:
    """Sends lines of COPY, whole ones or not, in messages that suit the server."""
    whole = memoryview(data)
    for at in range(0, len(whole), _MESSAGE):
        copy.write(whole[at : at + _MESSAGE])


class Feeder(LibpqWriter):
    """`meanwhile` does a little of the other work, less than the server needs for what a socket holds (a millisecond or so):
    whenever the socket is full, and when all is sent until the server answers (over TCP a socket may hold all of a batch).
    -> False: there is none left; from then on, or once it took long, it is waited as psycopg does."""

    def __init__(self, cursor: psycopg.Cursor[Any], meanwhile: Callable[[], bool]) -> None:
        super().__init__(cursor)
        self._meanwhile: Callable[[], bool] | None = meanwhile
        self._patient, self.flush_threshold = self.flush_threshold, sys.maxsize

    def write(self, data: Buffer) -> None:
        super().write(data)
        while self._meanwhile is not None and self.connection.pgconn.flush():
            self._work(self._meanwhile)

    def finish(self, exc: BaseException | None = None) -> None:
        if exc is None:
            answer = select.poll()
            answer.register(self.connection.fileno(), select.POLLIN)
            self.connection = _Beside(self.connection, lambda: self._until(answer))  # type: ignore[assignment]
        super().finish(exc)

    def _until(self, answer: select.poll) -> None:
        while self._meanwhile is not None and not answer.poll(0):
            self._work(self._meanwhile)

    def _work(self, meanwhile: Callable[[], bool]) -> None:
        began = time.monotonic()
        if not meanwhile() or time.monotonic() - began > _LONGEST:
            self._meanwhile, self.flush_threshold = None, self._patient


class _Beside:
    """A connection for the end of a COPY, with `work` before it waits for an answer."""

    def __init__(self, conn: psycopg.Connection[Any], work: Callable[[], None]) -> None:
        self._conn, self._work = conn, work

    def wait(self, gen: PQGen[T]) -> T:
        return self._conn.wait(_Steps(gen, self._work))


class _Steps(Generator[Wait, Any, T]):
    """psycopg's steps, with `work` before those that wait for an answer. No generator function of our own: psycopg cancels what an
    interruption of the work came into, and goes on with the steps to hear of it."""

    def __init__(self, gen: PQGen[T], work: Callable[[], None]) -> None:
        self._gen, self._work = gen, work

    def send(self, ready: Any) -> Wait:
        state = self._gen.send(ready)
        if state == Wait.R:
            self._work()
        return state

    def throw(self, *error: Any) -> Wait:
        return self._gen.throw(*error)
