"""Segments of a file in every order that several workers could bring about, by one process."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from fix_restore import Restore
from psycopg import sql
from restorer.database import tasks
from restorer.database.ledger import Ledger
from restorer.database.tasks import Task
from restorer.load import leader, worker
from restorer.load.batch import Batch, Batches
from restorer.load.leader import Leader
from restorer.load.task_loader import Lost, TaskLoader
from restorer.load.worker import Workbench

Disorder = Callable[[int], None]
ORDER = "b.position, t.stop_offset IS NOT NULL, t.start_offset"  # in which tasks are claimed
assert ORDER in tasks._CLAIM  # else none of the orders here would come about


@pytest.fixture
def disorder(monkeypatch: pytest.MonkeyPatch) -> Disorder:
    """Call it with a seed: files are cut every few records then, and the batches of all segments come in a random order."""
    order = random.Random(0)
    query, load, step = Ledger.q, TaskLoader.load, TaskLoader._load
    batches: dict[TaskLoader, Iterator[int]] = {}

    def any_task_first(ledger: Ledger, text: str) -> sql.Composed:
        mixed = f"b.position, hashint8(t.start_offset # {order.randrange(1 << 30)})"
        return query(ledger, text.replace(ORDER, mixed))

    def one_batch(self: TaskLoader, task: Task) -> None:
        batches[self] = itertools.count()
        load(self, task)

    def or_none(self: TaskLoader, task: Task, batch: Batch, following: Batches | None) -> Task:
        if following is not None and next(batches[self]):
            raise Lost
        return step(self, task, batch, following)

    monkeypatch.setattr(leader, "SEGMENT", 64)
    monkeypatch.setattr(leader, "LAST_SEGMENT", 0)
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0)
    monkeypatch.setattr(Ledger, "q", any_task_first)
    at_once(monkeypatch)
    monkeypatch.setattr(TaskLoader, "load", one_batch)
    monkeypatch.setattr(TaskLoader, "_load", or_none)
    return order.seed


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All segments are cut before the first one is loaded."""
    segments: Callable[[Leader], Iterator[str]] = Leader._segments
    monkeypatch.setattr(Leader, "_segments", lambda self: iter(list(segments(self))[-1:]))


def second_worker(bench: Workbench) -> bool:
    """Another worker of the same run loads the first task that is free, if there is one."""
    ledger, session = Ledger(bench.ledger.schema, bench.ledger.run), bench.session.another()
    ledger.register(session.conn)
    found = Workbench(session, ledger, bench.spec, tuple(bench._plans.values()), bench.emit).load_one()
    session.close()
    return found


def forwards(monkeypatch: pytest.MonkeyPatch, segment: int) -> None:
    """The first segment is loaded first, the last one last. `segment`: bytes of each."""
    _ordered(monkeypatch, segment, "b.position, t.start_offset")


def backwards(monkeypatch: pytest.MonkeyPatch, segment: int) -> None:
    """The last segment is loaded first. `segment`: bytes of each."""
    _ordered(monkeypatch, segment, "b.position, t.start_offset DESC")


def _ordered(monkeypatch: pytest.MonkeyPatch, segment: int, order: str) -> None:
    at_once(monkeypatch)
    monkeypatch.setattr(leader, "SEGMENT", segment)
    monkeypatch.setattr(leader, "LAST_SEGMENT", 0)
    query = Ledger.q
    monkeypatch.setattr(Ledger, "q", lambda ledger, text: query(ledger, text.replace(ORDER, order)))


def same(
    at: Restore, disorder: Disorder, schema: Sequence[str], *, cut: bool = True, seeds: Sequence[int] = range(6),
    batch: int = 2, show: Sequence[str] = ("SELECT t.*::text FROM t ORDER BY t.*::text",), **options: Any,
) -> Any:  # fmt: skip
    """One worker, and the segments of table t in an order for each of `seeds`, leave the same. `cut`: whether there are
    segments. -> (rows of each query of `show`, counts and rejects of each table)"""
    ends: list[Any] = []
    for pods, seed in [(1, 0), *((2, seed) for seed in seeds)]:
        at.schema("DROP TABLE IF EXISTS c, t, log CASCADE", *schema)
        disorder(seed)
        result = at.ok(load={"batch_rows": batch, "pods": pods}, **options)
        tasks = at.value(f"SELECT count(*) FROM dbrestore.tasks WHERE run = '{result.run}' AND table_name = 't'")
        assert (tasks > 1) == (cut and pods > 1)
        assert not [w for w in result.report.warnings if "first" in w]
        tables = [(name, result.counts(name), result.rejects(name)) for name in sorted(result.tables)]
        ends.append(([at.rows(query) for query in show], tables))
        for leftover in ("deferred", "waiting_keys", "origins"):
            assert at.value(f"SELECT count(*) FROM dbrestore.{leftover}") == 0
        assert ends[-1] == ends[0], seed
    return ends[0]
