"""Good rows by COPY in spite of bad neighbours: what could keep a row out is looked at first, in a probe.

A probe sees nothing but the columns of keys, foreign keys and CHECK constraints, and those whose values only the server can read. It
is a query (asking.py) or a stage (probing.py says when), and tells which rows must be rejected, and which share a key with another row;
those alone take the long way through a whole stage. All others go straight into the table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator

from restorer.convert.converter import Rows
from restorer.convert.exact import only_the_server_can_read
from restorer.load.shaping import Shape
from restorer.load.staged import Line
from restorer.model import Table, TablePlan

MOST = 4  # a batch of which more than one row in so many shares its key is staged whole at once


def probe_columns(plan: TablePlan) -> Shape | None:
    """The columns that a probe of the table has; None where a probe would not do, or would not be less than the rows."""
    table, planned = plan.table, [c.column.name for c in plan.columns]
    if (
        table.triggers
        or table.ruled
        or table.rls
        or table.exclusions
        or any(u.partial or not u.columns for u in table.uniques)
    ):
        return None
    wanted = set[str]()
    for group in _groups(table):
        if set(group) <= set(planned):
            wanted.update(group)
    return tuple(name for name in planned if name in wanted) if len(wanted) < len(planned) else None


def _groups(table: Table) -> Iterator[tuple[str, ...]]:
    yield from (u.columns for u in table.uniques)
    yield from (fk.columns for fk in table.foreign_keys)
    yield from (check.columns for check in table.checks)
    yield from ((c.name,) for c in table.columns if only_the_server_can_read(c.type))


class Sifted:
    """The lines of a batch, and what a probe of it sees. Converted whole before the first question to the server.

    `indices`: of the records that a probe sees; `listed`: whether their fields read the same as elements of an array."""

    def __init__(self, pieces: Iterable[tuple[int, Rows, Collection[int]]]) -> None:
        """`pieces`: for each the index of its first record, what it became, and the indices of those that do not count."""
        self._pieces: list[tuple[int, list[bytes], Collection[int]]] = []
        self._probed: list[list[bytes]] = []
        self.indices: list[int] = []
        self.listed = True
        for start, rows, apart in pieces:
            self._pieces.append((start, rows.lines, apart))
            seen = list(range(start, start + len(rows.lines)))
            for index in sorted(apart, reverse=True):  # few, as a rule
                del seen[index - start]
            if seen and rows.probed:
                self.indices += seen
                self._probed.append(rows.probed)
                self.listed = self.listed and rows.listed

    def columns(self) -> list[bytes]:
        """The fields of each of the probe's columns, between newlines."""
        return list(map(b"\n".join, zip(*self._probed, strict=True)))

    def probes(self) -> Iterator[list[Line]]:
        """The lines of a probe that is a stage, piece by piece; each is let go."""
        at, probed, self._probed = 0, self._probed[::-1], []
        while probed:
            lines = list(map(b"\t".join, zip(*(fields.split(b"\n") for fields in probed.pop()), strict=True)))
            yield list(zip(self.indices[at : at + len(lines)], lines, strict=True))
            at += len(lines)

    def of(self, indices: Collection[int]) -> list[Line]:
        """The lines of these records."""
        wanted = sorted(indices)
        found = list[Line]()
        for start, lines, _ in self._pieces:
            these = wanted[bisect_left(wanted, start) : bisect_left(wanted, start + len(lines))]
            found += [(index, lines[index - start]) for index in these]
        return found

    def but(self, indices: Collection[int]) -> Iterator[list[bytes]]:
        """The lines of the others, piece by piece; each is let go."""
        without = sorted(indices)
        self._pieces.reverse()
        while self._pieces:
            start, lines, apart = self._pieces.pop()
            these = without[bisect_left(without, start) : bisect_left(without, start + len(lines))]
            for index in sorted({*these, *apart}, reverse=True):  # few, as a rule
                del lines[index - start]
            yield lines
