"""A connection that does something else while it waits for the server, in the same thread.

A second thread would want Python's lock just when the answer is there, and the server would stand still until it has it.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.waiting import Wait

T = TypeVar("T")
Work = Callable[[], bool]
_SOON = 1  # millisecond; most statements are answered by then, and the server would have to wait for us
_LONGEST = 0.02  # seconds; a volume that takes longer keeps the server waiting, and its statement_timeout runs


class Occupied(psycopg.Connection[tuple[Any, ...]]):
    """`meanwhile` does a little of the other work, less than a millisecond or so of it. -> False: there is none left; from then on,
    or once it took long, it is waited as psycopg does."""

    meanwhile: Work | None = None
    straight: bool | None = None  # whether no pooler stands in between, once that was asked (pooler.py)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.planned: dict[str, int | str] = {}  # query -> how often it was run, or what stands for it now (planned.py)

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """As psycopg's."""
        if self.meanwhile is None:
            return super().wait(gen, *args, **kwargs)
        answer = select.poll()
        answer.register(self.fileno(), select.POLLIN)
        return super().wait(_Steps(gen, lambda: self._until(answer)), *args, **kwargs)

    def work(self) -> None:
        """A little of what is to be done meanwhile."""
        began, work, self.meanwhile = time.monotonic(), self.meanwhile, None  # nor when an interruption came into it
        if work is not None and work() and time.monotonic() - began <= _LONGEST:
            self.meanwhile = work

    def _until(self, answer: select.poll) -> None:
        if answer.poll(_SOON):
            return
        while self.meanwhile is not None and not answer.poll(0):
            self.work()


@contextmanager
def occupied(conn: psycopg.Connection[Any], meanwhile: Work | None) -> Iterator[None]:
    """While it waits for the server in here, the connection does what `meanwhile` says."""
    assert isinstance(conn, Occupied)
    conn.meanwhile = meanwhile
    try:
        yield
    finally:
        conn.meanwhile = None


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
