"""Which restores and schedules are to be looked at: marks coalesce per key, looks run side by side up to a limit, failures come again later.

A key is looked at by one task at a time. A mark during its look makes another look afterwards: nothing is lost, and nothing piles up.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = tuple[str, str]  # of a restore: namespace, name


@dataclass(frozen=True)
class ScheduleKey:
    """Of a schedule, which may have a restore's name."""

    namespace: str
    name: str


K = TypeVar("K", bound=Hashable)

FIRST_RETRY, LAST_RETRY = 1.0, 60.0  # seconds between two looks at a key whose look fails


@dataclass
class _Entry:
    dirty_since: float | None = None  # monotonic seconds
    looking: bool = False
    failures: int = 0
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)


class Queue(Generic[K]):
    """`mark(key)` from anywhere in the loop. Stops with its task group: `await queue.close()`."""

    def __init__(
        self,
        look: Callable[[K], Awaitable[float | None]],
        *,
        concurrency: int,
        failed: Callable[[K, Exception], None],
    ) -> None:
        """`look` -> seconds until the next look; None: only when the key is marked."""
        self._look, self._failed = look, failed
        self._slots = asyncio.Semaphore(concurrency)
        self._entries: dict[K, _Entry] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def mark(self, key: K) -> None:
        """Something about this key may have changed."""
        entry = self._entries.setdefault(key, _Entry())
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if entry.dirty_since is None:
            entry.dirty_since = time.monotonic()
        if not entry.looking and not self._closed:
            entry.looking = True
            # A context of its own: the marker's, kopf's, holds the object of its event, and would live as long as the task.
            own = Context()
            task = asyncio.get_running_loop().create_task(self._work(key, entry), context=own)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard, context=own)

    async def _work(self, key: K, entry: _Entry) -> None:
        again: float | None = None
        try:
            while self._dirty(entry):
                async with self._slots:
                    entry.dirty_since = None
                    try:
                        again = await self._look(key)
                        entry.failures = 0
                    except Exception as error:
                        self._failed(key, error)
                        entry.failures += 1
                        entry.dirty_since = None  # marked meanwhile: all the same not at once
                        longest = min(FIRST_RETRY * 2 ** (entry.failures - 1), LAST_RETRY)
                        again = random.uniform(longest / 2, longest)
        finally:
            entry.looking = False
        if again is None:
            self._entries.pop(key, None)
        elif not self._closed:
            entry.timer = asyncio.get_running_loop().call_later(again, self.mark, key)

    @staticmethod
    def _dirty(entry: _Entry) -> bool:
        return entry.dirty_since is not None

    @property
    def depth(self) -> int:
        """Keys that wait to be looked at."""
        return sum(entry.dirty_since is not None for entry in self._entries.values())

    @property
    def oldest(self) -> float:
        """Seconds that the oldest mark has waited."""
        marks = [entry.dirty_since for entry in self._entries.values() if entry.dirty_since is not None]
        return time.monotonic() - min(marks) if marks else 0.0

    async def close(self) -> None:
        """No look begins any more; those under way are ended."""
        self._closed = True
        for entry in self._entries.values():
            if entry.timer is not None:
                entry.timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
