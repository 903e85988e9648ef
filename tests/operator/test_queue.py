"""What the queue keeps of those who mark: nothing. kopf's handlers mark, and their context holds the object of the event."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref

from restore_operator.queue import Queue


class Body:
    """Stands for the object of an event."""


_body: contextvars.ContextVar[Body] = contextvars.ContextVar("body")


def _mark_from_a_handler(queue: Queue[str], key: str) -> weakref.ref[Body]:
    body = Body()

    def handler() -> None:
        _body.set(body)
        queue.mark(key)

    contextvars.copy_context().run(handler)
    return weakref.ref(body)


def test_neither_a_look_that_waits_nor_the_next_one_keeps_the_markers_context() -> None:
    async def go() -> None:
        free = asyncio.Event()

        async def look(key: str) -> float | None:
            await free.wait()
            return 60.0

        queue: Queue[str] = Queue(look, concurrency=1, failed=lambda key, error: None)
        bodies = [_mark_from_a_handler(queue, f"k{n}") for n in range(5)]
        await asyncio.sleep(0)
        gc.collect()
        assert [body() for body in bodies] == [None] * 5  # one is looked at, four wait
        assert queue.depth == 4
        free.set()
        while queue.depth:
            await asyncio.sleep(0)
        gc.collect()
        assert all(body() is None for body in bodies)
        await queue.close()

    asyncio.run(go())
