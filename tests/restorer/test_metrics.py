"""The exposition as Prometheus' own parser reads it."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from restorer.events import BatchLoaded, PhaseChanged, Retried, RunStarted, TableChanged, TableStart, fan_out
from restorer.report import Counters
from restorer.watch.metrics import Metrics
from restorer.watch.progress import Progress

WHO = {"namespace": "lms", "restore": "reset"}


class Scraped:
    def __init__(self) -> None:
        self.at = 0.0
        self.progress = Progress(clock=lambda: self.at, wall=lambda: 1_700_000_000 + self.at)
        self.metrics = Metrics(self.progress, namespace="lms", name="reset")
        self.emit = fan_out(self.progress, self.metrics)
        self.emit(RunStarted("lms/reset/1", "Apply", "s", [TableStart("users", 1000), TableStart("posts", 3000)]))
        self.emit(PhaseChanged("Loading"))

    def value(self, sample: str, **labels: str) -> float | None:
        for family in text_string_to_metric_families(self.metrics.text().decode()):
            for found in family.samples:
                if found.name == sample and found.labels == {**WHO, **labels}:
                    return found.value
        return None

    def names(self) -> dict[str, str]:
        return {f.name: f.type for f in text_string_to_metric_families(self.metrics.text().decode())}


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


def test_every_metric_is_there_with_its_type(scraped: Scraped) -> None:
    scraped.emit(BatchLoaded("users", "Copy", Counters(read=1, inserted=1), 10, 0.01))
    assert scraped.names() == {
        "dbrestore_records": "counter",
        "dbrestore_bytes": "counter",
        "dbrestore_batches": "counter",
        "dbrestore_batch_duration_seconds": "histogram",
        "dbrestore_retries": "counter",
        "dbrestore_rejects": "counter",
        "dbrestore_progress_ratio": "gauge",
        "dbrestore_eta_seconds": "gauge",
        "dbrestore_last_progress_timestamp_seconds": "gauge",
        "dbrestore_stalled": "gauge",
        "dbrestore_tables": "gauge",
    }
    assert "_created" not in scraped.metrics.text().decode()


def test_batches_are_counted_by_table_outcome_level_and_reason(scraped: Scraped) -> None:
    counters = Counters(read=20, inserted=10, updated=4, duplicate=3, conflict=2, rejected=1)
    scraped.emit(BatchLoaded("users", "Merge", counters, 500, 0.3, reasons={"ForeignKeyViolation": 1}))
    scraped.emit(BatchLoaded("users", "Copy", Counters(read=5, inserted=5), 100, 0.002))
    outcomes = {
        o: scraped.value("dbrestore_records_total", table="users", outcome=o)
        for o in ("inserted", "updated", "duplicate", "conflict", "rejected")
    }
    assert outcomes == {"inserted": 15, "updated": 4, "duplicate": 3, "conflict": 2, "rejected": 1}
    assert scraped.value("dbrestore_bytes_total", table="users") == 600
    assert scraped.value("dbrestore_batches_total", table="users", level="Merge") == 1
    assert scraped.value("dbrestore_rejects_total", table="users", reason="ForeignKeyViolation") == 1
    assert scraped.value("dbrestore_batch_duration_seconds_bucket", level="Merge", le="0.25") == 0
    assert scraped.value("dbrestore_batch_duration_seconds_bucket", level="Merge", le="0.5") == 1
    assert scraped.value("dbrestore_batch_duration_seconds_count", level="Copy") == 1


def test_a_tables_counters_are_there_from_zero_on(scraped: Scraped) -> None:
    assert scraped.value("dbrestore_records_total", table="users", outcome="rejected") is None
    scraped.emit(TableChanged("users", "Loading"))
    assert scraped.value("dbrestore_records_total", table="users", outcome="rejected") == 0
    assert scraped.value("dbrestore_bytes_total", table="users") == 0
    assert scraped.value("dbrestore_retries_total", sqlstate_class="none") == 0


def test_a_stall_is_told_while_it_lasts(scraped: Scraped) -> None:
    scraped.emit(TableChanged("users", "Loading"))
    assert scraped.value("dbrestore_stalled") == 0
    scraped.at = 301  # the default of spec.stallTimeoutSeconds is 300
    assert scraped.value("dbrestore_stalled") == 1
    scraped.emit(BatchLoaded("users", "Copy", Counters(read=1, inserted=1), 10, 0.01))
    assert scraped.value("dbrestore_stalled") == 0


def test_retries_are_counted_by_class(scraped: Scraped) -> None:
    scraped.emit(Retried("57P01", 1.0, 1))
    scraped.emit(Retried("57P03", 1.0, 2))
    scraped.emit(Retried("", 1.0, 3))
    assert scraped.value("dbrestore_retries_total", sqlstate_class="57") == 2
    assert scraped.value("dbrestore_retries_total", sqlstate_class="none") == 1


def test_gauges_tell_how_the_run_stands(scraped: Scraped) -> None:
    assert math.isnan(scraped.value("dbrestore_eta_seconds") or 0.0)
    assert scraped.value("dbrestore_last_progress_timestamp_seconds") == 1_700_000_000
    scraped.emit(TableChanged("users", "Loading"))
    scraped.at = 10
    scraped.emit(BatchLoaded("users", "Copy", Counters(read=10, inserted=10), 1000, 1))
    scraped.emit(TableChanged("users", "Done"))
    assert scraped.value("dbrestore_progress_ratio") == 0.25
    assert scraped.value("dbrestore_eta_seconds") == pytest.approx(26, abs=1)  # 3000 bytes at some 118 B/s, lately
    assert scraped.value("dbrestore_last_progress_timestamp_seconds") == 1_700_000_010
    assert scraped.value("dbrestore_tables", state="Done") == 1
    assert scraped.value("dbrestore_tables", state="Pending") == 1
    assert scraped.value("dbrestore_tables", state="Failed") == 0


def test_nothing_is_registered_globally(scraped: Scraped) -> None:
    assert not any(family.name.startswith("dbrestore") for family in REGISTRY.collect())
    other = Scraped()
    scraped.emit(BatchLoaded("users", "Copy", Counters(read=1, inserted=1), 10, 0.01))
    assert other.value("dbrestore_bytes_total", table="users") is None


def test_the_library_is_not_loaded_without_a_port() -> None:
    code = (
        "import sys, restorer.watch.progress, restorer.watch.server, restorer.watch.publish, restorer.watch.log; "
        "sys.exit([m for m in sys.modules if m.split('.')[0] in ('prometheus_client', 'rich', 'structlog')] != [])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
