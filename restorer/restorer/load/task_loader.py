"""Loads one task: reader -> batches -> ladder -> ledger, one transaction a batch, exactly once.

A batch commits together with the compare-and-swap of its task. When the answer to a COMMIT is lost, the ledger says
whether it went through. A task that is not ours any more (its lease ran out, somebody else went on with it) is let go.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import msgspec
import psycopg

from restorer.database.connection import Connection, never_connected
from restorer.database.message import COMMIT
from restorer.database.occupied import occupied
from restorer.database.session import Session, rollback
from restorer.database.tasks import Task, Tasks, counted
from restorer.errors import LoadFailed
from restorer.events import BatchLoaded, Emit, Explained, TableChanged
from restorer.load.batch import Batch, Batches, Outcome, PieceSource
from restorer.load.ladder import Crowded, Ladder
from restorer.model import TablePlan
from restorer.report import Counters
from restorer.source import reader
from restorer.spec import RestoreSpec

_TIMEOUTS = ("57014", "55P03", "25P04")
_GOOD_BATCHES = 10  # after so many the batch doubles again, up to what the spec says


class Lost(Exception):
    """The task is not ours any more; nothing of the open batch was kept."""


class TaskLoader:
    """Loads tasks of one table. Kept over several tasks (segments), so that the ladder remembers."""

    def __init__(
        self, session: Session, tasks: Tasks, plan: TablePlan, ladder: Ladder, spec: RestoreSpec, emit: Emit
    ) -> None:
        self._session, self._tasks, self._plan, self._ladder = session, tasks, plan, ladder
        self._spec, self._emit = spec, emit
        self._rows = spec.load.batch_rows
        self._good = 0
        self._json_nulls = 0

    def load(self, task: Task) -> None:
        """Loads the task to its end. Raises Lost, LoadFailed (reject limit, what cannot be retried), Unavailable."""
        self._emit(TableChanged(task.table, "Loading"))
        source = PieceSource(
            reader.pieces(
                self._plan.file,
                decoder=self._ladder.shaper.converter.decoder,
                line_decoder=self._ladder.shaper.converter.line_decoder,
                start=task.next_offset,
                ordinal=task.next_ordinal,
                stop=task.stop,
            )
        )
        batches = Batches(source, lambda: self._rows, self._spec.load.batch_bytes)
        try:
            for batch in batches:
                task = self._load(task, batch, batches)
        finally:
            self._session.nothing_ahead()
        if source.error is not None:
            self._fail(task, source.error)
        else:
            self._session.retrying(lambda conn: self._finish(conn, task), what=f"table {task.table}")
            if task.deferred:
                self._emit(TableChanged(task.table, "Deferred"))

    def let_go(self) -> None:
        """Another table's turn."""
        self._session.retrying(self._ladder.merger.let_go, what="temporary tables")

    def _fail(self, task: Task, error: LoadFailed) -> None:
        fail = partial(self._tasks.fail, task=task, error=error.line())
        if not self._session.retrying(fail, what=f"table {task.table}"):
            raise Lost
        self._emit(TableChanged(task.table, "Failed", error.line()))

    def _finish(self, conn: Connection, task: Task) -> None:
        if self._json_nulls:
            words = f"{self._plan.name}: {self._json_nulls:,} nulls stored as JSON null, as their columns are NOT NULL"
            self._tasks.warn(conn, words)
            self._json_nulls = 0
        if not self._tasks.advance(conn, task, task, done=True) and not self._tasks.is_done(conn, task):
            raise Lost

    def _load(self, task: Task, batch: Batch, following: Batches | None) -> Task:
        """One batch, in halves when the server takes too long over it, or it is too much for one transaction.
        -> the task as it stands then"""
        started = time.monotonic()
        failed = timed_out = False
        broken = 0

        def note(error: psycopg.Error) -> None:
            """A session that the server ends while it is sent a batch breaks without a word: twice, and it counts as too slow."""
            nonlocal failed, timed_out, broken
            broken += error.sqlstate is None and not never_connected(error)
            failed, timed_out = True, timed_out or error.sqlstate in _TIMEOUTS or broken > 1

        def step(conn: Connection) -> tuple[Task, Outcome, tuple[int, int]] | None:
            if failed:
                if (now := self._tasks.current(conn, task)) is None:
                    raise Lost
                if now.next_offset == batch.end:
                    return now, Outcome(), (0, 0)  # the commit whose answer was lost did go through
                if now.next_offset != task.next_offset:
                    raise Lost  # the server crashed, and took commits back that it had answered: they go again
            if timed_out and batch.records > 1:
                return None
            try:
                return self._commit(conn, task, batch, started, following)
            except Crowded:
                return None

        done = self._session.retrying(step, what=f"table {task.table}", on_transient=note)
        if done is None:
            self._rows, self._good = max(1, min(self._rows, batch.records) // 2), 0
            batch.fill()
            for half in batch.halves():
                task = self._load(task, half, None)
            return task
        task, outcome, so_far = done
        self._json_nulls += outcome.json_nulls
        self._good += 1
        if self._good >= _GOOD_BATCHES and self._rows < self._spec.load.batch_rows:
            self._rows, self._good = min(self._rows * 2, self._spec.load.batch_rows), 0
        if outcome.counters.rejected:
            check_limit(self._spec, *so_far, final=False)
        return task

    def _commit(
        self, conn: Connection, task: Task, batch: Batch, started: float, following: Batches | None
    ) -> tuple[Task, Outcome, tuple[int, int]]:
        """-> the task then, what became of the batch, and how many records are (read, rejected) by now, where it rejected any"""
        so_far = (0, 0)
        try:
            outcome = self._ladder.load(conn, batch, self._session.begin, rollback, following, task)
            seconds = time.monotonic() - started
            new = advanced(task, batch, outcome, seconds)
            ahead = self._session.ahead(conn, self._ladder.staged) if following and following.more() else []
            with occupied(conn, self._ladder.meanwhile(following)):
                # Before anything else goes into the ledger: another worker that took the task may have written it there already.
                if not outcome.rejects and not outcome.deferred:
                    ours = self._tasks.commit(conn, task, new, ahead, outcome.origin)
                elif ours := self._tasks.advance(conn, task, new, origin=outcome.origin):
                    self._write_down(conn, task, batch, outcome)
                    so_far = self._tasks.read_and_rejected(conn, [COMMIT, *ahead])
            if not ours:
                rollback(conn)
                self._tasks.refuse_ended(conn)
                raise Lost
        except BaseException:
            rollback(conn)
            raise
        self._emit(
            BatchLoaded(
                task.table, outcome.level, outcome.counters, new.next_offset - task.next_offset, seconds,
                len(outcome.deferred), dict(outcome.reasons), dict(outcome.levels),
            )
        )  # fmt: skip
        return new, outcome, so_far

    def _write_down(self, conn: Connection, task: Task, batch: Batch, outcome: Outcome) -> None:
        if outcome.rejects:
            self._tasks.reject(conn, task.table, ((batch.record(i), p) for i, p in sorted(outcome.rejects.items())))
        if outcome.deferred:
            waiting = (batch.record(i) for i in sorted(outcome.deferred))
            self._tasks.waiting.add(conn, task.id, task.table, waiting, outcome.held)


def check_limit(spec: RestoreSpec, read: int, rejected: int, *, final: bool) -> None:
    """Raises LoadFailed (RejectLimitExceeded) when more records were rejected than the spec allows."""
    if spec.rejects.exceeded(rejected, read, final=final):
        limit = f"{spec.rejects.limit:,}" if spec.rejects.limit is not None else f"{spec.rejects.percent} %"
        are = {"DryRun": "would be rejected", "VerifyOnly": "are bad, or not there"}.get(spec.mode, "were rejected")
        kept = "see `restorer rejects list`; what is loaded stays"
        raise LoadFailed(
            f"{rejected:,} of {read:,} records {are}, more than the limit of {limit}",
            kept if spec.mode == "Apply" else "the report has the first ones",
            reason="RejectLimitExceeded",
        )


def advanced(task: Task, batch: Batch, outcome: Outcome, seconds: float) -> Task:
    """The task after this batch."""
    return msgspec.structs.replace(
        task,
        next_offset=batch.end,
        next_ordinal=batch.next_ordinal,
        counters=added(task.counters, outcome.counters),
        deferred=task.deferred + len(outcome.deferred),
        batches=counted(task.batches, {outcome.level: 1}),
        records=counted(task.records, outcome.levels),
        seconds=task.seconds + seconds,
    )


def added(a: Counters, b: Counters) -> Counters:
    return Counters(*(getattr(a, f) + getattr(b, f) for f in Counters.__struct_fields__))


def explainer(emit: Emit, table: str) -> Callable[[str], None]:
    return lambda message: emit(Explained(message, table))
