"""What the operator's port says of restores: out of statuses as the operator itself makes them."""

from __future__ import annotations

import asyncio
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from manifests import restore
from prometheus_client.parser import text_string_to_metric_families
from restore_operator import families, metrics_page, reasons, status
from restore_operator.api import DatabaseRestore, RestoreStatus
from restore_operator.metrics import Metrics
from restore_operator.queue import Queue
from restore_operator.status import Progressing
from restorer.report import FallbackLevel, Report, SnapshotInfo, Totals
from restorer.watch import metrics as of_restorer

ROOT = Path(__file__).resolve().parents[2]
START = datetime(2030, 1, 1, tzinfo=UTC)
REPORT = Report(
    run="lms/reset/1",
    outcome="Succeeded",
    completion_time="2030-01-01T00:10:00Z",
    snapshot=SnapshotInfo("20241219_103045", 5000, 2),
    totals=Totals(read=2000, inserted=1990, rejected=10, tables=2, bytes=5000),
    fallback=[FallbackLevel("Copy", 3, 1990), FallbackLevel("Reject", 1, 10)],
)


class Port:
    """The operator's metrics over some restores, with a clock that the test holds."""

    def __init__(self) -> None:
        self.now = START.timestamp()
        self.metrics = Metrics()
        self.metrics.restores._clock = lambda: self.now

    def see(self, made: RestoreStatus, **spec: Any) -> None:
        body = restore(**spec) | {"status": status.as_json(made)}
        self.metrics.restores.see(DatabaseRestore.model_validate(body))

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """Label values beyond namespace and restore -> value, sorted by label."""
        found = {}
        for family in text_string_to_metric_families(self.metrics.text().decode()):
            for sample in family.samples:
                if sample.name == name:
                    own = {k: v for k, v in sample.labels.items() if k not in ("namespace", "restore")}
                    found[tuple(v for _, v in sorted(own.items()))] = sample.value
        return found


@pytest.fixture
def port() -> Port:
    return Port()


def running(**progress: Any) -> RestoreStatus:
    resource = DatabaseRestore.model_validate(restore())
    figures = {"bytesTotal": 5000, "bytesDone": 1250, "tablesTotal": 2, "recordsRead": 2000} | progress
    old = RestoreStatus.model_validate({"startTime": "2030-01-01T00:00:00Z", "runID": "1", "progress": figures})
    ongoing = Progressing("True", reasons.LOADING)
    return status.active(old, resource, START, "Running", reasons.LOADING, progressing=ongoing)


def ended(phase: Any = "Succeeded", reason: str = reasons.SUCCEEDED, report: Report | None = REPORT) -> RestoreStatus:
    resource = DatabaseRestore.model_validate(restore())
    return status.ended(running(), resource, START + timedelta(minutes=10), phase, reason, "said", report)


def queued() -> RestoreStatus:
    resource = DatabaseRestore.model_validate(restore())
    return status.active(RestoreStatus(run_id="1"), resource, START, "Queued", reasons.QUEUED)


def test_a_running_restore(port: Port) -> None:
    port.see(running(etaSeconds=90, recordsInserted=1999, recordsRejected=1))
    port.now += 60
    assert port.samples("dbrestore_restore_phase") == {(p,): float(p == "Running") for p in families.PHASES}
    assert port.samples("dbrestore_restore_progress_ratio") == {(): 0.25}
    assert port.samples("dbrestore_restore_eta_seconds") == {(): 90}
    assert port.samples("dbrestore_restore_duration_seconds") == {(): 60}
    assert port.samples("dbrestore_restore_deadline_timestamp_seconds") == {(): START.timestamp() + 14_400}
    assert port.samples("dbrestore_restore_records")[("inserted",)] == 1999
    assert port.samples("dbrestore_restore_reject_limit_used_ratio") == {(): 1 / 20}  # 1 % of 2,000 may be rejected
    assert port.samples("dbrestore_restore_reason") == {("Loading",): 1}
    conditions = port.samples("dbrestore_restore_condition")  # status, type
    assert [conditions[truth, "Progressing"] for truth in families.TRUTHS] == [1, 0, 0]
    assert port.samples("dbrestore_restore_completion_timestamp_seconds") == {}
    assert port.samples("dbrestore_restore_queued_seconds") == {}


def test_what_a_short_lived_pod_did_is_told_after_its_end(port: Port) -> None:
    port.see(ended())
    port.now += 3600
    assert port.samples("dbrestore_restore_records") == {
        ("inserted",): 1990, ("rejected",): 10, ("updated",): 0, ("duplicate",): 0, ("conflict",): 0,
    }  # fmt: skip
    assert port.samples("dbrestore_restore_progress_ratio") == {(): 1}
    assert port.samples("dbrestore_restore_size_bytes") == port.samples("dbrestore_restore_loaded_bytes") == {(): 5000}
    assert port.samples("dbrestore_restore_tables_done") == port.samples("dbrestore_restore_tables") == {(): 2}
    assert port.samples("dbrestore_restore_fallback_records") == {("Copy",): 1990, ("Reject",): 10}
    assert port.samples("dbrestore_restore_fallback_batches") == {("Copy",): 3, ("Reject",): 1}
    assert port.samples("dbrestore_restore_duration_seconds") == {(): 600}
    assert port.samples("dbrestore_restore_completion_timestamp_seconds") == {(): START.timestamp() + 600}
    assert port.samples("dbrestore_restore_info") == {("Apply", "1", "20241219_103045"): 1}
    for gone in ("eta_seconds", "deadline_timestamp_seconds", "queued_seconds"):
        assert port.samples(f"dbrestore_restore_{gone}") == {}


