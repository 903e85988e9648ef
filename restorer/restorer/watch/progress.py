"""How far a run is: a fold of the events into figures. No I/O; the clocks are given.

`Progress` is a listener like any other, and the one the other listeners read: it stands first in `fan_out`. Events come
from the engine's thread and snapshots are taken by others, so a lock guards the figures (held for microseconds).

Two clocks: `clock` counts seconds and never jumps (rates, stalls, elapsed time), `wall` is the time of day in Unix
seconds (what is shown to machines). Rates and elapsed time are of this attempt only; counts are of the whole run.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import msgspec

from restorer.events import (
    AnyEvent,
    BatchLoaded,
    Failed,
    PhaseChanged,
    Retried,
    RunFinished,
    RunStarted,
    TableChanged,
    TableCounts,
    TableStart,
    Warned,
)
from restorer.report import Counters, FallbackLevel, Report
from restorer.watch.figures import LEVELS, OUTCOMES, Snapshot, TableSnapshot, rfc3339
from restorer.watch.rate import Rate

RECENT_SECONDS = 10.0  # how far back "records per second" looks
ETA_SECONDS = 30.0  # the ETA looks further back: it should not jump with every batch
ETA_AFTER_SECONDS = 3.0  # no ETA before this much loading: the first batches say little
ETA_AT_MOST = 30 * 86400  # beyond this it is not an estimate


class _Table:
    """One table as the events tell it."""

    def __init__(self, start: TableStart) -> None:
        self.name = start.name
        self.bytes_total = start.bytes
        self.bytes_done = start.bytes_done
        self.counters = msgspec.structs.replace(start.counters)
        self.state = start.state
        self.error = ""
        self.rate = Rate(RECENT_SECONDS)
        self.earlier = start.counters.read  # of earlier attempts: not in this attempt's rates
        self.began: float | None = None
        self.seconds = 0.0

    def move(self, state: str, now: float) -> None:
        if state == self.state and not (state == "Loading" and self.began is None):
            return
        if self.began is not None:
            self.seconds += now - self.began
            self.began = None
        if state == "Loading":
            self.began = now
            self.rate.start(now)
        if state == "Done":  # brackets and white space around the records belong to no batch
            self.bytes_done = self.bytes_total
        self.state = state

    def settle(self, counters: Counters) -> None:
        for name in counters.__struct_fields__:
            setattr(self.counters, name, getattr(counters, name))

    def shown(self, now: float) -> TableSnapshot:
        c = self.counters
        seconds = self.seconds + (now - self.began if self.began is not None else 0.0)
        average = (c.read - self.earlier) / seconds if seconds > 0 else 0.0
        return TableSnapshot(
            name=self.name,
            state=self.state,
            bytes_total=self.bytes_total,
            bytes_done=self.bytes_done,
            read=c.read,
            inserted=c.inserted,
            updated=c.updated,
            duplicate=c.duplicate,
            conflict=c.conflict,
            rejected=c.rejected,
            deferred=c.read - sum(getattr(c, outcome) for outcome in OUTCOMES),
            records_per_second=round(self.rate.per_second(now) if self.state == "Loading" else average),
            seconds=round(seconds),
            error=self.error,
        )


class Progress:
    """The listener. `stall_timeout` in seconds is what the snapshot's `stalled` is judged by."""

    def __init__(
        self,
        *,
        stall_timeout: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.stall_timeout = stall_timeout
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()
        self._tables: dict[str, _Table] = {}
        self._run = self._mode = self._snapshot = self._start_time = ""
        self._outcome = self._reason = self._message = ""
        self._phase, self._attempt, self._resumed = "Validating", 1, False
        self._began = clock()
        self._ended: float | None = None
        self._loading_since: float | None = None
        self._loading_seconds = 0.0
        self._last_commit: float | None = None
        self._last_commit_wall = self._updated_wall = wall()
        self._records, self._bytes = Rate(RECENT_SECONDS), Rate(ETA_SECONDS)
        self._read_now = self._batches_now = 0  # of this attempt
        self._fallback = {level: [0, 0] for level in LEVELS}
        self._reasons: dict[str, int] = {}
        self._retries = 0
        self._warnings: dict[str, None] = {}  # each once, in order
        self._current = ""

    def __call__(self, event: AnyEvent) -> None:
        with self._lock:
            self._fold(event, self._clock())

    def _fold(self, event: AnyEvent, now: float) -> None:
        match event:
            case RunStarted():
                self._start(event, now)
            case PhaseChanged():
                self._enter(event.phase, now)
            case TableChanged():
                self._table(event.table).move(event.state, now)
                self._table(event.table).error = event.error
                if event.state == "Loading":
                    self._current = event.table
            case BatchLoaded():
                self._batch(event, now)
            case TableCounts():
                self._counts(event, now)
            case Retried():
                self._retries += 1
            case Warned():
                self._warnings[event.message] = None
            case Failed():
                self._reason, self._message = event.reason, event.message
            case RunFinished():
                self._finish(event.report, now)
            case _:
                return  # an explanation changes no figure
        self._updated_wall = self._wall()

    def _table(self, name: str) -> _Table:
        if name not in self._tables:
            self._tables[name] = _Table(TableStart(name=name, bytes=0))
        return self._tables[name]

    def _start(self, event: RunStarted, now: float) -> None:
        self._run, self._mode, self._snapshot = event.run, event.mode, event.snapshot
        self._attempt, self._resumed = event.attempt, event.resumed
        self._start_time = event.start_time or rfc3339(self._wall())
        self._tables = {table.name: _Table(table) for table in event.tables}
        self._began, self._last_commit_wall = now, self._wall()
        self._reasons, self._retries = dict(event.reasons), event.retries
        for rung in event.fallback:
            self._fallback[rung.level] = [rung.batches, rung.records]

    def _enter(self, phase: str, now: float) -> None:
        if self._phase == "Loading" and self._loading_since is not None:
            self._loading_seconds += now - self._loading_since
            self._loading_since = None
        if phase == "Loading":
            self._loading_since = self._last_commit = now
            self._records.start(now)
            self._bytes.start(now)
        self._phase = phase

    def _progressed(self, now: float, records: int, octets: int) -> None:
        self._records.add(now, records)
        self._bytes.add(now, octets)
        self._read_now += records
        self._last_commit, self._last_commit_wall = now, self._wall()

    def _batch(self, event: BatchLoaded, now: float) -> None:
        if self._loading_since is None and self._phase != "Verifying":
            self._enter("Loading", now - event.seconds)
        table = self._table(event.table)
        if table.began is None and table.state in ("Pending", "Loading"):
            table.move("Loading", now - event.seconds)
        for name in event.counters.__struct_fields__:
            setattr(table.counters, name, getattr(table.counters, name) + getattr(event.counters, name))
        octets = min(event.bytes, max(table.bytes_total - table.bytes_done, 0))
        table.bytes_done += octets
        table.rate.add(now, event.counters.read)
        self._current = event.table
        self._batches_now += 1
        self._progressed(now, event.counters.read, octets)
        self._fallback.setdefault(event.level, [0, 0])[0] += 1
        for level, records in (event.levels or {event.level: event.counters.read}).items():
            self._fallback.setdefault(level, [0, 0])[1] += records
        for reason, records in event.reasons.items():
            self._reasons[reason] = self._reasons.get(reason, 0) + records

    def _counts(self, event: TableCounts, now: float) -> None:
        table = self._table(event.table)
        records, octets = event.counters.read - table.counters.read, event.bytes_done - table.bytes_done
        moved = event.counters != table.counters or octets != 0
        table.settle(event.counters)
        table.bytes_done = min(event.bytes_done, table.bytes_total)
        table.move(event.state, now)
        if moved:  # another pod's batch is progress too
            table.rate.add(now, max(records, 0))
            self._progressed(now, max(records, 0), max(octets, 0))

    def _finish(self, report: Report, now: float) -> None:
        self._enter("Finished", now)
        self._ended = now
        self._run, self._mode = report.run, report.mode or self._mode
        self._outcome, self._reason, self._message = report.outcome, report.reason, report.message
        for told in report.tables:  # the report is out of the ledger: it is right
            table = self._table(told.name)
            table.move(told.state, now)
            table.error = told.error
            table.settle(Counters(**{name: getattr(told, name) for name in Counters.__struct_fields__}))

    def stalled(self, now: float, timeout: float) -> bool:
        """Whether no batch was committed for `timeout` seconds up to `now` (of `clock`) while loading."""
        with self._lock:
            return self._stalled(now, timeout)

    def _stalled(self, now: float, timeout: float) -> bool:
        return self._phase == "Loading" and self._last_commit is not None and now - self._last_commit > timeout

    def now(self) -> float:
        return self._clock()

    @property
    def last_commit_time(self) -> float:
        """Unix time of the last batch committed; of the start while there is none."""
        return self._last_commit_wall

    @property
    def warnings(self) -> list[str]:
        with self._lock:
            return list(self._warnings)

    def snapshot(self) -> Snapshot:
        """The figures as they are now."""
        with self._lock:
            return self._shown(self._clock() if self._ended is None else self._ended)

    def _shown(self, now: float) -> Snapshot:
        tables = [table.shown(now) for table in self._tables.values()]
        total = sum(table.bytes_total for table in tables)
        done = sum(table.bytes_done for table in tables)
        finished = sum(table.state == "Done" for table in tables)
        loading = self._loading_seconds + (now - self._loading_since if self._loading_since is not None else 0.0)
        overall = self._read_now / loading if loading > 0 else 0.0
        recent = self._records.per_second(now) if self._phase == "Loading" else overall
        active = [table.name for table in tables if table.state == "Loading"]
        return Snapshot(
            run=self._run,
            mode=self._mode,
            attempt=self._attempt,
            resumed=self._resumed,
            phase=self._phase,
            snapshot=self._snapshot,
            percent=done * 100 // total if total else 100 * (bool(tables) and finished == len(tables)),
            bytes_total=total,
            bytes_done=done,
            records_read=sum(table.read for table in tables),
            records_inserted=sum(table.inserted for table in tables),
            records_updated=sum(table.updated for table in tables),
            records_duplicate=sum(table.duplicate for table in tables),
            records_conflict=sum(table.conflict for table in tables),
            records_rejected=sum(table.rejected for table in tables),
            records_deferred=sum(table.deferred for table in tables),
            tables_total=len(tables),
            tables_done=finished,
            records_per_second=round(recent),
            records_per_second_overall=round(overall),
            eta_seconds=self._eta(now, total - done, loading),
            elapsed_seconds=round(now - self._began),
            table=self._current if self._current in active else next(iter(active), ""),
            start_time=self._start_time,
            last_update_time=rfc3339(self._updated_wall),
            stalled=self._stalled(now, self.stall_timeout),
            retries=self._retries,
            warnings=len(self._warnings),
            outcome=self._outcome,
            reason=self._reason,
            message=self._message,
            fallback=[FallbackLevel(level, *counts) for level, counts in self._fallback.items() if any(counts)],
            rejects_by_reason=dict(self._reasons),
            tables=tables,
        )

    def _eta(self, now: float, left: int, loading: float) -> int | None:
        if self._outcome == "Succeeded":
            return 0
        # With nothing left to read, what remains (parents, verification) cannot be told by bytes.
        if self._phase != "Loading" or left <= 0 or loading < ETA_AFTER_SECONDS or self._batches_now == 0:
            return None
        speed = self._bytes.per_second(now)
        return math.ceil(left / speed) if speed > 0 and left / speed <= ETA_AT_MOST else None
