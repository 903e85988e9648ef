"""Prometheus metrics out of the events. Imported only when a metrics port is asked for: the library costs memory.

Counters tell what this process did since it began, as Prometheus expects of a counter: after a restart they begin at 0,
and over several pods they add up. Gauges tell how the whole run stands, over all its attempts and pods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from restorer.events import AnyEvent, BatchLoaded, Retried, TableChanged
from restorer.watch.figures import OUTCOMES, STATES
from restorer.watch.progress import Progress

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics(Collector):
    """A listener with a registry of its own. `namespace` and `name` label every sample; they are the restore's, "" for
    the namespace without a cluster. `progress` must stand before it among the listeners."""

    def __init__(self, progress: Progress, *, namespace: str, name: str) -> None:
        self._progress = progress
        self._who = (namespace, name)
        who = ("namespace", "name")
        self._records = Counter(
            "dbrestore_records_total",
            "Records settled by this process, by outcome: inserted, updated, duplicate, conflict, rejected.",
            (*who, "table", "outcome"),
            registry=None,
        )
        self._bytes = Counter(
            "dbrestore_bytes_total", "Bytes of the backup loaded by this process.", (*who, "table"), registry=None
        )
        self._batches = Counter(
            "dbrestore_batches_total",
            "Batches committed, by the deepest rung of the ladder they needed: Copy, Exact, Merge, Row, Reject.",
            (*who, "table", "level"),
            registry=None,
        )
        self._duration = Histogram(
            "dbrestore_batch_duration_seconds",
            "Time from begin to commit of a batch, by the deepest rung of the ladder it needed.",
            (*who, "level"),
            buckets=BUCKETS,
            registry=None,
        )
        self._retries = Counter(
            "dbrestore_retries_total",
            "Batches or connections tried again after a transient error, by class of SQLSTATE.",
            (*who, "sqlstate_class"),
            registry=None,
        )
        self._rejects = Counter(
            "dbrestore_rejects_total", "Records rejected, by reason.", (*who, "table", "reason"), registry=None
        )
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def __call__(self, event: AnyEvent) -> None:
        match event:
            case TableChanged(state="Loading"):  # a series that is there from 0 on makes `increase()` right
                for outcome in OUTCOMES:
                    self._records.labels(*self._who, event.table, outcome)
            case BatchLoaded():
                for outcome in OUTCOMES:
                    if records := getattr(event.counters, outcome):
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
        for family in (self._records, self._bytes, self._batches, self._duration, self._retries, self._rejects):
            for metric in family.collect():
                # `…_created` would double the number of series and tells nothing here.
                metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
                yield metric
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        shown = self._progress.snapshot()
        ratio = shown.bytes_done / shown.bytes_total if shown.bytes_total else shown.percent / 100
        for name, help_text, value in (
            ("dbrestore_progress_ratio", "How much of the backup is loaded, by bytes, 0 to 1.", ratio),
            (
                "dbrestore_eta_seconds",
                "Estimated seconds until everything is loaded; NaN while that cannot be told.",
                math.nan if shown.eta_seconds is None else float(shown.eta_seconds),
            ),
            (
                "dbrestore_last_progress_timestamp_seconds",
                "Unix time of the last committed batch; of the start while there is none.",
                self._progress.last_commit_time,
            ),
        ):
            gauge = GaugeMetricFamily(name, help_text, labels=("namespace", "name"))
            gauge.add_metric(self._who, value)
            yield gauge
        tables = GaugeMetricFamily("dbrestore_tables", "Tables by state.", labels=("namespace", "name", "state"))
        for state in STATES:
            tables.add_metric((*self._who, state), sum(table.state == state for table in shown.tables))
        yield tables

    def text(self) -> bytes:
        """The exposition, in the format of `CONTENT_TYPE`."""
        return generate_latest(self.registry)
