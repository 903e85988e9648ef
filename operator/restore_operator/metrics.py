"""The operator's metrics for Prometheus, and its probes. Restores' figures are rebuilt from their statuses after a restart, and
go when the resource goes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric, Sample
from prometheus_client.registry import Collector
from restorer.watch.families import Family, without_created
from restorer.watch.figures import OUTCOMES

from . import __version__
from .api import DatabaseRestore, FallbackStatus, ProgressStatus
from .families import (
    COMPLETION,
    CONDITION,
    DEADLINE,
    DEPTH,
    DURATION,
    ETA,
    FALLBACK_BATCHES,
    FALLBACK_RECORDS,
    INFO,
    LOADED,
    OLDEST,
    OPERATOR,
    PHASE,
    PHASES,
    QUEUED,
    RATIO,
    REASON,
    RECONCILE_DURATION,
    RECONCILES,
    RECORDS,
    REJECTS_USED,
    RESULTS,
    SIZE,
    TABLES,
    TABLES_DONE,
    TRUTHS,
)
from .observed import time_of
from .queue import Key, Queue
from .schedule_metrics import Schedules
from .status import is_over, of_run

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STUCK = 300.0  # seconds that a mark may wait before the operator is not well


@dataclass(frozen=True)
class _Seen:
    """What is kept of a restore: a few figures, not its status. Times are Unix seconds."""

    run: str
    mode: str
    snapshot: str
    phase: str
    reason: str
    conditions: tuple[tuple[str, str], ...]
    progress: ProgressStatus | None
    fallback: tuple[FallbackStatus, ...]
    rejects_used: float | None
    started: float | None
    completed: float | None
    queued: float | None
    deadline: float | None


class Restores(Collector):
    """The restores that are there, as their statuses were last seen."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seen: dict[Key, _Seen] = {}

    def see(self, restore: DatabaseRestore) -> None:
        key = restore.metadata.namespace, restore.metadata.name
        spec, status = restore.spec, of_run(restore)
        started, completed = _seconds(status.start_time), _seconds(status.completion_time)
        over = is_over(status, spec.run_id)
        succeeded = status.condition("Succeeded")
        self._seen[key] = _Seen(
            run=spec.run_id,
            mode=spec.mode,
            snapshot=status.snapshot.name if status.snapshot else "",
            phase=status.phase or "",
            reason=succeeded.reason if succeeded and status.phase else "",
            # a new run knows of the one before only the conditions' times
            conditions=tuple((c.type, c.status) for c in status.conditions) if status.phase else (),
            progress=status.progress,
            fallback=tuple(status.fallback),
            rejects_used=_rejects_used(restore, status.progress),
            started=started,
            completed=completed if over else None,
            queued=self._queued_since(restore, self._seen.get(key)),
            deadline=started + spec.active_deadline_seconds if started is not None and not over else None,
        )

    def see_again(self, restore: DatabaseRestore) -> None:
        """After a look at it; unless it went meanwhile."""
        if (restore.metadata.namespace, restore.metadata.name) in self._seen:
            self.see(restore)

    def _queued_since(self, restore: DatabaseRestore, before: _Seen | None) -> float | None:
        status = of_run(restore)
        if status.phase != "Queued":
            return None
        if before is not None:
            return before.queued if before.queued is not None and before.run == status.run_id else self._clock()
        began = status.condition("Reconciling")
        return _seconds(began.last_transition_time) if began is not None else self._clock()

    def forget(self, key: Key) -> None:
        self._seen.pop(key, None)

    def __len__(self) -> int:
        return len(self._seen)

    def collect(self) -> Iterator[Metric]:
        """Each series is made when it is written: of a thousand restores all of them at once are tens of MiB."""
        now = self._clock()
        for family in _TOLD:
            made = family.gauge()
            made.samples = _Lines(family, self._seen, now)  # type: ignore[assignment]
            yield made


class _Lines:
    """The samples of one family, anew for whoever asks."""

    def __init__(self, family: Family, seen: dict[Key, _Seen], now: float) -> None:
        self._family, self._seen, self._now = family, seen, now

    def __iter__(self) -> Iterator[Sample]:
        name, labels, told = self._family.name, self._family.labels, _TOLD[self._family]
        for key, seen in self._seen.items():
            for values, number in told(seen, self._now):
                yield Sample(name, dict(zip(labels, (*key, *values), strict=True)), number)


Series = Iterable[tuple[tuple[str, ...], float]]  # values of the labels beyond namespace and restore, value


def _one(value: Callable[[_Seen, float], float | None]) -> Callable[[_Seen, float], Series]:
    """A family without labels of its own; None: there is nothing to tell."""

    def told(seen: _Seen, now: float) -> Series:
        found = value(seen, now)
        return () if found is None else (((), found),)

    return told


def _of_progress(value: Callable[[ProgressStatus], float]) -> Callable[[_Seen, float], Series]:
    """A figure that is there once something is known of the backup."""
    return _one(lambda seen, _: value(seen.progress) if seen.progress and seen.progress.tables_total else None)


def _ratio(progress: ProgressStatus) -> float:
    whole = progress.bytes_total
    return min(progress.bytes_done / whole, 1.0) if whole else progress.percent / 100


