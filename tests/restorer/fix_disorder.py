"""Segments of a file in every order that several workers could bring about, by one process."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from psycopg import sql
from restorer.database.ledger import Ledger
from restorer.database.tasks import Task
from restorer.load import leader, worker
from restorer.load.batch import Batch, Batches
from restorer.load.leader import Leader
from restorer.load.task_loader import Lost, TaskLoader

Disorder = Callable[[int], None]


@pytest.fixture
def disorder(monkeypatch: pytest.MonkeyPatch) -> Disorder:
    """Call it with a seed: files are cut every few records then, and the batches of all segments come in a random order."""
    order = random.Random(0)
    query, segments, load, step = Ledger.q, Leader._segments, TaskLoader.load, TaskLoader._load
    batches: dict[TaskLoader, Iterator[int]] = {}

    def any_task_first(ledger: Ledger, text: str) -> sql.Composed:
        mixed = f"ORDER BY b.position, hashint8(t.start_offset # {order.randrange(1 << 30)})"
        return query(ledger, text.replace("ORDER BY b.position, t.start_offset", mixed))

    def all_at_once(self: Leader) -> Iterator[str]:
        yield from list(segments(self))[-1:]

    def one_batch(self: TaskLoader, task: Task) -> None:
        batches[self] = itertools.count()
        load(self, task)

    def or_none(self: TaskLoader, task: Task, batch: Batch, following: Batches | None) -> Task:
        if following is not None and next(batches[self]):
            raise Lost
        return step(self, task, batch, following)

    monkeypatch.setattr(leader, "SEGMENT", 64)
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0)
    monkeypatch.setattr(Ledger, "q", any_task_first)
    monkeypatch.setattr(Leader, "_segments", all_at_once)
    monkeypatch.setattr(TaskLoader, "load", one_batch)
    monkeypatch.setattr(TaskLoader, "_load", or_none)
    return order.seed
