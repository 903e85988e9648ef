"""Records to lines of COPY, each under its shape: the columns that it brings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import msgspec

from restorer.convert.converter import Converter, Rows
from restorer.database.waiting import Record
from restorer.load.batch import Batch, Convert, Outcome
from restorer.load.parents import Parents
from restorer.load.staged import Line
from restorer.model import ColumnPlan, Problem, TablePlan
from restorer.source.decoding import Decoding
from restorer.source.piece import Piece

Shape = tuple[str, ...]
Others = dict[tuple[Shape, Shape], list[Line]]  # (columns they bring, columns of the line) -> lines


class Shaper:
    """Makes the lines of one table. Most records bring all planned columns; a key that is missing where the column has a
    default, or one that only the wide plan knows, makes another shape."""

    def __init__(self, plan: TablePlan, probe: Shape = (), keys: Shape = ()) -> None:
        """`probe`: the columns of a probe (sifting.py). `keys`: those of foreign keys, where their values are wanted (parents.py)."""
        self.plan = plan
        self.converter = Converter(plan, probe, keys)
        self._wide: Converter | None = None

    @property
    def columns(self) -> Shape:
        """The planned columns, in the order of a line."""
        return self.converter.columns

    def straight(
        self, batch: Batch, convert: Convert, outcome: Outcome, others: Others, parents: Parents | None = None
    ) -> Iterator[list[bytes]]:
        """The lines of the records that bring all planned columns, piece by piece, for a COPY that asks for no numbers.
        `parents`: is told of the keys."""
        for start, piece, rows in batch.converted(convert):
            if parents is not None:
                parents.saw(rows.keys)
            lines = rows.lines
            for i in sorted(self._apart(start, piece, rows, outcome, others), reverse=True):  # few, as a rule
                del lines[i]
            yield lines

    def lines(self, batch: Batch, outcome: Outcome, exact: bool, others: Others) -> Iterator[list[Line]]:
        """The same, numbered, for a stage."""
        convert = self.converter.exact if exact else self.converter.verbatim
        for start, piece, rows in batch.converted(convert):
            numbers, apart = range(start, start + len(rows.lines)), self._apart(start, piece, rows, outcome, others)
            yield _numbered(numbers, rows.lines, apart)

    def sifted(self, batch: Batch, outcome: Outcome, others: Others) -> Iterator[tuple[int, Rows, Collection[int]]]:
        """What Sifted takes, converted exactly, piece by piece; apart are the records that do not bring all planned columns."""
        for start, piece, rows in batch.converted(self.converter.sifted):
            yield start, rows, [start + i for i in self._apart(start, piece, rows, outcome, others)]

    def _apart(self, start: int, piece: Piece, rows: Rows, outcome: Outcome, others: Others) -> Collection[int]:
        """Puts problems and other shapes where they belong. -> their positions in the piece"""
        outcome.json_nulls += rows.json_nulls
        if not rows.problems and not rows.defaults:
            return ()
        for i, problem in rows.problems.items():
            self._late(piece, i, start + i, problem, outcome, others)
        for i, defaults in rows.defaults.items():
            if i not in rows.problems:
                shape = _without(self.columns, defaults), self.columns
                others.setdefault(shape, []).append((start + i, rows.lines[i]))
        return rows.problems.keys() | rows.defaults.keys()

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
            rows = self._wide.exact(Piece.of_one(*piece.place(i), piece.raw(i)))
            if not rows.problems:
                names = self._wide.columns
                others.setdefault((_without(names, rows.defaults.get(0, ())), names), []).append((index, rows.lines[0]))
                return
            problem = rows.problems[0]
        outcome.rejects[index] = problem

    def of_records(self, records: Sequence[Record], outcome: Outcome) -> Others:
        """The lines of records that were set aside, under the shapes that they bring, numbered by their ordinals; what
        cannot be converted is in `outcome`."""
        decoding = Decoding(self.converter.decoder, self.converter.line_decoder)
        piece = decoding.together([(r.ordinal, r.offset, r.raw) for r in records])
        part, others = Outcome(rejects={}, deferred=[]), Others()
        rows = self.converter.exact(piece)
        whole = _numbered(range(len(records)), rows.lines, self._apart(0, piece, rows, part, others))
        if whole:
            others.setdefault((self.columns, self.columns), []).extend(whole)
        outcome.rejects |= {records[i].ordinal: problem for i, problem in part.rejects.items()}
        return {shape: [(records[i].ordinal, line) for i, line in lines] for shape, lines in others.items()}


def keeping(plan: TablePlan) -> TablePlan:
    """The plan for policy Update, where a missing key leaves the column of a row that is there as it is. So no column gets
    a null for it, as if each had a default (a new row gets null all the same)."""

    def keep(c: ColumnPlan) -> ColumnPlan:
        return msgspec.structs.replace(c, column=msgspec.structs.replace(c.column, has_default=True))

    return msgspec.structs.replace(
        plan, columns=tuple(keep(c) for c in plan.columns), late=tuple(keep(c) for c in plan.late)
    )


def _without(names: Shape, defaults: tuple[int, ...]) -> Shape:
    return tuple(n for i, n in enumerate(names) if i not in defaults)


def _numbered(numbers: range, lines: list[bytes], apart: Collection[int]) -> list[Line]:
    numbered = list(zip(numbers, lines, strict=True))
    for i in sorted(apart, reverse=True):  # few, as a rule
        del numbered[i]
    return numbered
