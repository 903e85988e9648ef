"""What a metric is: its name, kind, labels and meaning, said once. The code that serves it and docs/metrics.md read the same.

Names follow Prometheus' own conventions: base units (`_seconds`, `_bytes`, `_ratio`), `_total` for what only counts up, `_info` for
labels without a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True)
class Family:
    """`name` as a query says it. `values`: what the labels whose values are a fixed set may be, for the docs."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    values: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def counter(self) -> Counter:
        return Counter(self.name, self.help, self.labels, registry=None)

    def histogram(self) -> Histogram:
        return Histogram(self.name, self.help, self.labels, buckets=self.buckets, registry=None)

    def gauge(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(self.name, self.help, labels=self.labels)


def without_created(collector: Collector) -> Iterator[Metric]:
    """The collector's metrics. `…_created` would double the number of series and tells nothing here."""
    for metric in collector.collect():
        metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
        yield metric