def test_a_failure_and_its_reason(port: Port) -> None:
    port.see(ended("Failed", reasons.REJECT_LIMIT_EXCEEDED))
    assert port.samples("dbrestore_restore_phase")[("Failed",)] == 1
    assert port.samples("dbrestore_restore_reason") == {("RejectLimitExceeded",): 1}


def test_a_new_run_is_not_taken_for_the_failed_one_before(port: Port) -> None:
    port.see(ended("Failed", reasons.LOAD_FAILED), runID="2")
    assert port.samples("dbrestore_restore_phase")[("Failed",)] == 0
    assert port.samples("dbrestore_restore_records")[("inserted",)] == 0
    assert port.samples("dbrestore_restore_reason") == port.samples("dbrestore_restore_condition") == {}


def test_how_long_a_restore_waits(port: Port) -> None:
    port.now += 100  # the operator was started anew: since the condition began
    port.see(queued())
    assert port.samples("dbrestore_restore_queued_seconds") == {(): 100}
    port.now += 50
    port.see(queued())
    assert port.samples("dbrestore_restore_queued_seconds") == {(): 150}
    port.see(running())
    assert port.samples("dbrestore_restore_queued_seconds") == {}
    port.see(queued())  # suspended, and in the queue again
    port.now += 5
    assert port.samples("dbrestore_restore_queued_seconds") == {(): 5}


@pytest.mark.parametrize(
    ("rejects", "read", "rejected", "used"),
    [
        ({"limit": 4}, 10, 2, {(): 0.5}),
        ({"limit": 0}, 10, 0, {}),
        ({"limitPercent": 0}, 5000, 0, {}),
        ({"limitPercent": 5}, 999, 40, {}),
        ({"limitPercent": 5}, 1000, 50, {(): 1.0}),
    ],
)
def test_how_much_of_the_reject_limit_is_used(
    port: Port, rejects: dict[str, int], read: int, rejected: int, used: dict[tuple[str, ...], float]
) -> None:
    port.see(running(recordsRead=read, recordsRejected=rejected), rejects=rejects)
    assert port.samples("dbrestore_restore_reject_limit_used_ratio") == used


def test_nothing_is_left_of_a_restore_that_is_gone(port: Port) -> None:
    port.see(running())
    port.metrics.restores.forget(("lms", "reset"))
    assert 'restore="reset"' not in port.metrics.text().decode()


def test_a_scrape_of_a_thousand_restores_takes_little_memory(port: Port) -> None:
    """All their series at once would be tens of MiB."""
    status_of_all = status.as_json(ended())
    for n in range(1000):
        body = restore(f"r{n}") | {"status": status_of_all}
        port.metrics.restores.see(DatabaseRestore.model_validate(body))
    tracemalloc.start()
    try:
        size = sum(len(part) for part in port.metrics.parts())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 3_000_000 and peak < 10 << 20


def test_looks_are_counted_from_zero_on(port: Port) -> None:
    assert port.samples("dbrestore_reconcile_total") == {("ok",): 0, ("error",): 0}
    port.metrics.reconciles.labels("error").inc()
    assert port.samples("dbrestore_reconcile_total")[("error",)] == 1
    assert "_created" not in port.metrics.text().decode()


def test_every_metric_that_is_declared_is_served_and_no_other(port: Port) -> None:
    async def attach() -> None:
        async def look(_: Any) -> None: ...

        port.metrics.attach(Queue(look, concurrency=1, failed=lambda key, error: None))

    asyncio.run(attach())
    served = {f"{m.name}_total" if m.type == "counter" else m.name: m for m in port.metrics.registry.collect()}
    declared = {f.name: f for f in (*families.OF_RESTORES, *families.OF_SCHEDULES, *families.OF_OPERATOR)}
    assert served.keys() == declared.keys()
    for name, family in declared.items():
        assert (served[name].type, served[name].documentation) == (family.kind, family.help)


EVERY = (*of_restorer.FAMILIES, *families.OF_RESTORES, *families.OF_SCHEDULES, *families.OF_OPERATOR)


@pytest.mark.parametrize("family", EVERY, ids=lambda f: f.name)
def test_names_follow_prometheus_conventions(family: Any) -> None:
    assert family.name.startswith("dbrestore_")
    assert (family.kind == "counter") == family.name.endswith("_total")
    for unit in ("milliseconds", "minutes", "kilobytes", "percent", "ms"):
        assert unit not in family.name.split("_")
    assert family.help.endswith(".") and not family.help.startswith("The number of")
    assert all(label.islower() for label in family.labels)
    if family not in families.OF_OPERATOR:
        assert family.labels[:2] == ("namespace", "schedule" if family in families.OF_SCHEDULES else "restore")
    if family.kind == "histogram":
        assert family.name.endswith("_seconds") and list(family.buckets) == sorted(family.buckets)


def test_no_name_is_used_twice() -> None:
    assert len({f.name for f in EVERY}) == len(EVERY)


def test_the_page_is_what_the_code_makes() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == metrics_page.text(), "run `make crds`"
