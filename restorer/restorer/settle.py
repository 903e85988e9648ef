"""Rows that waited for parents in their own cycle of foreign keys: all of them at once, to a fixpoint.

Everything that waits goes into one stage per table. What has no parent in a table nor in a stage is taken out, again and
again, until nothing more falls out; what is left goes in by ONE statement, an INSERT per table in its WITH clause:
foreign keys are checked at the end of the statement (PostgreSQL documentation, CREATE TABLE, NOT DEFERRABLE), so even two
rows that refer to each other get in. What fell out is rejected: its parents are nowhere.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import psycopg
from psycopg import sql

from .batch import Outcome
from .connection import Connection, kind_of
from .events import BatchLoaded, Emit
from .ladder import Ladder
from .ledger import Ledger
from .model import Problem, TablePlan
from .piece import Piece
from .session import Session
from .stage import Line, Stage
from .tasks import Tasks

_CHUNK = 1000
Shape = tuple[str, ...]


class Settler:
    """Settles one group of tables (a strongly connected component). Only the leader of a run does it."""

    def __init__(
        self, session: Session, ledger: Ledger, tasks: Tasks, ladder_of: Callable[[str], Ladder], emit: Emit
    ) -> None:
        self._session, self._ledger, self._tasks, self._emit = session, ledger, tasks, emit
        self._ladder_of, self._ladders = ladder_of, dict[str, Ladder]()

    def settle(self, plans: list[TablePlan]) -> None:
        """Loads what waits in these tables and lets the tables that depend on them start. One transaction."""
        self._session.retrying(lambda _: self._settle(plans), what="settling " + ", ".join(p.name for p in plans))

    def _settle(self, plans: list[TablePlan]) -> None:
        started = time.monotonic()
        events = []
        with self._session.transaction(staged=True) as conn:
            self._tasks.fence(conn)
            outcomes = self._load(conn, plans) if any(p.cyclic for p in plans) else {}
            for plan in plans:
                if outcome := outcomes.get(plan.name):
                    events.append(self._book(conn, plan, outcome, time.monotonic() - started))
            self._tasks.settled(conn, [p.name for p in plans])
        for event in events:
            self._emit(event)

    def _ladder(self, table: str) -> Ladder:
        if table not in self._ladders:
            self._ladders[table] = self._ladder_of(table)
        return self._ladders[table]

    # -- in the database -----------------------------------------------------------------------------------------------

    def _load(self, conn: Connection, plans: list[TablePlan]) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        stages: list[tuple[TablePlan, Stage]] = []
        for plan in plans:
            waiting = self._tasks.count_deferred(conn, plan.name)
            if waiting:
                outcomes[plan.name] = Outcome(level="Merge", rejects={}, deferred=[])
                outcomes[plan.name].counters.read = waiting
                stages += [(plan, s) for s in self._fill(conn, plan, len(stages), outcomes[plan.name])]
        every = [s for _, s in stages]
        for plan, stage in stages:
            outcomes[plan.name].rejects |= stage.screen()
        self._prune(stages, every, outcomes)
        for plan, stage in stages:
            ladder = self._ladder(plan.name)
            ladder.settle_keys(stage.keys(ladder.on_conflict), outcomes[plan.name])
        self._prune(stages, every, outcomes)
        try:
            with conn.transaction():
                updated = {id(s): self._ladder(p.name).update_existing(s) for p, s in stages}
                inserted = self._insert_together(conn, every)
            for plan, stage in stages:
                outcomes[plan.name].counters.updated += updated[id(stage)]
                outcomes[plan.name].counters.inserted += inserted[id(stage)]
        except psycopg.Error as error:
            if kind_of(error) != "record":
                raise
            self._one_by_one(conn, stages, outcomes)
        return outcomes

    def _prune(self, stages: list[tuple[TablePlan, Stage]], every: list[Stage], outcomes: dict[str, Outcome]) -> None:
        found = True
        while found:
            found = False
            for plan, stage in stages:
                if orphans := stage.inner_orphans(every):
                    outcomes[plan.name].rejects |= orphans
                    found = True

    def _insert_together(self, conn: Connection, stages: list[Stage]) -> dict[int, int]:
        """-> rows inserted by stage"""
        if not stages:
            return {}
        parts = [
            sql.SQL("i{} AS ({} RETURNING 1)").format(sql.SQL(str(n)), s.insert_clause()) for n, s in enumerate(stages)
        ]
        counts = [sql.SQL("(SELECT count(*) FROM i{})").format(sql.SQL(str(n))) for n in range(len(stages))]
        row = conn.execute(
            sql.SQL("WITH {} SELECT {}").format(sql.SQL(", ").join(parts), sql.SQL(", ").join(counts))
        ).fetchone()
        assert row is not None
        return {id(s): int(n) for s, n in zip(stages, row, strict=True)}

    def _one_by_one(
        self, conn: Connection, stages: list[tuple[TablePlan, Stage]], outcomes: dict[str, Outcome]
    ) -> None:
        """A row that a trigger (or the like) refuses spoils the one statement: then in halves, pass after pass, parents
        before children; rows that still wait when a pass moves nothing have lost their parents."""
        waiting: dict[int, dict[int, Problem]] = {}
        moved = True
        while moved:
            moved = False
            for plan, stage in stages:
                outcome, left = outcomes[plan.name], stage.ordinals()
                outcome.needed("Row")
                waiting[id(stage)] = {}
                inserted, updated = self._ladder(plan.name).halve(
                    conn, stage, left, outcome, waiting[id(stage)], keep=True
                )
                outcome.counters.inserted += inserted
                outcome.counters.updated += updated
                moved = moved or inserted + updated > 0
        for plan, stage in stages:
            outcomes[plan.name].rejects |= waiting[id(stage)]

    # -- records ---------------------------------------------------------------------------------------------------------

    def _fill(self, conn: Connection, plan: TablePlan, number: int, outcome: Outcome) -> list[Stage]:
        """Stages of one table, one per shape of record. The ordinal in the stage is the row's id in `deferred`."""
        ladder = self._ladder(plan.name)
        stages: dict[Shape, Stage] = {}
        for rows in self._tasks.deferred(conn, plan.name, _CHUNK):
            by_shape: dict[tuple[Shape, Shape], list[Line]] = {}
            for ident, record in rows:
                piece = Piece(
                    record.offset,
                    record.offset + len(record.raw),
                    record.ordinal,
                    record.raw,
                    spans=[(0, len(record.raw))],
                )
                ladder.line_of(piece, ident, outcome, by_shape)
            for (brings, has), lines in by_shape.items():
                if brings not in stages:
                    stages[brings] = ladder.stage(conn, brings, 1000 + number + len(stages))
                outcome.rejects |= stages[brings].copy(has, [lines], isolate=True)
        return list(stages.values())

    def _book(self, conn: Connection, plan: TablePlan, outcome: Outcome, seconds: float) -> BatchLoaded:
        waiting = outcome.counters.read
        outcome.close(waiting)
        idents = sorted(outcome.rejects)
        for at in range(0, len(idents), _CHUNK):
            found = self._tasks.deferred_records(conn, idents[at : at + _CHUNK])
            self._tasks.reject(conn, plan.name, [(found[i], outcome.rejects[i]) for i in idents[at : at + _CHUNK]])
        self._tasks.settle_counts(conn, plan.name, outcome, seconds)
        outcome.counters.read = 0  # they were read, and counted as read, by the batches that set them aside
        return BatchLoaded(
            plan.name,
            outcome.level,
            outcome.counters,
            0,
            seconds,
            -waiting,
            outcome.reasons(),
            dict(Counter(outcome.levels)),
        )
