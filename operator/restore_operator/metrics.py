"""The operator's metrics for Prometheus, and its probes. Restores' figures are rebuilt from their statuses after a restart, and
go when the resource goes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .api import DatabaseRestore, Phase, ProgressStatus
from .observed import time_of
from .queue import Key, Queue
from .status import is_over

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STUCK = 300.0  # seconds that a mark may wait before the operator is not well
OUTCOMES = ("inserted", "updated", "duplicate", "conflict", "rejected")


@dataclass(frozen=True)
class _Seen:
    """What is kept of a restore: a few figures, not its status."""

    run: str
    mode: str
    snapshot: str
    phase: str
    ratio: float | None
    records: tuple[int, ...]
    started: float | None
    completed: float | None


class Restores(Collector):
    """The restores that are there, as their statuses were last seen."""

    def __init__(self) -> None:
        self._seen: dict[Key, _Seen] = {}

    def see(self, restore: DatabaseRestore) -> None:
        status, progress = restore.status, restore.status.progress or ProgressStatus()
        started, completed = time_of(status.start_time), time_of(status.completion_time)
        over = is_over(status, restore.spec.run_id)
        self._seen[restore.metadata.namespace, restore.metadata.name] = _Seen(
            run=restore.spec.run_id,
            mode=restore.spec.mode,
            snapshot=status.snapshot.name if status.snapshot else "",
            phase=status.phase or "",
            ratio=progress.percent / 100 if status.progress else None,
            records=tuple(getattr(progress, f"records_{outcome}") for outcome in OUTCOMES),
            started=started.timestamp() if started else None,
            completed=completed.timestamp() if completed and over else None,
        )

    def forget(self, key: Key) -> None:
        self._seen.pop(key, None)

    def __len__(self) -> int:
        return len(self._seen)

    def collect(self) -> Iterable[Metric]:
        names = ["namespace", "restore"]
        info = GaugeMetricFamily(
            "dbrestore_restore_info", "A restore; always 1.", labels=[*names, "run", "mode", "snapshot"]
        )
        phase = GaugeMetricFamily(
            "dbrestore_restore_phase", "1 for the phase that a restore is in.", labels=[*names, "phase"]
        )
        ratio = GaugeMetricFamily(
            "dbrestore_restore_progress_ratio", "Bytes done of bytes in all, 0 to 1.", labels=names
        )
        records = GaugeMetricFamily(
            "dbrestore_restore_records", "Records of the run by what became of them.", labels=[*names, "outcome"]
        )
        duration = GaugeMetricFamily(
            "dbrestore_restore_duration_seconds", "Seconds since the start, or that it took.", labels=names
        )
        completion = GaugeMetricFamily(
            "dbrestore_restore_completion_timestamp_seconds", "When the run ended, in Unix time.", labels=names
        )
        now = time.time()
        for key, seen in self._seen.items():
            info.add_metric([*key, seen.run, seen.mode, seen.snapshot], 1)
            for each in get_args(Phase):
                phase.add_metric([*key, each], float(seen.phase == each))
            for outcome, count in zip(OUTCOMES, seen.records, strict=True):
                records.add_metric([*key, outcome], count)
            if seen.ratio is not None:
                ratio.add_metric(key, seen.ratio)
            if seen.started is not None:
                duration.add_metric(key, max((seen.completed or now) - seen.started, 0.0))
            if seen.completed is not None:
                completion.add_metric(key, seen.completed)
        return [info, phase, ratio, records, duration, completion]


class Metrics:
    """Everything on the port. `attach` adds the queue's figures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.restores = Restores()
        self.registry.register(self.restores)
        self.reconciles = Counter("dbrestore_reconcile", "Looks at a restore.", ["result"], registry=self.registry)
        self.duration = Histogram(
            "dbrestore_reconcile_duration_seconds",
            "Seconds that a look took.",
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=self.registry,
        )

    def attach(self, queue: Queue[Any]) -> None:
        self.registry.register(_QueueFigures(queue))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _QueueFigures(Collector):
    def __init__(self, queue: Queue[Any]) -> None:
        self._queue = queue

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("dbrestore_queue_depth", "Restores that wait to be looked at.", value=self._queue.depth)
        yield GaugeMetricFamily(
            "dbrestore_queue_oldest_seconds", "How long the oldest of them waits.", value=self._queue.oldest
        )


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

    async def _serve(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _health(self, _: web.Request) -> web.Response:
        if self._queue.oldest > STUCK:
            return web.Response(status=503, text=f"a restore has waited {self._queue.oldest:.0f} s to be looked at\n")
        return web.Response(text="ok\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n") if self.ready else web.Response(status=503, text="not watching yet\n")
