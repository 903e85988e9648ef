"""One batch down the ladder: Copy -> Exact -> Merge -> Row -> Reject, inside the caller's transaction.

Copy   verbatim rows (and, one by one, exact rows where a record needs it) straight into the table
Exact  after a conversion error: every record converted by its column's type, then COPY again
Merge  after a conflict, or where rows are there already: into a temporary table, set queries say who can go in
Row    what set queries cannot foresee (triggers, exclusion constraints, expression indexes): found by halving
Reject the record and its reason go to the ledger; the rest is loaded

Good rows never pay for bad neighbours twice: `Ladder.start` remembers the rung that the last batches needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import psycopg
from psycopg import sql

from .batch import Batch, Outcome
from .connection import Connection, kind_of
from .convert import Converter
from .model import Problem, TablePlan
from .piece import Piece
from .problems import problem_of
from .relation import Relations, columns
from .stage import COPY_OPTIONS, Keys, Line, Stage

Explain = Callable[[str], None]
CALM = 2  # clean batches after which a lower rung is tried again
Shape = tuple[str, ...]


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
        explain: Explain = lambda _: None,
    ) -> None:
        """`staged`: rows may be there already, so start at Merge. `always_staged`: never leave it (a dry run: only the set
        queries see foreign keys). `inner`: foreign keys within the table's own cycle.
        `home`: schema for the stage where the role may not make temporary tables."""
        self.plan, self._relations, self.on_conflict = plan, relations, on_conflict
        self._inner, self._home, self._explain = inner, home, explain
        self.converter = Converter(plan)
        self._wide: Converter | None = None
        self._always_staged = always_staged or plan.table.rls
        self._staged = staged or self._always_staged
        self._exact = False
        self._calm = 0
        self._target = relations.of(plan.table)

    def load(
        self,
        conn: Connection,
        batch: Batch,
        begin: Callable[[Connection, bool], None],
        rollback: Callable[[Connection], None],
    ) -> Outcome:
        """Loads the batch and leaves the transaction open for the ledger. Raises psycopg.Error for what is no record's fault."""
        exact, staged, blind = self._exact, self._staged, False
        deepest = "Copy"
        while True:
            begin(conn, staged)
            outcome = Outcome(level=deepest, rejects={}, deferred=[])
            try:
                self._attempt(conn, batch, outcome, exact, staged, blind)
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
        others: dict[tuple[Shape, Shape], list[Line]] = {}
        chunks = self.convert(batch, outcome, exact, others)
        if exact:
            outcome.needed("Exact")
        names = self.converter.columns
        if staged:
            self._merge(conn, 0, names, names, chunks, outcome, isolate=exact, blind=blind)
        else:
            copied = self._copy(conn, names, chunks)
            outcome.counters.inserted += copied
            outcome.levels["Exact" if exact else "Copy"] += copied
        for number, ((brings, line_has), lines) in enumerate(others.items(), 1):
            self._merge(conn, number, brings, line_has, [lines], outcome, isolate=exact, blind=blind)
        outcome.converted_badly = bool(outcome.rejects)

    # -- converting ----------------------------------------------------------------------------------------------------

    def convert(
        self, batch: Batch, outcome: Outcome, exact: bool, others: dict[tuple[Shape, Shape], list[Line]]
    ) -> Iterator[list[Line]]:
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
        others: dict[tuple[Shape, Shape], list[Line]],
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

    def line_of(
        self, piece: Piece, index: int, outcome: Outcome, others: dict[tuple[Shape, Shape], list[Line]]
    ) -> None:
        """The line of a piece of one record, under the shape that it brings; or its Problem in `outcome`."""
        rows, names = self.converter.exact(piece), self.converter.columns
        if rows.problems:
            self._late(piece, 0, index, rows.problems[0], outcome, others)
        else:
            others.setdefault((_without(names, rows.defaults.get(0, ())), names), []).append((index, rows.lines[0]))

    # -- into the database ---------------------------------------------------------------------------------------------

    def _copy(self, conn: Connection, names: Shape, chunks: Iterator[list[Line]]) -> int:
        """COPY straight into the table. -> rows"""
        copy = sql.SQL("COPY {} ({}) FROM STDIN {}").format(self._target.write, columns(names), COPY_OPTIONS)
        copied = 0
        with conn.cursor() as cur, cur.copy(copy) as out:
            for lines in chunks:
                if lines:
                    out.write(b"\n".join([line for _, line in lines]) + b"\n")
                    copied += len(lines)
        return copied

    def stage(self, conn: Connection, given: Shape, number: int) -> Stage:
        return Stage(
            conn, self.plan.table, self._relations, given=given, inner=self._inner, home=self._home, number=number
        )

    def _merge(
        self,
        conn: Connection,
        number: int,
        given: Shape,
        names: Shape,
        chunks: Iterable[list[Line]],
        outcome: Outcome,
        *,
        isolate: bool,
        blind: bool,
    ) -> None:
        outcome.needed("Merge")
        stage = self.stage(conn, given, number)
        outcome.rejects |= stage.copy(names, chunks, isolate=isolate)
        inner: dict[int, Problem] = {}
        if not blind:
            outcome.rejects |= stage.screen()
            inner |= self._prune(stage)
            self.settle_keys(stage.keys(self.on_conflict), outcome)
            inner |= self._prune(stage)  # a row that went for its second key may have been somebody's parent
        try:
            with conn.transaction():
                inserted, updated = self._apply(stage)
        except psycopg.Error as error:
            if kind_of(error) != "record":
                raise
            self._explain(f"SQLSTATE {error.sqlstate}: isolating by halves")
            outcome.needed("Row")
            inserted, updated = self.halve(conn, stage, stage.ordinals(), outcome, inner)
            outcome.levels["Row"] += inserted + updated
        outcome.counters.inserted += inserted
        outcome.counters.updated += updated
        outcome.deferred.extend(inner)
        if self._home:
            stage.drop()

    def _prune(self, stage: Stage) -> dict[int, Problem]:
        missing: dict[int, Problem] = {}
        if self._inner:
            while found := stage.inner_orphans([stage]):
                missing |= found
        return missing

    def settle_keys(self, keys: Keys, outcome: Outcome) -> None:
        outcome.counters.duplicate += keys.duplicate
        outcome.counters.updated += keys.updated
        if self.on_conflict == "Skip":
            outcome.counters.conflict += len(keys.different)
        else:
            outcome.rejects |= keys.different

    def _apply(self, stage: Stage, low: int | None = None, high: int | None = None) -> tuple[int, int]:
        """-> (inserted, updated)"""
        updated = self.update_existing(stage, low, high)
        return stage.insert(low, high), updated

    def update_existing(self, stage: Stage, low: int | None = None, high: int | None = None) -> int:
        """Under Update: the rows that are there already get the new content and leave the stage. -> rows"""
        if self.on_conflict != "Update":
            return 0
        updated = stage.update(low, high)
        stage.remove(updated)
        return len(updated)

    def halve(
        self,
        conn: Connection,
        stage: Stage,
        ordinals: list[int],
        outcome: Outcome,
        inner: dict[int, Problem],
        *,
        keep: bool = False,
    ) -> tuple[int, int]:
        """The Row rung: tries halves, each under a savepoint, until every bad row stands alone. Rows that lack a parent in
        their own cycle go to `inner`, and stay in the stage with `keep`. -> (inserted, updated)"""
        done = [0, 0]
        work = [ordinals] if ordinals else []
        while work:
            part = work.pop()
            try:
                with conn.transaction():
                    inserted, updated = self._apply(stage, part[0], part[-1])
                    stage.remove(part)
                done[0] += inserted
                done[1] += updated
            except psycopg.Error as error:
                if kind_of(error) != "record":
                    raise
                if len(part) > 1:
                    work += [part[len(part) // 2 :], part[: len(part) // 2]]  # the earlier half first
                    continue
                self._single(part[0], error, outcome, inner)
                if not (keep and part[0] in inner):
                    stage.remove(part)
        return done[0], done[1]

    def _single(self, ordinal: int, error: psycopg.Error, outcome: Outcome, inner: dict[int, Problem]) -> None:
        problem = problem_of(error, [c.name for c in self.plan.table.columns])
        if problem.constraint in self._inner:
            inner[ordinal] = problem
        elif problem.sqlstate == "23505" and self.on_conflict == "Skip":
            outcome.counters.conflict += 1
        else:
            outcome.rejects[ordinal] = problem


def _without(names: Shape, defaults: tuple[int, ...]) -> Shape:
    return tuple(n for i, n in enumerate(names) if i not in defaults)


def _depth(level: str) -> int:
    return ("Copy", "Exact", "Merge", "Row", "Reject").index(level)