def _records(seen: _Seen) -> Series:
    progress = seen.progress or ProgressStatus()
    return (((outcome,), getattr(progress, f"records_{outcome}")) for outcome in OUTCOMES)


_TOLD: dict[Family, Callable[[_Seen, float], Series]] = {
    INFO: lambda seen, _: (((seen.run, seen.mode, seen.snapshot), 1),),
    PHASE: lambda seen, _: (((each,), float(seen.phase == each)) for each in PHASES),
    CONDITION: lambda seen, _: (
        ((kind, truth), float(status == truth)) for kind, status in seen.conditions for truth in TRUTHS
    ),
    REASON: lambda seen, _: (((seen.reason,), 1),) if seen.reason else (),
    RATIO: _of_progress(_ratio),
    RECORDS: lambda seen, _: _records(seen),
    SIZE: _of_progress(lambda progress: progress.bytes_total),
    LOADED: _of_progress(lambda progress: progress.bytes_done),
    TABLES: _of_progress(lambda progress: progress.tables_total),
    TABLES_DONE: _of_progress(lambda progress: progress.tables_done),
    FALLBACK_BATCHES: lambda seen, _: (((rung.level,), rung.batches) for rung in seen.fallback),
    FALLBACK_RECORDS: lambda seen, _: (((rung.level,), rung.records) for rung in seen.fallback),
    REJECTS_USED: _one(lambda seen, _: seen.rejects_used),
    ETA: _one(lambda seen, _: seen.progress.eta_seconds if seen.progress and seen.phase == "Running" else None),
    DURATION: _one(
        lambda seen, now: None if seen.started is None else max((seen.completed or now) - seen.started, 0.0)
    ),
    QUEUED: _one(lambda seen, now: None if seen.queued is None else max(now - seen.queued, 0.0)),
    DEADLINE: _one(lambda seen, _: seen.deadline),
    COMPLETION: _one(lambda seen, _: seen.completed),
}


def _rejects_used(restore: DatabaseRestore, progress: ProgressStatus | None) -> float | None:
    """As `restorer.spec.Rejects.exceeded` counts."""
    rejects = restore.spec.rejects
    if progress is None or (rejects.limit is None and progress.records_read < 1000):
        return None
    allowed = rejects.limit if rejects.limit is not None else progress.records_read * (rejects.percent or 0) / 100
    return progress.records_rejected / allowed if allowed else None


def _seconds(moment: str | None) -> float | None:
    found = time_of(moment)
    return found.timestamp() if found else None


class Metrics(Collector):
    """Everything on the port. `attach` adds the queue's figures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.restores, self.schedules = Restores(), Schedules()
        self.reconciles, self.duration = RECONCILES.counter(), RECONCILE_DURATION.histogram()
        for result in RESULTS:  # there from 0 on: `increase()` sees the first error too
            self.reconciles.labels(result)
        self.registry.register(self.restores)
        self.registry.register(self.schedules)
        self.registry.register(self)

    def attach(self, queue: Queue[Any]) -> None:
        self.registry.register(_QueueFigures(queue))

    def collect(self) -> Iterator[Metric]:
        info = OPERATOR.gauge()
        info.add_metric([__version__], 1)
        yield info
        yield from without_created(self.reconciles)
        yield from without_created(self.duration)

    def parts(self) -> Iterator[bytes]:
        """The text, a family at a time."""
        for metric in self.registry.collect():
            yield generate_latest(_Family(metric))

    def text(self) -> bytes:
        return b"".join(self.parts())


class _Family:
    """One metric as what generate_latest takes: of a whole registry it would hold every line, as text and as bytes."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class _QueueFigures(Collector):
    def __init__(self, queue: Queue[Any]) -> None:
        self._queue = queue

    def collect(self) -> Iterable[Metric]:
        for family, value in ((DEPTH, float(self._queue.depth)), (OLDEST, self._queue.oldest)):
            gauge = family.gauge()
            gauge.add_metric([], value)
            yield gauge


class PortUnavailable(Exception):
    """The port cannot be listened on; the message names it and the remedy."""


class Port:
    """HTTP on one port: /metrics; /healthz, 503 when looks do not come through; /readyz, 503 until restores are watched."""

    def __init__(self, port: int, metrics: Metrics, queue: Queue[Any]) -> None:
        self._port, self._metrics, self._queue = port, metrics, queue
        self.ready = False
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises PortUnavailable when it is taken, or not for this user."""
        app = web.Application()
        app.add_routes(
            [web.get("/metrics", self._serve), web.get("/healthz", self._health), web.get("/readyz", self._readiness)]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, None, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            # The event loop's own words name every address.
            why = os.strerror(error.errno) if error.errno else str(error)
            raise PortUnavailable(f"port {self._port}: {why}: set another RESTORE_OPERATOR_PORT") from None

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
        await answer.prepare(request)
        for part in self._metrics.parts():
            await answer.write(part)
        await answer.write_eof()
        return answer

    async def _health(self, _: web.Request) -> web.Response:
        if self._queue.oldest > STUCK:
            return web.Response(status=503, text=f"a restore has waited {self._queue.oldest:.0f} s to be looked at\n")
        return web.Response(text="ok\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n") if self.ready else web.Response(status=503, text="not watching yet\n")
