"""Statements that do not wait for each other (ANALYZE, the checks after a load), over several sessions side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from restorer.database.connection import Connection
from restorer.database.session import Session

T = TypeVar("T")
_LOOK_SECONDS = 0.02

Step = tuple[str, Callable[[Connection], T]]  # (what it is, for people; the step)


def abreast(session: Session, most: int, steps: Sequence[Step[T]]) -> list[T]:
    """Runs all `steps`, each tried again as `Session.retrying` does: one after the other in `session`, or up to `most` at
    once in sessions of their own. -> what they gave, in their order. The first error ends the others' statements and is
    raised; so does an interruption."""
    if min(most, len(steps)) < 2:
        return [session.retrying(run, what=what) for what, run in steps]
    done: dict[int, T] = {}
    errors: list[BaseException] = []
    todo, lock = iter(enumerate(steps)), threading.Lock()
    ended = threading.Semaphore(0)

    def next_step() -> tuple[int, Step[T]] | None:
        with lock:
            return None if errors else next(todo, None)

    def work(own: Session) -> None:
        try:
            while (step := next_step()) is not None:
                number, (what, run) = step
                done[number] = own.retrying(run, what=what)
        except BaseException as error:
            errors.append(error)
        finally:
            try:
                own.close()
            finally:
                ended.release()

    sessions = [session.another() for _ in range(min(most, len(steps)))]
    threads = [threading.Thread(target=work, args=(own,), daemon=True) for own in sessions]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            ended.acquire()
            if errors:
                break
    finally:
        for own, thread in zip(sessions, threads, strict=True):
            while thread.is_alive():
                own.cancel()
                thread.join(_LOOK_SECONDS)
    if errors:
        raise errors[0]
    return [done[number] for number in range(len(steps))]
