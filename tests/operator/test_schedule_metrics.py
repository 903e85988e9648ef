"""What the operator's port says of schedules: out of statuses, and of an operator at work on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kube_server import KubeServer
from manifests import SCHEDULES, schedule
from nights import HOURLY, Nights
from operator_process import Operator
from prometheus_client.parser import text_string_to_metric_families
from restore_operator.kube import FakeKube
from restore_operator.metrics import Metrics
from restore_operator.queue import ScheduleKey
from restore_operator.schedule_api import DatabaseRestoreSchedule
from restore_operator.schedule_sync import ScheduleSyncer
from world import World

Samples = dict[str, float]


def of_schedules(text: str) -> Samples:
    """What follows `dbrestore_schedule_` -> value."""
    return {
        sample.name.removeprefix("dbrestore_schedule_"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("dbrestore_schedule_")
    }


def seen(status: dict[str, Any], **spec: Any) -> Samples:
    metrics = Metrics()
    body = schedule(**spec) | {"status": status}
    body["metadata"]["creationTimestamp"] = "2030-01-01T00:00:00Z"
    metrics.schedules.see(DatabaseRestoreSchedule.model_validate(body))
    return of_schedules(metrics.text().decode())


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_one_that_is_new_tells_only_what_is_to_come() -> None:
    due = at("2030-01-01T02:30:00Z")
    assert seen({}) == {"info": 1, "suspended": 0, "active": 0, "next_schedule_timestamp_seconds": due}


def test_one_that_has_run() -> None:
    status = {
        "lastScheduleTime": "2030-01-03T02:30:00Z",
        "lastSuccessfulTime": "2030-01-02T02:31:00Z",
        "lastMissedTime": "2030-01-01T02:30:00Z",
        "nextScheduleTime": "2030-01-09T02:30:00Z",  # the status may be old: what is due is counted from what was run
        "active": [{"name": "nightly-1", "uid": "u"}],
    }
    assert seen(status) == {
        "info": 1,
        "suspended": 0,
        "active": 1,
        "last_schedule_timestamp_seconds": at("2030-01-03T02:30:00Z"),
        "last_success_timestamp_seconds": at("2030-01-02T02:31:00Z"),
        "last_missed_timestamp_seconds": at("2030-01-01T02:30:00Z"),
        "next_schedule_timestamp_seconds": at("2030-01-04T02:30:00Z"),
    }


def test_a_time_that_was_missed_is_not_due_any_more() -> None:
    told = seen({"lastScheduleTime": "2030-01-03T02:30:00Z", "lastMissedTime": "2030-01-04T02:30:00Z"})
    assert told["next_schedule_timestamp_seconds"] == at("2030-01-05T02:30:00Z")


def test_a_suspended_one_is_never_due() -> None:
    told = seen({}, suspend=True)
    assert told["suspended"] == 1 and "next_schedule_timestamp_seconds" not in told


@pytest.fixture
def operator_of_its_own(granted: KubeServer, namespace: str, tmp_path: Path) -> Iterator[Operator]:
    with Operator(granted, tmp_path, "--namespace", namespace) as process:
        yield process


def test_they_follow_the_schedule_and_go_with_it(
    operator_of_its_own: Operator, granted: KubeServer, namespace: str
) -> None:
    operator, nights = operator_of_its_own, Nights(World(granted, namespace))

    def told() -> Samples:
        return of_schedules(operator.ask("/metrics"))

    nights.apply(schedule=HOURLY)
    nights.wait(lambda: told().get("suspended") == 1 and told().get("ready") == 1)
    nights.ran(timedelta(hours=2))
    nights.change(suspend=False)
    child = nights.wait_child()
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    nights.wait(lambda: told().get("active") == 1)
    nights.succeed(child)
    nights.wait(lambda: told().get("active") == 0 and "last_success_timestamp_seconds" in told())
    before = told()
    assert before["last_schedule_timestamp_seconds"] == hour.timestamp()
    assert before["last_missed_timestamp_seconds"] == (hour - timedelta(hours=1)).timestamp()
    assert before["next_schedule_timestamp_seconds"] == (hour + timedelta(hours=1)).timestamp()
    operator.kill()
    operator.start()
    nights.wait(lambda: told() == before)  # out of the status
    granted.delete(nights.path)
    nights.world.wait(lambda: not told(), say=told)


def test_one_whose_end_no_event_told_goes_with_the_next_look() -> None:
    metrics = Metrics()
    metrics.schedules.see(DatabaseRestoreSchedule.model_validate(schedule()))
    syncer = ScheduleSyncer(FakeKube(), gone=metrics.schedules.forget)
    assert asyncio.run(syncer.look(ScheduleKey("lms", "nightly"))) is None
    assert of_schedules(metrics.text().decode()) == {}


def test_one_that_cannot_be_read_is_told_as_not_ready(
    operator_of_its_own: Operator, granted: KubeServer, namespace: str
) -> None:
    granted.create(SCHEDULES.format(namespace), schedule(namespace=namespace, timeZone="Mars/Olympus"))
    nights = Nights(World(granted, namespace))
    nights.wait(lambda: of_schedules(operator_of_its_own.ask("/metrics")).get("ready") == 0)
    assert "next_schedule_timestamp_seconds" not in of_schedules(operator_of_its_own.ask("/metrics"))
