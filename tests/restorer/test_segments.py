"""A file that is loaded in segments side by side ends as if it had been loaded from its first record to its last."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fix_restore import Record, Restore
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql
from restorer.database.ledger import Ledger
from restorer.database.tasks import Task
from restorer.load import leader, worker
from restorer.load.batch import Batch, Batches
from restorer.load.leader import Leader
from restorer.load.task_loader import Lost, TaskLoader

SCHEMA = (
    "DROP TABLE IF EXISTS c, t",
    "CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE, n int DEFAULT 7 CHECK (n < 100))",
    "CREATE TABLE c (id int PRIMARY KEY, t_id int NOT NULL REFERENCES t)",
)


@pytest.fixture
def disorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
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


def both(at: Restore, disorder: Callable[[int], None], seed: int, there: list[Record], **options: Any) -> None:
    """Loads by one worker, and by the segments in disorder: what both leave must be the same."""
    ends = []
    for pods in (1, 2):
        at.schema(*SCHEMA)
        for record in there:
            at.db.execute("INSERT INTO t VALUES (%(id)s, %(slug)s, %(n)s)", record)
        disorder(seed)
        result = at.ok(load={"batch_rows": 2, "pods": pods}, **options)
        tasks = at.rows(
            "SELECT count(*) FROM dbrestore.tasks WHERE run = '%s' AND table_name = 't'" % result.run
        )
        ends.append(
            (
                at.rows("SELECT * FROM t ORDER BY id"),
                at.rows("SELECT * FROM c ORDER BY id"),
                result.counts("t"),
                result.counts("c"),
                result.rejects("t"),
                result.rejects("c"),
            )
        )
        for leftover in ("deferred", "waiting_keys", "origins"):
            assert at.value(f"SELECT count(*) FROM dbrestore.{leftover}") == 0
    assert ends[0] == ends[1]


RECORD = st.fixed_dictionaries(
    {"id": st.integers(1, 6), "slug": st.sampled_from([None, "a", "b", "c", "d"])},
    optional={"n": st.sampled_from([1, 2, 100, "x"])},
)


@pytest.mark.timeout(400)
@settings(max_examples=int(__import__("os").environ.get("N","60")), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(RECORD, min_size=8, max_size=24),
    there=st.lists(st.integers(1, 8), unique=True, max_size=2),
    policy=st.sampled_from(["Skip", "Reject"]),
    seed=st.integers(0, 1 << 20),
)
def test_segments_in_any_order_end_like_one_file(
    at: Restore, disorder: Callable[[int], None], records: list[Record], there: list[int], policy: str, seed: int
):
    at.file("t", records).file("c", [{"id": i, "t_id": i} for i in range(1, 9)])
    rows = [{"id": i, "slug": "abcdefgh"[i - 1], "n": 1} for i in there]
    both(at, disorder, seed, rows, on_conflict=policy)
