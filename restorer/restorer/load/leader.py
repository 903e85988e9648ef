"""Leading a load: claiming and settling in turn, alone or over worker processes, until every table is settled.

One process of a run leads: it holds the target, cuts large files into segments and settles cycles of foreign keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from restorer.database import account
from restorer.database.connection import Connection
from restorer.database.ledger import LEASE_SECONDS
from restorer.database.session import Session
from restorer.errors import LoadFailed, Unavailable
from restorer.load.beside import Beside
from restorer.load.contest import orderly
from restorer.load.pool import Pool
from restorer.load.process import Process
from restorer.load.settle import Settler
from restorer.load.statistics import told
from restorer.load.worker import IDLE_SECONDS, Context, Workbench
from restorer.model import TablePlan
from restorer.source import reader
from restorer.source.reader import Segment
from restorer.spec import RestoreSpec

Settle = Callable[[], bool]
LOOK_SECONDS = 0.25  # between two looks at the ledger and the workers: what our own ones do wakes us
LOADS = 5  # passes over the tasks; more than one only when the server crashes just at the end
# Bytes of a file that one task covers, when there are several workers, and at its ends. A file that a killed process cut half is cut
# again from its beginning, and must be cut at the same places: none of these may change between versions that work on one run.
SEGMENT, SHORT_SEGMENT = 32 << 20, 4 << 20
LAST_SEGMENT = 0.8  # of one worker's share of a file: need not be read to be cut


def worth_cutting(spec: RestoreSpec, plans: tuple[TablePlan, ...]) -> frozenset[str]:
    """Tables whose file is loaded in segments. Under Update each of several records with one key leaves its mark, so the
    order must hold and the file stays whole; a compressed file has no places to start from."""
    if spec.mode != "Apply" or spec.load.workers * spec.load.pods == 1 or spec.on_conflict == "Update":
        return frozenset()
    return frozenset(p.name for p in plans if not p.file.compression and p.file.size > SEGMENT * 3 // 2 and orderly(p))


def worker_processes(spec: RestoreSpec) -> int:
    """How many a process that loads by this spec has beside itself; 0: it loads alone."""
    return spec.load.workers if spec.mode == "Apply" and spec.load.workers > 1 else 0


class Leader:
    """Leads the load of `plans`. `still_ours` raises when another process has taken the target. `spares`: worker processes
    that were started ahead. `on_settled`: is told of tables that are complete."""

    def __init__(
        self,
        bench: Workbench,
        plans: tuple[TablePlan, ...],
        still_ours: Callable[[], None],
        spares: list[Process],
    ) -> None:
        self._spares = spares
        self.on_settled: Callable[[list[TablePlan]], None] = lambda _: None
        self._bench, self._plans, self._still_ours = bench, plans, still_ours
        self._session, self._ledger, self._spec, self._emit = bench.session, bench.ledger, bench.spec, bench.emit
        self._retrying = bench.session.retrying
        self._groups: dict[int, list[TablePlan]] = {}
        for plan in plans:
            self._groups.setdefault(plan.group, []).append(plan)

    def load(self) -> None:
        """Loads until the server's disk has it all. A crash takes back commits that were answered, also those that this
        process thinks of as the end of the load."""
        for _ in range(LOADS):
            self._once()
            self._retrying(self._ledger.make_durable, what="ledger")
            if not self._retrying(self._bench.tasks.unsettled, what="ledger"):
                return
            if self._retrying(self._bench.tasks.failed, what="ledger"):
                break
        self._refuse_unfinished()

    def _once(self) -> None:
        settle = partial(self._settle, self._settler(self._session))
        if worker_processes(self._spec):
            self._with_workers(settle)
        else:
            self._alone(settle)

    def _settler(self, session: Session) -> Settler:
        self._bench.look()  # it makes ladders, perhaps in another thread
        return Settler(session, self._ledger, self._bench.tasks, self._bench.ladder, self._emit)

    def _settle(self, settler: Settler, beside: Beside | None = None) -> bool:
        """Settles every group that is read to its end, cycles `beside`. -> whether any is settled now."""
        settled = set() if beside is None else beside.through()
        open_tables = self._retrying(self._bench.tasks.unsettled, what="ledger")
        for number, group in self._groups.items():
            if not all(open_tables.get(p.name, False) for p in group):
                continue
            if beside is not None and any(p.cyclic for p in group):
                beside.settle(group)
                continue
            settler.settle(group)
            self._retrying(told, what="statistics")
            settled.add(number)
        for number in settled:
            self.on_settled(self._groups[number])
        return bool(settled)

    def _alone(self, settle: Settle) -> None:
        idle_since = time.monotonic()
        cutting = self._segments()  # for other pods, or of a run that several workers began
        while True:
            self._still_ours()
            cut = next(cutting, None)
            if self._bench.load_one() or settle():
                settle()
                idle_since = time.monotonic()
                continue
            if cut is None:
                cutting = self._segments()
            if cut is not None or self._retrying(self._bench.tasks.under_way, what="ledger"):
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > self._patience():
                return
            time.sleep(IDLE_SECONDS)

    def _patience(self) -> float:
        """Seconds to wait for a task that nobody works on and that cannot be claimed: the backend of a process that was
        killed may be at its last COMMIT still, and holds the task's row until then."""
        unsettled = self._retrying(self._bench.tasks.unsettled, what="ledger")
        failed = self._retrying(self._bench.tasks.failed, what="ledger")
        return LEASE_SECONDS if unsettled and not failed else 0.0

    def _with_workers(self, settle: Callable[[Beside], bool]) -> None:
        pool = self.pool()  # the first segments are cut while the workers connect
        cutting = self._segments()
        try:
            with closing(Beside(self._session, self._settler, pool.tell)) as beside:
                busy = True
                while busy or beside.busy or settle(beside):
                    self._still_ours()
                    busy = pool.check()
                    if settle(beside):
                        pool.wake()
                    if next(cutting, None) is not None:
                        pool.wake()
                    else:
                        if not self._retrying(self._bench.tasks.unsettled, what="ledger"):
                            break  # the workers need not find that out by themselves
                        pool.wait(LOOK_SECONDS)
                        cutting = self._segments()
        finally:
            pool.stop()

    def pool(self) -> Pool:
        context = Context(
            self._session.conninfo, self._ledger.run, self._spec.resolved(), self._plans, self._bench.stage_home
        )
        return Pool(context, worker_processes(self._spec), self._emit, self._spares)

    def _segments(self) -> Iterator[str]:
        """Cuts the large files into tasks, a segment at each step, while the workers are at the first ones already. That a file
        is cut is told with all its segments: a failover may have taken back one that was told before, and, later, all of it;
        so once it has ended it must be begun anew."""
        pending = set(self._retrying(self._bench.tasks.to_split, what="ledger"))
        share = self._last_share() if pending else 0.0
        for plan in self._plans:
            if plan.name not in pending:
                continue
            cut = list[Segment]()
            for s in reader.segments(plan.file, SEGMENT, SHORT_SEGMENT, int(share * plan.file.size)):
                cut.append(s)
                self._retrying(partial(self._add, plan.name, [s]), what="ledger")
                yield plan.name
            self._retrying(partial(self._add, plan.name, cut, all_of_it=True), what="ledger")

    def _last_share(self) -> float:
        """How much of a file its last segment has: by the workers that the run began with, as it must be cut there again."""
        load: dict[str, int] = self._retrying(self._ledger.spec, what="ledger").get("load", {})
        return LAST_SEGMENT / (load.get("workers", 1) * load.get("pods", 1))

    def _add(self, table: str, segments: list[Segment], _: Connection, *, all_of_it: bool = False) -> None:
        with self._session.transaction(durable=all_of_it) as conn:
            for s in segments:
                self._ledger.add_task(conn, table, s.start, s.stop, s.ordinal)
            if all_of_it:
                self._bench.tasks.split_done(conn, table)

    def _refuse_unfinished(self) -> None:
        """Tables that failed, and those that were not loaded because of them."""
        open_tables = self._retrying(self._bench.tasks.unsettled, what="ledger")
        if not open_tables:
            return
        for a in self._retrying(lambda c: account.accounts(c, self._ledger), what="ledger"):
            if a.error:
                others = sorted(open_tables.keys() - {a.name})
                also = f"; not loaded for it: {', '.join(others)}" if others else ""
                raise LoadFailed(
                    a.error + also, "mend the backup and start a new run with another run ID", table=a.name
                )
        raise Unavailable(f"tables {', '.join(sorted(open_tables))} are not finished", "start the same command again")
