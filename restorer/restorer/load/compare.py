"""VerifyOnly: every record held against the row that the database has, and nothing written.

Each batch goes into a stage as for a merge; one query then counts the records whose row has the same content, other content,
or is missing. In the report: duplicate, conflict, rejected (reason NotInDatabase, or why it cannot be converted).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from restorer.database.account import TableAccount
from restorer.database.tasks import Task
from restorer.database.verify import Ask, known, row_count
from restorer.events import BatchLoaded, TableChanged
from restorer.load.batch import Batch, Batches, Outcome, PieceSource
from restorer.load.ladder import Ladder
from restorer.load.shaping import Shape
from restorer.load.staged import Line
from restorer.load.task_loader import advanced
from restorer.load.worker import Workbench
from restorer.model import Problem, TablePlan
from restorer.source import reader
from restorer.spec import RestoreSpec

MISSING = Problem("NotInDatabase", "", "", "", "no row has this record's key")


class CompareBench(Workbench):
    """Works through the tasks as a restore does, but only compares."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._ladders: dict[str, Ladder] = {}
        self._before: Ladder | None = None

    def load_one(self) -> bool:
        task = self.tasks.claim(self.session.conn)
        if task is None:
            return False
        plan, ladder = self._plans[task.table], self._comparing(task.table)
        if self._before is not None and self._before is not ladder:
            self._before.merger.let_go(self.session.conn)  # its stages, which each commit looks through
        self._before = ladder
        self.emit(TableChanged(task.table, "Loading"))
        converter = ladder.shaper.converter
        source = PieceSource(reader.pieces(plan.file, decoder=converter.decoder, line_decoder=converter.line_decoder))
        for batch in Batches(source, lambda: self.spec.load.batch_rows, self.spec.load.batch_bytes):
            task = self._compare(task, batch)
        if source.error is not None:
            self.tasks.fail(self.session.conn, task, source.error.line())
        else:
            self.tasks.advance(self.session.conn, task, task, done=True)
        return True

    def _comparing(self, table: str) -> Ladder:
        if table not in self._ladders:
            self._ladders[table] = self.ladder(table)
        return self._ladders[table]

    def _compare(self, task: Task, batch: Batch) -> Task:
        started, conn, ladder = time.monotonic(), self.session.conn, self._comparing(task.table)
        outcome = Outcome(level="Merge", rejects={}, deferred=[])
        others: dict[tuple[Shape, Shape], list[Line]] = {}
        names = ladder.shaper.columns
        with self.session.transaction(staged=True):
            self._against(ladder, 0, names, names, ladder.shaper.lines(batch, outcome, True, others), outcome)
            for number, ((brings, has), lines) in enumerate(others.items(), 1):
                self._against(ladder, number, brings, has, [lines], outcome)
            outcome.close(batch.records)
            new = advanced(task, batch, outcome, time.monotonic() - started)
            self.tasks.reject(conn, task.table, ((batch.record(i), p) for i, p in sorted(outcome.rejects.items())))
            self.tasks.advance(conn, task, new)
        size = new.next_offset - task.next_offset
        self.emit(
            BatchLoaded(
                task.table, "Merge", outcome.counters, size, time.monotonic() - started, 0, dict(outcome.reasons)
            )
        )
        return new

    def _against(
        self, ladder: Ladder, number: int, given: Shape, names: Shape, chunks: Iterable[list[Line]], outcome: Outcome
    ) -> None:
        stage = ladder.merger.stage(self.session.conn, given, number, keep=True)
        outcome.rejects |= stage.copy(names, chunks, isolate=True)
        same, different, missing = stage.compare()
        outcome.counters.duplicate += same
        outcome.counters.conflict += different
        outcome.rejects |= dict.fromkeys(missing, MISSING)


def checks(plans: tuple[TablePlan, ...], accounts: dict[str, TableAccount], spec: RestoreSpec) -> list[Ask]:
    """`content`: every record of the file has its row. `tableCount`: and the table has no others."""
    found = list[Ask]()
    for plan in plans:
        account = accounts[plan.name]
        found.append(known("content", plan.name, account.read, account.duplicate))
        if spec.verification.row_counts:
            found.append(partial(row_count, check="tableCount", plan=plan, expected=account.read))
    return found
