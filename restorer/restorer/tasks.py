"""Tasks in the ledger: claiming them, and moving them on together with the rows they tell of.

`Tasks` is the ledger's side of loading. `ScratchTasks` is its sibling for runs that leave nothing behind (DryRun,
VerifyOnly): the same methods, counted in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec
from psycopg.types.json import Jsonb

from .connection import Connection
from .ledger import Ledger
from .model import Problem, TablePlan
from .report import Counters, RejectSample

LEVELS = ("Copy", "Exact", "Merge", "Row", "Reject")


class Task(msgspec.Struct):
    """A file or a segment of it, and how far it is. Figures are totals since the run began."""

    id: int
    table: str
    stop: int | None
    next_offset: int
    next_ordinal: int
    counters: Counters = msgspec.field(default_factory=Counters)
    deferred: int = 0
    batches: dict[str, int] = {}
    records: dict[str, int] = {}
    seconds: float = 0.0


class Record(msgspec.Struct, frozen=True):
    """A record set aside: its place in the file and its bytes as they were."""

    ordinal: int
    offset: int
    raw: bytes


class Tasks(Protocol):
    def claim(self, conn: Connection) -> Task | None: ...
    def advance(self, conn: Connection, old: Task, new: Task, *, done: bool = False) -> bool: ...
    def current(self, conn: Connection, task: Task) -> Task | None: ...
    def fail(self, conn: Connection, task: Task, error: str) -> None: ...
    def reject(self, conn: Connection, table: str, rejects: Iterable[tuple[Record, Problem]]) -> None: ...
    def defer(self, conn: Connection, task: Task, records: Iterable[Record]) -> None: ...
    def read_and_rejected(self, conn: Connection) -> tuple[int, int]: ...


_TASK = "id, table_name, stop_offset, next_offset, next_ordinal, read, inserted, updated, duplicate, conflict, rejected, deferred, batches, records, seconds"


def _task(row: tuple[Any, ...]) -> Task:
    return Task(*row[:5], Counters(*row[5:11]), *row[11:])


class LedgerTasks:
    """The tasks of one run, for one owner. Every method but `claim` and `current` is called inside the batch's transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._q = ledger.q

    def claim(self, conn: Connection) -> Task | None:
        """The first task (in the order of the plan) that nobody alive works on and whose parents are settled; None when
        there is none right now."""
        self._ledger.release_tasks_of_the_dead(conn)
        row = conn.execute(
            self._q(
                "UPDATE {tasks} SET owner = %s WHERE id = (SELECT t.id FROM {tasks} t JOIN {tables} b ON b.run = t.run AND b.name = t.table_name "
                "WHERE t.run = %s AND t.state = 'Ready' AND (t.owner IS NULL OR t.owner = %s OR NOT EXISTS (SELECT FROM {owners} o WHERE o.owner = t.owner)) "
                "AND NOT EXISTS (SELECT FROM {tables} p WHERE p.run = t.run AND p.grp = ANY (b.after) AND NOT p.settled) "
                "ORDER BY b.position, t.start_offset LIMIT 1 FOR UPDATE OF t SKIP LOCKED) RETURNING " + _TASK
            ),
            (self._ledger.owner, self._ledger.run, self._ledger.owner),
        ).fetchone()
        return _task(row) if row else None

    def advance(self, conn: Connection, old: Task, new: Task, *, done: bool = False) -> bool:
        """The compare-and-swap. False: the task, the target or the run is not ours any more, and nothing may be committed.

        The target's row is locked (shared) to the end of the transaction: whoever takes the target waits for this commit.
        """
        c = new.counters
        cursor = conn.execute(
            self._q(
                "WITH held AS MATERIALIZED (SELECT FROM {target} WHERE run = %s FOR SHARE) "
                "UPDATE {tasks} SET next_offset = %s, next_ordinal = %s, read = %s, inserted = %s, updated = %s, duplicate = %s, conflict = %s, "
                "rejected = %s, deferred = %s, batches = %s, records = %s, seconds = %s, state = CASE WHEN %s THEN 'Done' ELSE state END "
                "WHERE id = %s AND owner = %s AND next_offset = %s AND state = 'Ready' AND EXISTS (SELECT FROM held) "
                "AND EXISTS (SELECT FROM {runs} r WHERE r.run = {tasks}.run AND r.state = 'Running')"
            ),
            (
                self._ledger.run, new.next_offset, new.next_ordinal, c.read, c.inserted, c.updated, c.duplicate, c.conflict, c.rejected,
                new.deferred, Jsonb(new.batches), Jsonb(new.records), new.seconds, done, old.id, self._ledger.owner, old.next_offset,
            ),
        )  # fmt: skip
        return cursor.rowcount == 1

    def current(self, conn: Connection, task: Task) -> Task | None:
        """The task as it stands, after a COMMIT whose answer was lost. None: it is not ours any more."""
        row = conn.execute(
            self._q("SELECT " + _TASK + " FROM {tasks} WHERE id = %s AND owner = %s"), (task.id, self._ledger.owner)
        ).fetchone()
        return _task(row) if row else None

    def fail(self, conn: Connection, task: Task, error: str) -> None:
        with conn.transaction():
            conn.execute(self._q("UPDATE {tasks} SET state = 'Failed' WHERE id = %s AND owner = %s"), (task.id, self._ledger.owner))
            conn.execute(self._q("UPDATE {tables} SET error = %s WHERE run = %s AND name = %s"), (error, self._ledger.run, task.table))

    def reject(self, conn: Connection, table: str, rejects: Iterable[tuple[Record, Problem]]) -> None:
        with conn.cursor() as cur:
            copy = self._q(
                "COPY {rejects} (run, table_name, ordinal, byte_offset, record, reason, sqlstate, constraint_name, column_name, message) FROM STDIN"
            )
            with cur.copy(copy) as out:
                for r, p in rejects:
                    out.write_row(
                        (self._ledger.run, table, r.ordinal, r.offset, r.raw, p.reason, p.sqlstate, p.constraint, p.column, p.message)
                    )

    def defer(self, conn: Connection, task: Task, records: Iterable[Record]) -> None:
        with conn.cursor() as cur:
            with cur.copy(self._q("COPY {deferred} (run, task, table_name, ordinal, byte_offset, record) FROM STDIN")) as out:
                for r in records:
                    out.write_row((self._ledger.run, task.id, task.table, r.ordinal, r.offset, r.raw))

    def read_and_rejected(self, conn: Connection) -> tuple[int, int]:
        row = conn.execute(
            self._q("SELECT COALESCE(sum(read), 0)::bigint, COALESCE(sum(rejected), 0)::bigint FROM {tasks} WHERE run = %s"), (self._ledger.run,)
        ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])


