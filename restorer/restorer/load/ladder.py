"""One batch down the ladder: Copy -> Exact -> Merge -> Row -> Reject, inside the caller's transaction.

Copy   verbatim rows (and, one by one, exact rows where a record needs it) straight into the table; what the server refuses
       by itself the converter looks for only after it was refused once
Exact  after a conversion error: every record converted by its column's type, then COPY again
Merge  after a conflict, or where rows are there already. First by a probe: set queries over keys and checked columns say
       which rows are in the way, the others go by COPY all the same (sifting.py). Where that does not serve: all rows into a
       temporary table, set queries say who can go in (merging.py)
Row    what set queries cannot foresee (triggers, exclusion constraints, expression indexes): found by halving
Reject the record and its reason go to the ledger; the rest is loaded

Good rows never pay for bad neighbours twice: the next batch starts on the rung that the last ones needed (experience.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import chain

import psycopg
from psycopg import sql

from restorer.convert.field import unquoted
from restorer.database.connection import Connection, kind_of
from restorer.database.copying import copying
from restorer.database.occupied import Work, occupied
from restorer.database.origins import Origin, Origins
from restorer.database.relation import Relations, columns
from restorer.database.tasks import Task
from restorer.database.waiting import Waiting
from restorer.load.asking import Unanswered
from restorer.load.batch import Batch, Batches, Convert, Outcome
from restorer.load.contest import all_seen
from restorer.load.experience import Experience, Prior, Way
from restorer.load.feeding import Feeder, send
from restorer.load.merging import Explain, Merger, Mixed
from restorer.load.parents import Orphaned, Parents, parent_keys
from restorer.load.probing import Probing
from restorer.load.shaping import Others, Shape, Shaper, keeping
from restorer.load.sifting import Sifted, probe_columns
from restorer.load.stage import Stage, Suppressed
from restorer.load.staged import COPY_OPTIONS, Line
from restorer.load.vouching import without_triggers
from restorer.model import TablePlan

_STAGES = 500  # in one transaction; a server with PostgreSQL's defaults has locks for some 3,000
_ALARMS = 3  # batches of a table that had to go twice because its keys are not spelled as they are stored


class Crowded(Exception):
    """The batch needs more temporary tables than one transaction should have: each keeps its locks to the end, and a server
    has room for so many (max_locks_per_transaction). Halves of it, each in a transaction of its own, need fewer."""


class Ladder:
    """The ladder for one table. Not shared between threads. `begin` and `rollback` are the caller's transaction."""

    def __init__(
        self,
        plan: TablePlan,
        relations: Relations,
        on_conflict: str,
        *,
        inner: frozenset[str],
        staged: bool,
        always_staged: bool = False,
        home: str = "",
        waiting: Waiting | None = None,
        origins: Origins | None = None,
        prior: Prior | None = None,
        explain: Explain = lambda _: None,
    ) -> None:
        """`staged`: rows may be there already, so start at Merge. `always_staged`: never leave it (a dry run: only the set
        queries see foreign keys). `prior`: what the tables before were like. For the others see Merger."""
        if on_conflict == "Update":
            plan = keeping(plan)
        self.plan, self.on_conflict, self._explain = plan, on_conflict, explain
        self._always_staged = always_staged or plan.table.rls or plan.table.ruled
        # In a cycle rows wait, and what comes later may take a key that nobody sees, or find one that an update lets go of.
        unforeseen = bool(inner) and (on_conflict == "Update" or not all_seen(plan))
        self._probe = None if self._always_staged or unforeseen else probe_columns(plan)
        self._keys, self._false_alarms = parent_keys(plan), 0
        self.shaper = Shaper(plan, self._probe or (), self._keys)
        self.merger = Merger(
            plan, relations, on_conflict, inner=inner, home=home, waiting=waiting, origins=origins, explain=explain
        )
        self._probing = Probing(plan, relations, self.merger, self._probe or (), cyclic=bool(inner))
        self._target = relations.of(plan.table)
        self._in_order = False  # records of different shapes go in one after the other
        self._learnt = Experience(
            staged=staged,
            always_staged=self._always_staged,
            probed=self._probe is not None,
            cyclic=bool(inner),
            prior=prior or Prior(),
        )
        self._number = 0  # of the stages in this transaction
        self._most = _STAGES

    @property
    def staged(self) -> bool:
        """Whether the next batch begins with a stage."""
        return self._learnt.way != "direct"

    def meanwhile(self, following: Batches | None) -> Work | None:
        """While the server is at a batch that is read whole: the next one is made ready, if it is going to be sifted. Of others the
        first piece is enough, the server has the longer part in them."""
        return self._ready(following) if self._learnt.way == "sift" else None

    def _ready(self, following: Batches | None) -> Work | None:
        return None if following is None else partial(following.ahead, self.shaper.converter.sifted)

    def load(
        self,
        conn: Connection,
        batch: Batch,
        begin: Callable[[Connection, bool], None],
        rollback: Callable[[Connection], None],
        following: Batches | None = None,
        task: Task | None = None,
    ) -> Outcome:
        """Loads the batch and leaves the transaction open for the ledger. Raises psycopg.Error for what is no record's
        fault. `following`: what comes after the batch; it is made ready in the meantime. `task`: as it stands before it; with it the
        batch may be refused, by Crowded."""
        self._most = sys.maxsize if task is None else _STAGES

        def origin() -> Origin:
            assert task is not None
            return Origin(task.id, task.next_offset, batch.end, task.next_ordinal)

        with self.merger.batch(origin):
            return self._load(conn, batch, begin, rollback, following)

    def _load(
        self, conn: Connection, batch: Batch, begin: Callable[[Connection, bool], None],
        rollback: Callable[[Connection], None], following: Batches | None,
    ) -> Outcome:  # fmt: skip
        learnt = self._learnt
        exact, trusting, way = learnt.exact, learnt.trusting, learnt.way
        if way == "direct" and self.merger.some_wait(conn):
            way = "stage" if self._probe is None or learnt.sift_fails else "sift"
        deepest, raced, keyed, alarmed = "Copy", False, True, False
        self._in_order = False
        self._probing.begin()
        while True:
            begin(conn, way != "direct")
            self.merger.begin()
            self._number = 0
            outcome = Outcome(level=deepest, rejects={}, deferred=[])
            try:
                self._attempt(conn, batch, outcome, exact, way, following, trusting, keyed)
            except (Suppressed, Mixed) as reason:
                rollback(conn)
                learnt.sift_fails = isinstance(reason, Suppressed)
                self._in_order = isinstance(reason, Mixed) and way == "stage"
                way = "stage"
                self._explain(f"{type(reason).__name__}: again by Merge")
                continue
            except Orphaned:
                rollback(conn)
                keyed, alarmed = False, way == "direct"
                if self._probe is not None and not learnt.sift_fails:
                    way = "sift"
                self._explain("not every parent was found: again, and each row is asked for its own")
                continue
            except Unanswered:
                rollback(conn)
                self._probing.doubt()
                self._explain("the probe's query was not enough: again by a stage")
                continue
            except psycopg.Error as error:
                if kind_of(error) != "record" or way == "blind":
                    raise
                rollback(conn)
                state = error.sqlstate or ""
                if way == "direct" and trusting and not exact and state in _FOUND_HERE_TOO:
                    trusting = False
                    self._explain(f"SQLSTATE {state}: again, and looked for before")
                    continue
                if not exact and state[:2] == "22" and way != "sift":
                    learnt.unreadable()
                    exact, deepest = True, max(deepest, "Exact", key=_depth)
                elif way == "direct" and self._probe is not None and not learnt.sift_fails:
                    way = "sift"
                elif way == "sift" and state == "23505" and self._probing.doubt():
                    pass  # keys that are one, but spelled in two ways
                elif way == "sift" and state == "23505" and not raced:
                    raced = True  # another worker was first with a key: the probe sees it now
                elif way in ("direct", "sift"):
                    learnt.sift_fails = way == "sift"
                    way = "stage"
                elif not exact:
                    exact = True
                else:
                    way = "blind"  # not even the set queries run through: isolate row by row
                self._explain(f"SQLSTATE {state}: again {_WORDS[way] if way != 'direct' else 'by Exact'}")
                continue
            batch.fill()
            outcome.close(batch.records)
            if alarmed and outcome.clean:  # nobody's parent was missing
                self._false_alarms += 1
                if self._false_alarms == _ALARMS:
                    self._keys = ()
            learnt.remember(outcome, exact, way, trusting)
            return outcome

    def _attempt(
        self, conn: Connection, batch: Batch, outcome: Outcome, exact: bool, way: Way, following: Batches | None,
        trusting: bool = False, keyed: bool = False,
    ) -> None:  # fmt: skip
        """One pass over the batch. Records that bring other columns than most wait in `others` for a stage of their own."""
        others: Others = {}
        if exact or way == "sift":
            outcome.needed("Exact")
        if way == "sift":
            sifted = Sifted(self.shaper.sifted(batch, outcome, others))
            with occupied(conn, self._ready(following)):
                self._sift(conn, sifted, others, outcome, keyed)
        elif way == "direct":
            parents = None
            if keyed and (trusting or exact):
                rows = batch.expected(self.plan.file.stream_bytes)
                parents = self.merger.parents(conn, rows, self._keys, self.shaper.columns)
            convert = self._straight(exact, trusting, parents is not None)
            straight = self.shaper.straight(batch, convert, outcome, others, parents)
            if following is not None:
                straight = chain(straight, _afterwards(partial(following.begin_next, convert)))
            self._direct(conn, straight, others, outcome, exact, parents)
        else:
            lines = self.shaper.lines(batch, outcome, exact, others)
            self._merge_all(conn, batch, lines, others, outcome, exact, way)
        outcome.converted_badly = outcome.converted_badly or bool(outcome.rejects)

    def _direct(
        self, conn: Connection, chunks: Iterable[list[bytes]], others: Others, outcome: Outcome, exact: bool,
        parents: Parents | None,
    ) -> None:  # fmt: skip
        if parents is not None:
            parents.begin()
        self._copy(conn, chunks, outcome, exact)
        if parents is not None:
            parents.end()
        self._tell_origin(conn, outcome, others)
        rejected = len(outcome.rejects)
        stages = [self._filled(conn, shape, [lines], outcome, exact) for shape, lines in others.items()]
        outcome.converted_badly = rejected > 0
        for stage in stages:
            self.merger.merge(conn, stage, outcome, behind=True)
        c, taken = outcome.counters, any(p.sqlstate == "23505" for p in outcome.rejects.values())
        if c.duplicate or c.conflict or c.updated or taken or (self.merger.in_segments and outcome.deferred):
            raise Mixed  # a key that is there may be one that came later in the file

    def _sift(self, conn: Connection, sifted: Sifted, others: Others, outcome: Outcome, keyed: bool) -> None:
        stages = [self._filled(conn, shape, [lines], outcome, True) for shape, lines in others.items()]
        names, number = self.shaper.columns, self._next_number()
        seen = self._probing.look(conn, sifted, stages, outcome, number, names, keyed)
        apart, afterwards = seen.apart, seen.afterwards
        good = sifted.but({*apart, *outcome.rejects, *outcome.deferred})
        # What only the server can read went through the probe.
        collided = self._filled(conn, (names, names), [sifted.of(apart)], outcome, False) if apart else None
        with without_triggers(conn) if seen.vouching or afterwards is not None else nullcontext():
            self._copy(conn, good, outcome, True)
        if afterwards is not None:
            if afterwards.parentless():
                raise Orphaned
            self.merger.done_with(afterwards)
        if collided is not None and not seen.surely and collided.meets_own():
            raise Unanswered
        self._tell_origin(conn, outcome, stages or collided)
        for stage in stages:
            self.merger.merge(conn, stage, outcome, behind=True)
        if collided is not None:
            self.merger.merge(conn, collided, outcome, screened=True, there=seen.there, behind=True)

    def _merge_all(
        self, conn: Connection, batch: Batch, chunks: Iterable[list[Line]], others: Others, outcome: Outcome,
        exact: bool, way: Way,
    ) -> None:  # fmt: skip
        names = self.shaper.columns
        stages = [self._filled(conn, (names, names), chunks, outcome, exact)]
        stages += [self._filled(conn, shape, [lines], outcome, exact) for shape, lines in others.items()]
        mixed = self._in_order or any(s.shares_key_with(stages[:n]) for n, s in enumerate(stages))
        if mixed and batch.records > 1 and sum(stage.size > 0 for stage in stages) > 1:
            for stage in stages:
                stage.drop()
            outcome.rejects.clear()
            at = 0
            for half in batch.halves():
                part = Outcome(level=outcome.level, rejects={}, deferred=[])
                self._attempt(conn, half, part, exact, way, None)
                outcome.absorb(part, at)
                at += half.records
            return
        blind = way == "blind"
        for n, stage in enumerate(stages):
            self.merger.merge(conn, stage, outcome, blind=blind, behind=n > 0 and not blind and not self._in_order)

    def _straight(self, exact: bool, trusting: bool, keyed: bool) -> Convert:
        """For COPY straight into the table."""
        converter = self.shaper.converter
        if exact:
            return converter.exact_keyed if keyed else converter.exact
        if trusting:
            return converter.trusting_keyed if keyed else converter.trusting
        return converter.verbatim

    # -- into the database ---------------------------------------------------------------------------------------------

    def _copy(self, conn: Connection, chunks: Iterable[list[bytes]], outcome: Outcome, exact: bool) -> None:
        """COPY straight into the table. Raises Suppressed when the server took fewer rows than it was sent."""
        names = self.shaper.columns
        if not names:  # records without any key: COPY has no spelling for a row of defaults alone
            raise Suppressed
        copy = sql.SQL("COPY {} ({}) FROM STDIN {}").format(self._target.write, columns(names), COPY_OPTIONS)
        sent = 0
        with conn.cursor() as cur:
            with copying(cur, copy, Feeder(cur)) as out:
                for lines in chunks:
                    if lines:
                        send(out, unquoted(b"\n".join([*lines, b""])))
                        sent += len(lines)
            if cur.rowcount != sent:  # asked while the cursor is open: a closed one has forgotten
                raise Suppressed
        outcome.counters.inserted += sent
        outcome.levels["Exact" if exact else "Copy"] += sent

    def _tell_origin(self, conn: Connection, outcome: Outcome, more: object) -> None:
        """Rows went in by COPY. What of the batch goes in behind them, `more`, asks whose they are; else the ledger is told in the
        end, together with the rest."""
        if not outcome.counters.inserted:
            return
        if more:
            self.merger.wrote(conn)
        else:
            outcome.origin = self.merger.origin

    def _filled(
        self, conn: Connection, shape: tuple[Shape, Shape], chunks: Iterable[list[Line]], outcome: Outcome, exact: bool
    ) -> Stage:
        brings, names = shape
        outcome.needed("Merge")
        stage = self.merger.stage(conn, brings, self._next_number(), keep=True)
        outcome.rejects |= stage.copy(names, chunks, isolate=exact)
        return stage

    def _next_number(self) -> int:
        self._number += 1
        if self._number > self._most:
            raise Crowded
        return self._number


# What the converter finds as well, if it looks: a null where none may be, bytes that are not UTF-8.
_FOUND_HERE_TOO = ("23502", "22021")

_WORDS = {"sift": "by Merge", "stage": "by Merge", "blind": "by row"}


def _afterwards(do: Callable[[], None]) -> Iterator[list[bytes]]:
    """No lines, but something that is done when all lines before are sent, while the server is still at them."""
    do()
    yield []


def _depth(level: str) -> int:
    return ("Copy", "Exact", "Merge", "Row", "Reject").index(level)
