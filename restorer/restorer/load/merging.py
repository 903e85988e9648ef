"""The Merge rung and what is below it: a stage's rows into the table, each row settled by itself where it must be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import psycopg
from psycopg import sql
from psycopg.errors import UniqueViolation

from restorer.database.connection import Connection, kind_of
from restorer.database.origins import Origin, Origins
from restorer.database.problems import SUPPRESSED, problem_of
from restorer.database.relation import Relations
from restorer.database.waiting import Waiting
from restorer.load.batch import Outcome
from restorer.load.hold import behind
from restorer.load.kept import Kept
from restorer.load.keys import Keys
from restorer.load.orphans import prune
from restorer.load.parents import Parents
from restorer.load.shaping import Shape
from restorer.load.stage import Stage, Suppressed, write_together
from restorer.load.vouching import Voucher, without_triggers
from restorer.model import TablePlan

Explain = Callable[[str], None]
_MOST_KEPT = 3  # stages of one transaction; each one kept costs every commit a little
_WORTH = 200  # rows for which as many calls of a trigger take longer than a few statements more
_MOST_KEYED = 100_000  # rows of which the keys are held in memory
_RACES = 5  # times that another worker may be first with a key of one stage before rows are tried one by one


class Mixed(Exception):
    """Records that go in behind others have a key in common with one of those: what comes first and last can only be told when they
    go in one after the other."""


class Merger:
    """Merges stages into one table, in the caller's transaction. `inner`: foreign keys within the table's own cycle.
    `home`: schema for stages where the role may not make temporary tables. `waiting`: the ledger's waiting rows; None where
    nothing can wait for long (a retry). `origins`: of a file that is loaded in segments."""

    def __init__(
        self,
        plan: TablePlan,
        relations: Relations,
        on_conflict: str,
        *,
        inner: frozenset[str],
        home: str,
        waiting: Waiting | None,
        origins: Origins | None,
        explain: Explain,
    ) -> None:
        self.plan, self._relations, self.on_conflict = plan, relations, on_conflict
        self._inner, self._home, self._waiting, self._explain = inner, home, waiting, explain
        self._origins = origins
        self._origin: Callable[[], Origin] | None = None
        self._kept = Kept()
        self._voucher = Voucher(plan.table)
        self._held: set[int] = set()  # keys of rows that wait since this transaction

    @contextmanager
    def batch(self, origin: Callable[[], Origin]) -> Iterator[None]:
        """While a batch is loaded. `origin`: where its rows come from, asked for when they are read. It is not kept: it has the
        batch with it, and there is a merger for each table."""
        self._origin = origin
        try:
            yield
        finally:
            self._origin = None

    def begin(self) -> None:
        """A new transaction: what was set aside in one that is undone does not count."""
        self._held.clear()

    @property
    def in_segments(self) -> bool:
        return self._origins is not None

    @property
    def origin(self) -> Origin | None:
        """Of the rows of this batch, for the ledger, which holds it of a file in segments."""
        if self._origins is None:
            return None
        assert self._origin is not None
        return self._origin()

    def wrote(self, conn: Connection) -> None:
        """Rows were written in this (sub)transaction."""
        if self._origins is not None and (origin := self.origin) is not None:
            self._origins.add(conn, origin)

    def stage(self, conn: Connection, given: Shape, number: int, *, narrow: bool = False, keep: bool = False) -> Stage:
        """`number`: of the stages in this transaction. `keep`: most batches will want one like it."""
        names = given if narrow else tuple(c.name for c in self.plan.table.columns)
        name, kept = f"dbrestore_stage_{number}", keep and not self._home and number <= _MOST_KEPT
        if kept and (kept := self._kept.possible(conn)):
            name = self._kept.name(self.plan.table, names, number)
        return Stage(
            conn, self.plan.table, self._relations, given=given, inner=self._inner, home=self._home,
            name=name, kept=kept, narrow=narrow,
        )  # fmt: skip

    def may_vouch(self, conn: Connection, shown: Shape, rows: int, brought: Shape) -> bool:
        """Whether a look at the columns `shown` may stand for the triggers of the table's foreign keys, for so many rows, which bring
        the columns `brought`: where it is worth while."""
        if self._inner or self._voucher.of_itself or self.on_conflict == "Update":
            return False
        return self._voucher.shown_by(shown) and self._may_vouch(conn, rows, brought)

    def may_vouch_afterwards(self, conn: Connection, stage: Stage, rows: int, brought: Shape) -> bool:
        """Whether a stage may stand for those triggers that only shows once its rows are in the table too whether every parent is
        there, as it is with rows that refer to each other. There must be nothing else in it (see `set_aside`). `rows`: of all that go
        in without triggers."""
        return bool(self._inner) and self._voucher.shown_by(stage.given) and self._may_vouch(conn, rows, brought)

    def parents(self, conn: Connection, rows: int, keys: Shape, brought: Shape) -> Parents | None:
        """Who stands for those triggers while about `rows` rows, which bring the columns `brought`, go in by COPY; `keys`: the
        columns whose values it is told. None where that may not be, or is not worth while."""
        if not keys or rows > _MOST_KEYED or not self._may_vouch(conn, rows, brought):
            return None
        return Parents(conn, self.plan.table, self._relations, keys)

    def _may_vouch(self, conn: Connection, rows: int, brought: Shape) -> bool:
        return rows >= _WORTH and self._relations.real and self._voucher.may(conn, brought)

    def let_go(self, conn: Connection) -> None:
        """No more batches for now."""
        self._kept.drop(conn)

    def merge(
        self,
        conn: Connection,
        stage: Stage,
        outcome: Outcome,
        *,
        blind: bool = False,
        screened: bool = False,
        there: bool = True,
        behind: bool = False,
    ) -> None:
        """`screened`: a probe has looked at what no order of loading can help; `there`: it saw keys that the table has, or did not
        look for them. `behind`: others of the batch are in already, some of which may come later in the file. Raises Mixed where one of
        them may have a key of a row here that no set query sees."""
        aside: dict[int, list[int]] = {}
        vouching = False
        if not blind:
            if not screened:
                vouching = self.may_vouch(conn, stage.given, stage.size, stage.given)
                outcome.rejects |= stage.screen(vouching=vouching)
            aside = self._set_aside(conn, stage, outcome, aside)
            if there or self._origins is not None:
                self._settle_existing(stage, outcome, lazily=True)
        elif self._origins is not None:
            self._contest(stage.set_aside([], self._held), outcome)
        if stage.count():
            with without_triggers(conn) if vouching else nullcontext():
                self._write_or_halve(conn, stage, outcome, blind, aside, behind)
        self._held |= outcome.held
        self.done_with(stage)

    def done_with(self, stage: Stage) -> None:
        """A temporary table goes with its transaction, or is emptied; another one must be told, and one with an index would
        be slow to fill."""
        if self._home or stage.indexed:
            stage.drop()

    def _write_or_halve(
        self, conn: Connection, stage: Stage, outcome: Outcome, blind: bool, aside: Mapping[int, list[int]], behind: bool,
    ) -> None:  # fmt: skip
        for _ in range(_RACES):
            error = self._write_all(conn, stage, outcome, blind, aside)
            if error is None:
                return
            # Another worker may have committed a key since the stage was looked at; the INSERT then waited for it.
            if blind or not isinstance(error, UniqueViolation) or not self._settle_existing(stage, outcome):
                break
        if behind and isinstance(error, UniqueViolation):
            raise Mixed
        self._explain(f"SQLSTATE {getattr(error, 'sqlstate', 'none')}: isolating by halves")
        outcome.needed("Row")
        before = outcome.counters.inserted + outcome.counters.updated
        self._halve(conn, stage, outcome)
        outcome.levels["Row"] += outcome.counters.inserted + outcome.counters.updated - before

    def _write_all(
        self, conn: Connection, stage: Stage, outcome: Outcome, blind: bool, aside: Mapping[int, list[int]]
    ) -> psycopg.Error | Suppressed | None:
        """-> why nothing was written, or None"""
        done = Outcome(rejects={}, deferred=[])
        try:
            with conn.transaction():
                if not blind:
                    self.settle_keys(stage.inside(self.on_conflict), done)
                    # a row that went for its key may have been somebody's parent
                    self._set_aside(conn, stage, done, aside)
                self._write(conn, stage, done)
        except (psycopg.Error, Suppressed) as error:
            if isinstance(error, psycopg.Error) and kind_of(error) != "record":
                raise
            return error
        outcome.absorb(done)
        return None

    # -- rows that wait for a parent in the table's own cycle ----------------------------------------------------------

    def some_wait(self, conn: Connection) -> bool:
        """A plain COPY would not see the keys that waiting rows hold."""
        return bool(self._inner) and self._waiting is not None and self._waiting.any(conn, self.plan.name)

    def set_aside(self, conn: Connection, probe: Stage, apart: Collection[int], outcome: Outcome) -> None:
        """Those of a probe's rows that have to wait. Rows that are `apart`, and take a way of their own, may turn out not to go
        in at all: nobody's parent until then."""
        if self._inner:
            probe.remove(sorted(apart))
            self._set_aside(conn, probe, outcome, {})
            self._held |= outcome.held

    def _set_aside(
        self, conn: Connection, stage: Stage, outcome: Outcome, aside: Mapping[int, list[int]]
    ) -> dict[int, list[int]]:
        """Takes out the rows whose parent is not there yet, and those that wait behind them. What went may have been
        somebody's parent: so again, until nothing more goes. `aside`: those of this stage that wait already, with their
        keys: behind them waits only what comes after them. -> the same, with those that are new"""
        if self._waiting is None or not self._inner:
            outcome.deferred.extend(prune([stage])[0])
            return {}
        if not self._held and not aside and not stage.lacking() and not self._waiting.any(conn, self.plan.name):
            return {}
        keys = {**aside, **stage.hashes()}
        held = self._held | self._waiting.held(conn, self.plan.name, {k for mine in keys.values() for k in mine})
        waits, late = set(aside), [0]
        while late:
            waits.update(prune([stage])[0])
            late = behind(keys, waits, held)
            stage.remove(late)
            waits.update(late)
        self._wait(waits - aside.keys(), keys, outcome)
        return {ordinal: keys[ordinal] for ordinal in waits}

    def _wait(self, ordinals: Iterable[int], keys: Mapping[int, list[int]], outcome: Outcome) -> None:
        for ordinal in ordinals:
            outcome.deferred.append(ordinal)
            outcome.held.update(keys[ordinal])

    def _wait_behind(self, ordinal: int, stage: Stage, outcome: Outcome) -> None:
        """`ordinal`, still in the stage, was just found to wait: takes those out that wait behind it."""
        if self._waiting is None:
            return
        keys = stage.hashes()
        outcome.held.update(keys[ordinal])
        late = behind(keys, {ordinal}, ())
        stage.remove(late)
        self._wait(late, keys, outcome)

    # -- what the keys and the server say ------------------------------------------------------------------------------

    def settle_keys(self, keys: Keys, outcome: Outcome) -> None:
        outcome.counters.duplicate += keys.duplicate
        outcome.counters.updated += keys.updated
        if self.on_conflict == "Skip":
            outcome.counters.conflict += len(keys.different)
        else:
            outcome.rejects |= keys.different

    def _settle_existing(
        self, stage: Stage, outcome: Outcome, ordinal: int | None = None, *, lazily: bool = False
    ) -> bool:
        """Settles what is there by now, of all rows or one. -> whether anything was"""
        waits, but = False, None
        if self._origins is not None:
            # What another worker commits only now is left to the INSERT, which fails then, and to the next time here.
            waits = self._contest(stage.contested(self._origins, self._held), outcome)
            but = sql.SQL(" AND NOT {}").format(self._origins.wrote("t"))
        keys = stage.existing(self.on_conflict, ordinal, lazily=lazily, but=but)
        self.settle_keys(keys, outcome)
        return bool(waits or keys.duplicate or keys.updated or keys.different)

    def _contest(self, contested: dict[int, Collection[int]], outcome: Outcome) -> bool:
        outcome.deferred += contested
        self._held.update(*contested.values())
        return bool(contested)

    def _write(self, conn: Connection, stage: Stage, outcome: Outcome, which: list[int] | None = None) -> None:
        """Updates and inserts what the stage holds, or `which` of it. Raises Suppressed when a row went nowhere and it
        cannot be told which."""
        given = len(which) if which is not None else stage.count()
        self.wrote(conn)
        if self.on_conflict == "Update":
            ((inserted, updated),) = write_together(conn, [(stage, which)], update=True)
            if inserted + updated != given:
                raise Suppressed
            outcome.counters.inserted += inserted
            outcome.counters.updated += updated
            return
        inserted = stage.insert(which)
        if inserted != given:
            absent = stage.absent() if which is None else None
            if absent is None or len(absent) > given - inserted:
                raise Suppressed
            # by their keys the rest is there, if not where it was put: a trigger may well pass rows on to other tables
            outcome.rejects |= dict.fromkeys(absent, SUPPRESSED)
            inserted = given - len(absent)
        outcome.counters.inserted += inserted

    def _halve(self, conn: Connection, stage: Stage, outcome: Outcome) -> None:
        """The Row rung: tries halves, each under a savepoint, until every bad row stands alone. Rows that lack a parent in
        their own cycle are deferred."""
        work, gone = [stage.ordinals()], set[int]()
        while work:
            part = [ordinal for ordinal in work.pop() if ordinal not in gone]
            if not part:
                continue
            try:
                with conn.transaction():
                    done = Outcome(rejects={}, deferred=[])
                    self._write(conn, stage, done, part)
                    stage.remove(part)
                outcome.absorb(done)
            except (psycopg.Error, Suppressed) as error:
                if isinstance(error, psycopg.Error) and kind_of(error) != "record":
                    raise
                if len(part) > 1:
                    work += [part[len(part) // 2 :], part[: len(part) // 2]]  # the earlier half first
                    continue
                self.blame(part[0], error, stage, outcome)
                if self._inner and outcome.deferred[-1:] == part:
                    self._wait_behind(part[0], stage, outcome)
                gone.update(outcome.deferred)
                stage.remove(part)

    def blame(self, ordinal: int, error: psycopg.Error | Suppressed, stage: Stage, outcome: Outcome) -> None:
        """Books the one row that `error` is about."""
        if self._origins is not None:  # in its turn it may find its key taken, and that comes first
            self._contest(stage.set_aside([ordinal], self._held), outcome)
            return
        if isinstance(error, Suppressed):
            outcome.rejects[ordinal] = SUPPRESSED
            return
        problem = problem_of(error)
        if problem.constraint in self._inner:
            outcome.deferred.append(ordinal)
            return
        if problem.sqlstate == "23505":
            if self._settle_existing(stage, outcome, ordinal):
                return
            if self.on_conflict == "Skip":
                outcome.counters.conflict += 1
                return
        outcome.rejects[ordinal] = problem