class ScratchTasks:
    """Tasks of a run that leaves nothing behind: one process, counted in memory, a few rejects kept by their place."""

    def __init__(self, plans: Iterable[TablePlan], sample: int = 5) -> None:
        self.tasks = {p.name: Task(i, p.name, None, 0, 1) for i, p in enumerate(plans)}
        self.errors: dict[str, str] = {}
        self.reasons: dict[str, int] = {}
        self.sample: list[RejectSample] = []
        self.deferred: dict[str, list[Record]] = {}
        self.done: set[str] = set()
        self._sample = sample

    def claim(self, conn: Connection) -> Task | None:
        return next((t for t in self.tasks.values() if t.table not in self.done | self.errors.keys()), None)

    def advance(self, conn: Connection, old: Task, new: Task, *, done: bool = False) -> bool:
        self.tasks[old.table] = new
        if done:
            self.done.add(old.table)
        return True

    def current(self, conn: Connection, task: Task) -> Task | None:
        return self.tasks[task.table]

    def fail(self, conn: Connection, task: Task, error: str) -> None:
        self.errors[task.table] = error

    def reject(self, conn: Connection, table: str, rejects: Iterable[tuple[Record, Problem]]) -> None:
        for record, p in rejects:
            self.reasons[p.reason] = self.reasons.get(p.reason, 0) + 1
            if len(self.sample) < self._sample:
                self.sample.append(RejectSample(table, record.ordinal, p.reason, p.sqlstate, p.constraint))

    def defer(self, conn: Connection, task: Task, records: Iterable[Record]) -> None:
        self.deferred.setdefault(task.table, []).extend(records)

    def read_and_rejected(self, conn: Connection) -> tuple[int, int]:
        counters = [t.counters for t in self.tasks.values()]
        return sum(c.read for c in counters), sum(c.rejected for c in counters)
