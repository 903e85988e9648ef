"""Prometheus metrics out of the events. Imported only when a metrics port is asked for: the library costs memory.

Counters tell what this process did since it began, as Prometheus expects of a counter: after a restart they begin at 0,
and over several pods they add up. Gauges tell how the whole run stands, over all its attempts and pods: of several pods take one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from restorer.events import AnyEvent, BatchLoaded, Retried, RunStarted, TableChanged
from restorer.watch.families import Family, without_created
from restorer.watch.figures import LEVELS, OUTCOMES, STATES
from restorer.watch.progress import Progress

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
WHO = ("namespace", "restore")

RECORDS = Family(
    "dbrestore_records_total",
    "counter",
    "Records settled by this process, by outcome.",
    (*WHO, "table", "outcome"),
    values=(("outcome", OUTCOMES),),
)
BYTES = Family("dbrestore_bytes_total", "counter", "Bytes of the backup loaded by this process.", (*WHO, "table"))
BATCHES = Family(
    "dbrestore_batches_total",
    "counter",
    "Batches committed, by the deepest rung of the ladder they needed.",
    (*WHO, "table", "level"),
    values=(("level", LEVELS),),
)
DURATION = Family(
    "dbrestore_batch_duration_seconds",
    "histogram",
    "Time from begin to commit of a batch, by the deepest rung of the ladder it needed.",
    (*WHO, "level"),
    buckets=BUCKETS,
    values=(("level", LEVELS),),
)
RETRIES = Family(
    "dbrestore_retries_total",
    "counter",
    "Batches or connections tried again after a transient error, by class of SQLSTATE (its first two characters; "
    "none: the server did not answer).",
    (*WHO, "sqlstate_class"),
)
REJECTS = Family("dbrestore_rejects_total", "counter", "Records rejected, by reason.", (*WHO, "table", "reason"))
PROGRESS = Family("dbrestore_progress_ratio", "gauge", "How much of the backup is loaded, by bytes, 0 to 1.", WHO)
ETA = Family(
    "dbrestore_eta_seconds",
    "gauge",
    "Estimated seconds until everything is loaded; NaN while that cannot be told.",
    WHO,
)
LAST = Family(
    "dbrestore_last_progress_timestamp_seconds",
    "gauge",
    "Unix time of the last committed batch; of the start while there is none.",
    WHO,
)
STALLED = Family(
    "dbrestore_stalled", "gauge", "1 while no batch has been committed for spec.stallTimeoutSeconds, else 0.", WHO
)
TABLES = Family("dbrestore_tables", "gauge", "Tables by state.", (*WHO, "state"), values=(("state", STATES),))
FAMILIES = (RECORDS, BYTES, BATCHES, DURATION, RETRIES, REJECTS, PROGRESS, ETA, LAST, STALLED, TABLES)


class Metrics(Collector):
    """A listener with a registry of its own. `namespace` and `name` label every sample; they are the restore's, "" for
    the namespace without a cluster. `progress` must stand before it among the listeners."""

    def __init__(self, progress: Progress, *, namespace: str, name: str) -> None:
        self._progress = progress
        self._who = (namespace, name)
        self._records, self._bytes, self._batches = RECORDS.counter(), BYTES.counter(), BATCHES.counter()
        self._duration, self._retries, self._rejects = DURATION.histogram(), RETRIES.counter(), REJECTS.counter()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def __call__(self, event: AnyEvent) -> None:
        match event:
            # A series that is there from 0 on makes `increase()` right.
            case RunStarted():
                self._retries.labels(*self._who, "none")
            case TableChanged(state="Loading"):
                for outcome in OUTCOMES:
                    self._records.labels(*self._who, event.table, outcome)
                self._bytes.labels(*self._who, event.table)
            case BatchLoaded():
                for outcome in OUTCOMES:
                    # A replay may take out more rows than it puts in (load/replay.py); a counter never goes down.
                    if (records := getattr(event.counters, outcome)) > 0:
                        self._records.labels(*self._who, event.table, outcome).inc(records)
                self._bytes.labels(*self._who, event.table).inc(event.bytes)
                self._batches.labels(*self._who, event.table, event.level).inc()
                self._duration.labels(*self._who, event.level).observe(event.seconds)
                for reason, records in event.reasons.items():
                    self._rejects.labels(*self._who, event.table, reason).inc(records)
            case Retried():
                self._retries.labels(*self._who, event.sqlstate[:2] or "none").inc()
            case _:
                pass

    def collect(self) -> Iterator[Metric]:
        """Every metric; the gauges out of one snapshot, so that they agree with each other."""
        for collector in (self._records, self._bytes, self._batches, self._duration, self._retries, self._rejects):
            yield from without_created(collector)
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        shown = self._progress.snapshot()
        ratio = shown.bytes_done / shown.bytes_total if shown.bytes_total else shown.percent / 100
        for family, value in (
            (PROGRESS, ratio),
            (ETA, math.nan if shown.eta_seconds is None else float(shown.eta_seconds)),
            (LAST, self._progress.last_commit_time),
            (STALLED, float(shown.stalled)),
        ):
            gauge = family.gauge()
            gauge.add_metric(self._who, value)
            yield gauge
        tables = TABLES.gauge()
        for state in STATES:
            tables.add_metric((*self._who, state), sum(table.state == state for table in shown.tables))
        yield tables

    def text(self) -> bytes:
        """The exposition, in the format of `CONTENT_TYPE`."""
        return generate_latest(self.registry)
