"""What a probe says of a batch: by one query, where that serves (asking.py), else by a stage of the probe's columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from restorer.convert.exact import only_the_server_can_read
from restorer.database.connection import Connection
from restorer.database.relation import Relations
from restorer.load.asking import Asking
from restorer.load.batch import Outcome
from restorer.load.merging import Merger, Mixed
from restorer.load.shaping import Shape
from restorer.load.sifting import Sifted
from restorer.load.stage import Stage
from restorer.model import TablePlan

_IN_VAIN = 3  # batches of a table that went twice because the query was not enough


class Seen(msgspec.Struct):
    """`apart`: the rows that share a key, and take a way of their own; `surely`: all of them; `there`: with a row of the table,
    perhaps. `vouching`: the probe stands for the triggers of the foreign keys; `afterwards`: it does once all rows are in, where it is
    asked again then."""

    apart: Collection[int] = ()
    vouching: bool = False
    afterwards: Stage | None = None
    surely: bool = True
    there: bool = True


class Probing:
    """Probes of one table, with the columns `given`. `merger` makes stages, and knows what waits."""

    def __init__(self, plan: TablePlan, relations: Relations, merger: Merger, given: Shape, *, cyclic: bool) -> None:
        """`cyclic`: rows of the table may be each other's parents."""
        self._merger, self._given = merger, given
        self._isolating = any(only_the_server_can_read(c.column.type) for c in plan.columns)
        able = bool(given) and not cyclic and Asking.possible(plan.table, given)
        self._asking = Asking(plan.table, relations, given) if able else None
        self._in_vain = 0
        self._for_now, self._asked = True, False

    def begin(self) -> None:
        """Another batch."""
        self._for_now, self._asked = True, False

    def doubt(self) -> bool:
        """What the last look said was not enough, as it seems. -> whether another one will see more"""
        if not self._asked:
            return False
        self._for_now = self._asked = False
        self._in_vain += 1
        if self._in_vain == _IN_VAIN:
            self._asking = None
        return True

    def look(
        self, conn: Connection, sifted: Sifted, stages: Sequence[Stage], outcome: Outcome, number: int,
        brought: Shape, keyed: bool,
    ) -> Seen:  # fmt: skip
        """Books what no order of loading can help. `stages`: of rows of the batch that are not among the sifted ones; `number`: of
        the probe among all of them; `brought`: the columns of the rows; `keyed`: whether it may stand for triggers afterwards.
        Raises Unanswered, Mixed."""
        if not self._given:
            return Seen()
        outcome.needed("Merge")
        if self._asking is not None and self._for_now and not stages and sifted.listed:
            vouching = self._merger.may_vouch(conn, self._given, len(sifted.indices), brought)
            self._asked = True
            found = self._asking.ask(conn, sifted, vouching=vouching)
            outcome.rejects |= found.bad
            return Seen(found.taken | found.shared, vouching, surely=False, there=bool(found.taken))
        probe = self._merger.stage(conn, self._given, number, narrow=True, keep=True)
        outcome.rejects |= probe.copy(self._given, sifted.probes(), isolate=self._isolating)
        vouching = self._merger.may_vouch(conn, self._given, probe.size, brought)
        outcome.rejects |= probe.screen(vouching=vouching)
        if any(stage.shares_key_with([*stages[:n], probe]) for n, stage in enumerate(stages)):
            raise Mixed
        seen = Seen(probe.colliding(), vouching)
        self._merger.set_aside(conn, probe, seen.apart, outcome)
        if keyed and self._merger.may_vouch_afterwards(conn, probe, probe.size, brought):
            seen.afterwards = probe
        else:
            self._merger.done_with(probe)
        return seen
