"""Rows that waited: those of a file in segments by replay.py, those of a cycle of foreign keys all at once, to a fixpoint.

Everything that waits in a cycle goes into one stage per table. What has no parent in a table nor in a stage is taken out, again and
again, until nothing more falls out; what is left goes in by ONE statement, an INSERT per table in its WITH clause:
foreign keys are checked at the end of the statement (PostgreSQL documentation, CREATE TABLE, NOT DEFERRABLE), so even two
rows that refer to each other get in. What fell out is rejected: its parents are nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import msgspec
import psycopg

from restorer.database.connection import Connection, kind_of
from restorer.database.ledger import Ledger
from restorer.database.problems import SUPPRESSED, problem_of
from restorer.database.session import Session
from restorer.database.tasks import Tasks
from restorer.events import BatchLoaded, Emit, TableChanged
from restorer.load.batch import Outcome
from restorer.load.ladder import Ladder
from restorer.load.orphans import Graph, Node, prune
from restorer.load.replay import Replay
from restorer.load.stage import Stage, Suppressed, write_together
from restorer.load.vouching import without_triggers
from restorer.model import TablePlan
from restorer.plan import components

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
        """Loads what waits in these tables and lets the tables that depend on them start: a cycle in one transaction, what
        waits for its turn in the file in many. Leaves them as they are where they turn out not to be read to their end: a
        failover takes back what was told."""
        what = "settling " + ", ".join(p.name for p in plans)
        while not self._session.retrying(lambda _: self._settle(plans), what=what):
            for plan in plans:
                waits = partial(self._tasks.waiting.any, table=plan.name)
                if not plan.cyclic and self._session.retrying(waits, what=what):  # a ladder takes memory
                    self._replay(plan, plans)

    def _read(self, conn: Connection, plans: list[TablePlan]) -> bool:
        """Whether these tables still stand to be settled. Behind the fence."""
        unsettled = self._tasks.unsettled(conn, [p.name for p in plans])
        return all(unsettled.get(p.name, False) for p in plans)

    def _settle(self, plans: list[TablePlan]) -> bool:
        """-> False: there is something to replay first"""
        started = time.monotonic()
        with self._session.transaction(staged=True) as conn:
            self._ledger.fence(conn)
            if not self._read(conn, plans):
                return True  # not here
            if any(self._tasks.waiting.any(conn, p.name) for p in plans if not p.cyclic):
                return False
            outcomes = self._load(conn, [p for p in plans if p.cyclic])
            seconds = time.monotonic() - started
            for name, outcome in outcomes.items():
                self._tasks.settle_counts(conn, name, outcome, seconds)
            self._tasks.settled(conn, [p.name for p in plans])
        for name, outcome in outcomes.items():
            self._tell(name, outcome, seconds)
        for plan in plans:
            self._emit(TableChanged(plan.name, "Done"))
        return True

    def _replay(self, plan: TablePlan, plans: list[TablePlan]) -> None:
        """Rows that had to go are told with the records that they went for: a counter must not go down. Each step is on the
        disk before the next one, which goes by it."""
        replay, owed = Replay(self._ledger, self._tasks, self._ladder(plan.name)), Outcome()
        started = time.monotonic()

        def step(_: Connection) -> Outcome | None:
            with self._session.transaction(staged=True, durable=True) as conn:
                self._ledger.fence(conn)
                return replay.step(conn) if self._read(conn, plans) else None

        retrying = partial(self._session.retrying, step, what=f"table {plan.name}", on_transient=replay.begin_again)
        while (outcome := retrying()) is not None:
            owed.absorb(outcome)
            if outcome.counters.read:
                self._tell(plan.name, owed, time.monotonic() - started)
                owed, started = Outcome(), time.monotonic()

    def _tell(self, table: str, outcome: Outcome, seconds: float) -> None:
        """The records were read, and counted as read, by the batches that set them aside."""
        counters = msgspec.structs.replace(outcome.counters, read=0)
        waiting, reasons, levels = (
            len(outcome.deferred) - outcome.counters.read,
            dict(outcome.reasons),
            dict(outcome.levels),
        )
        self._emit(BatchLoaded(table, outcome.level, counters, 0, seconds, waiting, reasons, levels))

    def _ladder(self, table: str) -> Ladder:
        if table not in self._ladders:
            self._ladders[table] = self._ladder_of(table)
        return self._ladders[table]

    # -- in the database -----------------------------------------------------------------------------------------------

    def _load(self, conn: Connection, plans: list[TablePlan]) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        stages: list[tuple[TablePlan, Stage]] = []
        for plan in plans:
            waiting = self._tasks.waiting.count(conn, plan.name)
            if waiting:
                outcomes[plan.name] = Outcome(level="Merge", rejects={}, deferred=[])
                outcomes[plan.name].counters.read = waiting
                stages += [(plan, s) for s in self._fill(conn, plan, len(stages), outcomes[plan.name])]
        if not outcomes:
            return outcomes
        every = [s for _, s in stages]
        for plan, stage in stages:
            outcomes[plan.name].rejects |= stage.screen()
        self._prune(stages, outcomes)
        for plan, stage in stages:
            ladder = self._ladder(plan.name)
            ladder.merger.settle_keys(stage.existing(ladder.on_conflict), outcomes[plan.name])
        try:
            with conn.transaction():
                done = {name: Outcome(rejects={}, deferred=[]) for name in outcomes}
                for plan, stage in stages:
                    ladder = self._ladder(plan.name)
                    ladder.merger.settle_keys(stage.inside(ladder.on_conflict), done[plan.name])
                self._prune(stages, done)
                vouching = self._may_vouch(conn, stages)
                with without_triggers(conn) if vouching else nullcontext():
                    self._write(conn, stages, done, {})
                if vouching and any(s.parentless() for s in every):  # a parent that is in no stage has gone just now
                    raise Suppressed
            for name, outcome in done.items():
                outcomes[name].absorb(outcome)
        except (psycopg.Error, Suppressed) as error:
            if isinstance(error, psycopg.Error) and kind_of(error) != "record":
                raise
            self._by_units(conn, stages, outcomes)
        for stage in every:
            stage.drop()
        for name, outcome in outcomes.items():
            outcome.close(outcome.counters.read)
            self._reject(conn, name, outcome)
        return outcomes

    def _may_vouch(self, conn: Connection, stages: list[tuple[TablePlan, Stage]]) -> bool:
        """Whether the stages, asked again behind the one statement, may stand for the triggers of all foreign keys."""
        rows = sum(stage.size for _, stage in stages)
        ladders = [self._ladder(plan.name) for plan, _ in stages]
        return all(ladder.on_conflict != "Update" for ladder in ladders) and all(
            ladder.merger.may_vouch_afterwards(conn, stage, rows, stage.given)
            for ladder, (_, stage) in zip(ladders, stages, strict=True)
        )

    def _prune(self, stages: list[tuple[TablePlan, Stage]], outcomes: dict[str, Outcome]) -> None:
        for (plan, _), orphans in zip(stages, prune([s for _, s in stages]), strict=True):
            outcomes[plan.name].rejects |= orphans

    def _write(
        self,
        conn: Connection,
        stages: list[tuple[TablePlan, Stage]],
        outcomes: dict[str, Outcome],
        which: dict[int, list[int]],
    ) -> None:
        """Updates what is there and inserts the rest by one statement: all rows of `stages`, or (`which`: number of the
        stage -> ordinals) some. Raises Suppressed when fewer went in."""
        parts: list[tuple[TablePlan, Stage, list[int] | None]] = [
            (plan, stage, which.get(n)) for n, (plan, stage) in enumerate(stages) if not which or n in which
        ]
        if not parts:
            return
        update = any(self._ladder(plan.name).on_conflict == "Update" for plan, _, _ in parts)
        written = write_together(conn, [(stage, some) for _, stage, some in parts], update=update)
        for (plan, stage, some), (inserted, updated) in zip(parts, written, strict=True):
            if inserted + updated != (stage.count() if some is None else len(some)):
                raise Suppressed
            outcomes[plan.name].counters.inserted += inserted
            outcomes[plan.name].counters.updated += updated

    def _by_units(self, conn: Connection, stages: list[tuple[TablePlan, Stage]], outcomes: dict[str, Outcome]) -> None:
        """A row that a trigger (or the like) refuses spoils the one statement. A unit is a row, or rows that refer to each
        other in a ring and can only go in together; units in halves, parents before children, until the bad ones stand
        alone. A child of a bad one has lost its parent then."""
        every = [s for _, s in stages]
        graph = Graph(every)
        parents = graph.parents()
        edges = {
            (n, ordinal): parents.get((n, ordinal), set()) for n, s in enumerate(every) for ordinal in s.ordinals()
        }
        units = components(edges)
        for outcome in outcomes.values():
            outcome.needed("Row")
        work = [(0, len(units))]
        while work:
            start, stop = work.pop()
            if start == stop:
                continue
            which: dict[int, list[int]] = {}
            for number, ordinal in (row for unit in units[start:stop] for row in unit):
                which.setdefault(number, []).append(ordinal)
            try:
                with conn.transaction():
                    done = {name: Outcome(rejects={}, deferred=[]) for name in outcomes}
                    self._write(conn, stages, done, which)
                    for number, ordinals in which.items():
                        every[number].remove(ordinals)
                for name, outcome in done.items():
                    outcome.levels["Row"] += outcome.counters.inserted + outcome.counters.updated
                    outcomes[name].absorb(outcome)
            except (psycopg.Error, Suppressed) as error:
                if isinstance(error, psycopg.Error) and kind_of(error) != "record":
                    raise
                if stop - start > 1:
                    middle = (start + stop) // 2
                    work += [(middle, stop), (start, middle)]
                    continue
                self._blame(units[start], error, stages, outcomes)

    def _blame(
        self,
        unit: list[Node],
        error: psycopg.Error | Suppressed,
        stages: list[tuple[TablePlan, Stage]],
        outcomes: dict[str, Outcome],
    ) -> None:
        for number, ordinal in unit:
            plan, stage = stages[number]
            outcome = outcomes[plan.name]
            self._ladder(plan.name).merger.blame(ordinal, error, stage, outcome)
            for lost in outcome.deferred:  # what it waited for never came
                outcome.rejects[lost] = problem_of(error) if isinstance(error, psycopg.Error) else SUPPRESSED
            outcome.deferred.clear()
            stage.remove([ordinal])

    def _fill(self, conn: Connection, plan: TablePlan, number: int, outcome: Outcome) -> list[Stage]:
        """Stages of one table, one per shape of record. The ordinal in the stage is the record's own."""
        ladder = self._ladder(plan.name)
        stages: dict[Shape, Stage] = {}
        for rows in self._tasks.waiting.chunks(conn, plan.name, _CHUNK):
            for (brings, has), lines in ladder.shaper.of_records(rows, outcome).items():
                if brings not in stages:
                    stages[brings] = ladder.merger.stage(conn, brings, 1000 + number + len(stages))
                outcome.rejects |= stages[brings].copy(has, [lines], isolate=True)
        return list(stages.values())

    def _reject(self, conn: Connection, table: str, outcome: Outcome) -> None:
        ordinals = sorted(outcome.rejects)
        for at in range(0, len(ordinals), _CHUNK):
            for records in self._tasks.waiting.chunks(conn, table, _CHUNK, ordinals[at : at + _CHUNK]):
                self._tasks.reject(conn, table, [(r, outcome.rejects[r.ordinal]) for r in records])
