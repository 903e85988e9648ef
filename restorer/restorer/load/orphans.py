"""Rows of a cycle of foreign keys that cannot go in, because a row they need (or that one needs…) is nowhere.

The greatest set of rows that hold each other up stays: also two that refer to each other, and one that refers to itself.
"""

from __future__ import annotations

from collections import defaultdict

from restorer.database.problems import named
from restorer.load.stage import Stage
from restorer.model import Problem

_PASSES = 16  # by set queries; a long chain would need one for each of its rows

Node = tuple[int, int]  # (number of the stage, ordinal)


class Graph:
    """Who waits for whom: rows whose parent, in the cycle, is not in its table. `needs`: (row, foreign key) -> how many
    rows of the stages could be that parent; `children`: row -> those that it could serve."""

    def __init__(self, stages: list[Stage]) -> None:
        self.needs: dict[tuple[Node, str], int] = {}
        self.children: defaultdict[Node, list[tuple[Node, str]]] = defaultdict(list)
        for number, stage in enumerate(stages):
            for fk in stage.inner():
                self.needs |= {((number, ordinal), fk.name): 0 for ordinal in stage.waiting(fk)}
                for at, other in enumerate(stages):
                    if not other.refers_to(fk) or not set(fk.to_columns) <= set(other.given):
                        continue
                    for child, parent in stage.edges(fk, other):
                        need = ((number, child), fk.name)
                        if need in self.needs:
                            self.needs[need] += 1
                            self.children[at, parent].append(need)

    def lost(self) -> dict[Node, str]:
        """The rows that nothing holds up -> the foreign key that fails."""
        needs = dict(self.needs)
        lost: dict[Node, str] = {}
        work = [need for need, count in needs.items() if not count]
        while work:
            row, fk = work.pop()
            if row in lost:
                continue
            lost[row] = fk
            for need in self.children.get(row, ()):
                needs[need] -= 1
                if not needs[need]:
                    work.append(need)
        return lost

    def parents(self) -> dict[Node, set[Node]]:
        """row -> rows of the stages that it refers to, for the rows that wait."""
        found: defaultdict[Node, set[Node]] = defaultdict(set)
        for parent, needs in self.children.items():
            for child, _ in needs:
                found[child].add(parent)
        return found


def prune(stages: list[Stage]) -> list[dict[int, Problem]]:
    """Takes the rows without parents out of `stages` (all those of one cycle). -> for each stage, those taken out"""
    bad: list[dict[int, Problem]] = [{} for _ in stages]
    if not any(stage.inner() for stage in stages):
        return bad
    for _ in range(_PASSES):
        found = [stage.inner_orphans(stages) for stage in stages]
        for all_of_it, new in zip(bad, found, strict=True):
            all_of_it |= new
        if not any(found):
            return bad
    for (number, ordinal), fk in Graph(stages).lost().items():
        bad[number][ordinal] = named("23503", constraint=fk)
    for stage, rows in zip(stages, bad, strict=True):
        stage.remove(list(rows))
    return bad
