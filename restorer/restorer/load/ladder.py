"""One batch down the ladder: Copy -> Exact -> Merge -> Row -> Reject, inside the caller's transaction.

Copy   verbatim rows (and, one by one, exact rows where a record needs it) straight into the table
Exact  after a conversion error: every record converted by its column's type, then COPY again
Merge  after a conflict, or where rows are there already: into a temporary table, set queries say who can go in
Row    what set queries cannot foresee (triggers, exclusion constraints, expression indexes): found by halving
Reject the record and its reason go to the ledger; the rest is loaded

Good rows never pay for bad neighbours twice: `Ladder.start` remembers the rung that the last batches needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
import psycopg
from psycopg import sql

from restorer.convert.converter import Converter
from restorer.database.connection import Connection, kind_of
from restorer.database.problems import SUPPRESSED, problem_of
from restorer.database.relation import Relations, columns
from restorer.database.waiting import Waiting
from restorer.load.batch import Batch, Outcome
from restorer.load.hold import behind
from restorer.load.keys import Keys
from restorer.load.orphans import prune
from restorer.load.stage import Stage, Suppressed, write_together
from restorer.load.staged import COPY_OPTIONS, Line
from restorer.model import ColumnPlan, Problem, TablePlan
from restorer.source.piece import Piece

Explain = Callable[[str], None]
CALM = 2  # clean batches after which a lower rung is tried again
Shape = tuple[str, ...]
Others = dict[tuple[Shape, Shape], list[Line]]  # (columns they bring, columns of the line) -> lines


class _Mixed(Exception):
    """Records of different shapes have one key: what comes first and last can only be told one after the other."""


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
        explain: Explain = lambda _: None,
    ) -> None:
        """`staged`: rows may be there already, so start at Merge. `always_staged`: never leave it (a dry run: only the set
        queries see foreign keys). `inner`: foreign keys within the table's own cycle.
        `home`: schema for the stage where the role may not make temporary tables. `waiting`: the ledger's waiting rows; None
        where nothing can wait for long (a retry)."""
        if on_conflict == "Update":
            plan = partial(plan)
        self.plan, self._relations, self.on_conflict = plan, relations, on_conflict
        self._inner, self._home, self._explain = inner, home, explain
        self.converter = Converter(plan)
        self._wide: Converter | None = None
        self._always_staged = always_staged or plan.table.rls or plan.table.ruled
        self._staged = staged or self._always_staged
        self._exact = False
        self._calm = 0
        self._target = relations.of(plan.table)
        self._waiting = waiting
        self._held: set[int] = set()  # keys of rows that wait since this transaction
        self._number = 0  # of the stages in this transaction

    def load(
        self,
        conn: Connection,
        batch: Batch,
        begin: Callable[[Connection, bool], None],
        rollback: Callable[[Connection], None],
    ) -> Outcome:
        """Loads the batch and leaves the transaction open for the ledger. Raises psycopg.Error for what is no record's fault."""
        exact, staged, blind = self._exact, self._staged or self._some_wait(conn), False
        deepest = "Copy"
        while True:
            begin(conn, staged)
            self._number = 0
            self._held.clear()
            outcome = Outcome(level=deepest, rejects={}, deferred=[])
            try:
                self._attempt(conn, batch, outcome, exact, staged, blind)
            except (Suppressed, _Mixed) as reason:
                rollback(conn)
                staged = True
                self._explain(f"{type(reason).__name__.strip('_')}: again by Merge")
                continue
            except psycopg.Error as error:
                if kind_of(error) != "record" or blind:
                    raise
                rollback(conn)
                state = error.sqlstate or ""
                if not exact and state[:2] == "22":
                    exact, deepest = True, max(deepest, "Exact", key=_depth)
                elif not staged:
                    staged = True
                elif not exact:
                    exact = True
                else:
                    blind = True  # not even the set queries run through: isolate row by row
                self._explain(f"SQLSTATE {state}: again {'by row' if blind else 'by Merge' if staged else 'by Exact'}")
                continue
            batch.fill()
            outcome.close(batch.records)
            self._remember(outcome, exact, staged)
            return outcome

    def _remember(self, outcome: Outcome, exact: bool, staged: bool) -> None:
        """The next batch starts where this one had to end, until two clean ones in a row say that the trouble is over."""
        self._calm = self._calm + 1 if outcome.clean else 0
        if self._calm >= CALM:
            self._exact, self._staged = False, self._always_staged
        else:
            self._exact = exact and (self._exact or outcome.converted_badly or not outcome.clean)
            self._staged = staged

    def _attempt(
        self, conn: Connection, batch: Batch, outcome: Outcome, exact: bool, staged: bool, blind: bool
    ) -> None:
        """One pass over the batch. Records that bring other columns than most wait in `others` for a stage of their own."""
        others: Others = {}
        chunks = self.convert(batch, outcome, exact, others)
        if exact:
            outcome.needed("Exact")
        names = self.converter.columns
        if staged:
            self._merge_all(conn, batch, chunks, others, outcome, exact, blind)
        else:
            copied = self._copy(conn, names, chunks)
            outcome.counters.inserted += copied
            outcome.levels["Exact" if exact else "Copy"] += copied
            rejected = len(outcome.rejects)
            stages = [self._filled(conn, shape, [lines], outcome, exact) for shape, lines in others.items()]
            outcome.converted_badly = rejected > 0
            for stage in stages:
                self._merge(conn, stage, outcome, blind=blind)
            c = outcome.counters
            if c.duplicate or c.conflict or c.updated or any(p.sqlstate == "23505" for p in outcome.rejects.values()):
                raise _Mixed  # a key that is there may be one that came later in the file
        outcome.converted_badly = outcome.converted_badly or bool(outcome.rejects)

    def _merge_all(
        self, conn: Connection, batch: Batch, chunks: Iterable[list[Line]], others: Others, outcome: Outcome,
        exact: bool, blind: bool,
    ) -> None:  # fmt: skip
        names = self.converter.columns
        stages = [self._filled(conn, (names, names), chunks, outcome, exact)]
        stages += [self._filled(conn, shape, [lines], outcome, exact) for shape, lines in others.items()]
        if batch.records > 1 and any(s.shares_key_with(stages[:n]) for n, s in enumerate(stages)):
            for stage in stages:
                stage.drop()
            outcome.rejects.clear()
            at = 0
            for half in batch.halves():
                part = Outcome(level=outcome.level, rejects={}, deferred=[])
                self._attempt(conn, half, part, exact, True, blind)
                outcome.absorb(part, at)
                at += half.records
            return
        for stage in stages:
            self._merge(conn, stage, outcome, blind=blind)

    def _filled(
        self, conn: Connection, shape: tuple[Shape, Shape], chunks: Iterable[list[Line]], outcome: Outcome, exact: bool
    ) -> Stage:
        brings, names = shape
        outcome.needed("Merge")
        stage = self.stage(conn, brings, self._number)
        self._number += 1
        outcome.rejects |= stage.copy(names, chunks, isolate=exact)
        return stage

    # -- converting ----------------------------------------------------------------------------------------------------

    def convert(self, batch: Batch, outcome: Outcome, exact: bool, others: Others) -> Iterator[list[Line]]:
        """The lines of the records that bring all planned columns, piece by piece."""
        names = self.converter.columns
        for start, piece in batch:
            rows = self.converter.exact(piece) if exact else self.converter.verbatim(piece)
            numbers = range(start, start + len(rows.lines))
            if not rows.problems and not rows.defaults:
                yield list(zip(numbers, rows.lines, strict=True))
                continue
            for i, problem in rows.problems.items():
                self._late(piece, i, start + i, problem, outcome, others)
            for i, defaults in rows.defaults.items():
                if i not in rows.problems:
                    others.setdefault((_without(names, defaults), names), []).append((start + i, rows.lines[i]))
            apart = rows.problems.keys() | rows.defaults.keys()
            yield [(start + i, line) for i, line in enumerate(rows.lines) if i not in apart]

    def _late(
        self,
        piece: Piece,
        i: int,
        index: int,
        problem: Problem,
        outcome: Outcome,
        others: Others,
    ) -> None:
        """A record with a key that the sample had not: the wide plan, which has every column, may know it."""
        if problem.reason == "UnknownColumn" and self.plan.late:
            self._wide = self._wide or Converter(self.plan.wide)
            alone = piece.split(i)[1] if i else piece
            alone = alone.split(1)[0] if len(alone) > 1 else alone
            rows = self._wide.exact(
                Piece(alone.offset, alone.end, alone.ordinal, alone.data, spans=alone.spans, lines=alone.lines)
            )
            if not rows.problems:
                names = self._wide.columns
                others.setdefault((_without(names, rows.defaults.get(0, ())), names), []).append((index, rows.lines[0]))
                return
            problem = rows.problems[0]
        outcome.rejects[index] = problem

    def line_of(self, piece: Piece, index: int, outcome: Outcome, others: Others) -> None:
        """The line of a piece of one record, under the shape that it brings; or its Problem in `outcome`."""
        rows, names = self.converter.exact(piece), self.converter.columns
        if rows.problems:
            self._late(piece, 0, index, rows.problems[0], outcome, others)
        else:
            others.setdefault((_without(names, rows.defaults.get(0, ())), names), []).append((index, rows.lines[0]))

    # -- into the database ---------------------------------------------------------------------------------------------

    def _copy(self, conn: Connection, names: Shape, chunks: Iterator[list[Line]]) -> int:
        """COPY straight into the table. -> rows. Raises Suppressed when the server took fewer than it was sent."""
        if not names:  # records without any key: COPY has no spelling for a row of defaults alone
            raise Suppressed
        copy = sql.SQL("COPY {} ({}) FROM STDIN {}").format(self._target.write, columns(names), COPY_OPTIONS)
        sent = 0
        with conn.cursor() as cur:
            with cur.copy(copy) as out:
                for lines in chunks:
                    if lines:
                        out.write(b"\n".join([line for _, line in lines]) + b"\n")
                        sent += len(lines)
            if cur.rowcount != sent:  # asked while the cursor is open: a closed one has forgotten
                raise Suppressed
        return sent

    def stage(self, conn: Connection, given: Shape, number: int) -> Stage:
        return Stage(
            conn, self.plan.table, self._relations, given=given, inner=self._inner, home=self._home, number=number
        )

    def _merge(self, conn: Connection, stage: Stage, outcome: Outcome, *, blind: bool) -> None:
        if not blind:
            outcome.rejects |= stage.screen()
            self._set_aside(conn, stage, outcome)
            self.settle_keys(stage.existing(self.on_conflict), outcome)
        try:
            with conn.transaction():
                done = Outcome(rejects={}, deferred=[])
                if not blind:
                    self.settle_keys(stage.inside(self.on_conflict), done)
                    self._set_aside(conn, stage, done)  # a row that went for its key may have been somebody's parent
                self._write(conn, stage, done)
            outcome.absorb(done)
        except (psycopg.Error, Suppressed) as error:
            if isinstance(error, psycopg.Error) and kind_of(error) != "record":
                raise
            self._explain(f"SQLSTATE {getattr(error, 'sqlstate', 'none')}: isolating by halves")
            outcome.needed("Row")
            before = outcome.counters.inserted + outcome.counters.updated
            self._halve(conn, stage, outcome)
            outcome.levels["Row"] += outcome.counters.inserted + outcome.counters.updated - before
        if self._home:
            stage.drop()

    # -- rows that wait for a parent in the table's own cycle ----------------------------------------------------------

    def _some_wait(self, conn: Connection) -> bool:
        """A plain COPY would not see the keys that waiting rows hold."""
        return bool(self._inner) and self._waiting is not None and self._waiting.any(conn, self.plan.name)

    def _set_aside(self, conn: Connection, stage: Stage, outcome: Outcome) -> None:
        """Takes out the rows whose parent is not there yet, and those that wait behind them. What went may have been
        somebody's parent: so again, until nothing more goes."""
        if self._waiting is None or not self._inner:
            outcome.deferred.extend(prune([stage])[0])
            return
        if not self._held and not stage.lacking() and not self._waiting.any(conn, self.plan.name):
            return
        keys = stage.hashes()
        held = self._held | self._waiting.held(conn, self.plan.name, {k for mine in keys.values() for k in mine})
        waits, late = set[int](), [0]
        while late:
            waits.update(prune([stage])[0])
            late = behind(keys, waits, held)
            stage.remove(late)
            waits.update(late)
        self._wait(waits, keys, outcome)

    def _wait(self, ordinals: Iterable[int], keys: Mapping[int, list[int]], outcome: Outcome) -> None:
        for ordinal in ordinals:
            outcome.deferred.append(ordinal)
            outcome.held.update(keys[ordinal])
        self._held |= outcome.held

    def _wait_behind(self, ordinal: int, stage: Stage, outcome: Outcome) -> list[int]:
        """`ordinal`, still in the stage, was just found to wait. -> those taken out because they wait behind it"""
        if self._waiting is None:
            return []
        keys = stage.hashes()
        outcome.held.update(keys[ordinal])
        late = behind(keys, {ordinal}, ())
        stage.remove(late)
        self._wait(late, keys, outcome)
        return late

    # -- what the keys and the server say ------------------------------------------------------------------------------

    def settle_keys(self, keys: Keys, outcome: Outcome) -> None:
        outcome.counters.duplicate += keys.duplicate
        outcome.counters.updated += keys.updated
        if self.on_conflict == "Skip":
            outcome.counters.conflict += len(keys.different)
        else:
            outcome.rejects |= keys.different

    def _write(self, conn: Connection, stage: Stage, outcome: Outcome, which: list[int] | None = None) -> None:
        """Updates and inserts what the stage holds, or `which` of it. Raises Suppressed when a row went nowhere and it
        cannot be told which."""
        given = len(which) if which is not None else stage.count()
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
                if outcome.deferred[-1:] == part:
                    gone.update(self._wait_behind(part[0], stage, outcome))
                stage.remove(part)

    def blame(self, ordinal: int, error: psycopg.Error | Suppressed, stage: Stage, outcome: Outcome) -> None:
        """Books the one row that `error` is about."""
        if isinstance(error, Suppressed):
            outcome.rejects[ordinal] = SUPPRESSED
            return
        problem = problem_of(error)
        if problem.constraint in self._inner:
            outcome.deferred.append(ordinal)
            return
        if problem.sqlstate == "23505":
            keys = stage.existing(self.on_conflict, ordinal)
            if keys.duplicate or keys.updated or keys.different:
                self.settle_keys(keys, outcome)
                return
            if self.on_conflict == "Skip":
                outcome.counters.conflict += 1
                return
        outcome.rejects[ordinal] = problem


def partial(plan: TablePlan) -> TablePlan:
    """The plan for policy Update, where a missing key leaves the column of a row that is there as it is. So no column gets
    a null for it, as if each had a default (a new row gets null all the same)."""

    def keep(c: ColumnPlan) -> ColumnPlan:
        return msgspec.structs.replace(c, column=msgspec.structs.replace(c.column, has_default=True))

    return msgspec.structs.replace(
        plan, columns=tuple(keep(c) for c in plan.columns), late=tuple(keep(c) for c in plan.late)
    )


def _without(names: Shape, defaults: tuple[int, ...]) -> Shape:
    return tuple(n for i, n in enumerate(names) if i not in defaults)


def _depth(level: str) -> int:
    return ("Copy", "Exact", "Merge", "Row", "Reject").index(level)
