"""Schedules of every minute on a real cluster, side by side: their restores are Jobs that load, end, are replaced and pruned.

The tests share the schedules and look at them in the order in which things happen; what a clock can be told faster is in
tests/operator/test_schedule_cluster.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from cluster import Json, apply, get, in_rehearsal, items, kubectl, sql, until
from restores import HOST, Restore
from surroundings import RESTORES

KIND = "databaserestoreschedules"
NAMES = ("drill", "forbids", "replaces", "fails", "paused")


class Schedule:
    """One that is due every minute, into a database of its own that each restore empties first."""

    def __init__(self, name: str) -> None:
        self.name, self.database = name, f"every_minute_{name}"

    def apply(self, backup: str, template: Json, **spec: Any) -> None:
        base = Restore(RESTORES, self.name, self.database, backup)
        base.set(cleanup="Truncate", confirm=f"{HOST}/{self.database}", **template)
        manifest = base.manifest | {"kind": "DatabaseRestoreSchedule"}
        apply(manifest | {"spec": {"schedule": "* * * * *", "template": {"spec": base.manifest["spec"]}, **spec}})

    def change(self, **spec: Any) -> None:
        kubectl("-n", RESTORES, "patch", KIND, self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    @property
    def status(self) -> Json:
        return (get(KIND, self.name, RESTORES) or {}).get("status", {})

    def children(self) -> list[Json]:
        """The oldest first."""
        found = items("databaserestores", RESTORES, f"dbrestore.io/schedule={self.name}")
        return sorted(found, key=lambda child: child["metadata"]["name"])

    def over(self) -> list[Json]:
        return [c for c in self.children() if c.get("status", {}).get("phase") in ("Succeeded", "Failed")]

    def restore(self, child: Json) -> Restore:
        """The restore of that name, as the other tests handle theirs."""
        made = Restore(RESTORES, child["metadata"]["name"], self.database)
        return made.set(runID=child["spec"]["runID"])

    def told(self, reason: str) -> list[str]:
        where = f"involvedObject.name={self.name},reason={reason}"
        found = kubectl("-n", RESTORES, "get", "events", "-o", "json", f"--field-selector={where}")
        return [event["message"] for event in json.loads(found)["items"]]


@pytest.fixture(scope="module")
def every_minute(operator: None, backups: dict[str, Json]) -> Iterator[dict[str, Schedule]]:
    schedules = {name: Schedule(name) for name in NAMES}
    for schedule in schedules.values():
        kubectl("-n", RESTORES, "delete", KIND, schedule.name, "--ignore-not-found")
        sql("app", f"drop database if exists {schedule.database} with (force)")
        sql("app", f"create database {schedule.database} template template_lms")
    history = {"successfulRestoresHistoryLimit": 1, "failedRestoresHistoryLimit": 1}
    # still at it when the next minute comes, and done before the one after
    sleeps = {"hooks": {"preRestore": [{"name": "sleep", "sql": "select pg_sleep(70)"}]}}
    endless = {"load": {"batchRows": 1, "workers": 1}}
    schedules["paused"].apply("clean", {}, suspend=True)
    schedules["forbids"].apply("clean", sleeps, concurrencyPolicy="Forbid")
    schedules["replaces"].apply("large", endless, concurrencyPolicy="Replace")
    schedules["fails"].apply("small", {"rejects": {"limit": 0}}, **history)
    schedules["drill"].apply("clean", {}, **history)
    yield schedules
    if not in_rehearsal():
        for schedule in schedules.values():
            kubectl("-n", RESTORES, "delete", KIND, schedule.name, "--ignore-not-found")
            sql("app", f"drop database if exists {schedule.database} with (force)")


def test_a_due_time_makes_a_restore_that_loads(every_minute: dict[str, Schedule], backups: dict[str, Json]) -> None:
    drill = every_minute["drill"]
    (child,) = until("the first restore is made", drill.children, 70)
    drill.restore(child).wait_succeeded(50).check(backups["clean"])
    status = until("the schedule knows", lambda: drill.status if drill.status.get("lastSuccessfulTime") else None, 10)
    assert status["lastSuccessfulTime"] == drill.restore(child).status["completionTime"]
    assert status["lastScheduleTime"] == child["metadata"]["annotations"]["dbrestore.io/scheduled-at"]
    assert status["nextScheduleTime"] > status["lastScheduleTime"] and "active" not in status
    line = kubectl("-n", RESTORES, "get", "dbrs", drill.name)
    assert "* * * * *" in line


def test_replace_stops_the_restore_before_and_loads_in_its_place(every_minute: dict[str, Schedule]) -> None:
    replaces = every_minute["replaces"]
    first = replaces.children()[0]
    replaces.restore(first).wait_loading(30)

    def replaced() -> Json | None:
        alive = [p for p in items("pods", RESTORES, "app.kubernetes.io/component=restore") if _runs(p, "replaces-")]
        assert len(alive) <= 1, [p["metadata"]["name"] for p in alive]
        there = replaces.children()
        return there[0] if there and there[0]["metadata"]["uid"] != first["metadata"]["uid"] else None

    second = until("another restore takes its place", replaced, 90)
    assert first["metadata"]["name"] in replaces.told("RestoreReplaced")[0]
    replaces.restore(second).wait_loading(30)
    assert len(replaces.children()) == 1
    replaces.change(suspend=True)
    replaces.restore(second).delete()


def _runs(pod: Json, prefix: str) -> bool:
    return pod["metadata"]["name"].startswith(prefix) and pod["status"].get("phase") == "Running"


def test_forbid_waits_for_the_restore_that_runs(every_minute: dict[str, Schedule], backups: dict[str, Json]) -> None:
    forbids = every_minute["forbids"]
    first = forbids.children()[0]

    def ended() -> Json | None:
        there = forbids.children()
        done = there[0].get("status", {}).get("phase") == "Succeeded"
        assert done or len(there) == 1, "two at once"
        return there[0] if done else None

    end = until("the first one ends", ended, 60)["status"]["completionTime"]
    assert any(first["metadata"]["name"] in message for message in forbids.told("RestoreStillActive"))
    _, second = until(
        "the due time that waited comes", lambda: forbids.children()[:2] if forbids.children()[1:] else None, 20
    )
    assert second["metadata"]["creationTimestamp"] >= end
    assert second["metadata"]["annotations"]["dbrestore.io/scheduled-at"] < end
    forbids.change(suspend=True)


def test_only_the_last_of_the_restores_that_ended_stay(every_minute: dict[str, Schedule]) -> None:
    def one_is_left(schedule: Schedule) -> bool:
        return len(schedule.over()) == 1 == len(schedule.children())

    for name, phase in (("drill", "Succeeded"), ("fails", "Failed")):
        schedule = every_minute[name]
        pruned = until(f"a restore of {name} is pruned", partial(schedule.told, "RestorePruned"), 30)
        schedule.change(suspend=True)
        until(f"one of {name} is left", partial(one_is_left, schedule), 30)
        (left,) = schedule.children()
        assert left["status"]["phase"] == phase
        assert not any(left["metadata"]["name"] in message for message in pruned)
        assert int(sql(schedule.database, "select count(*) from dbrestore.runs")) >= 2  # the ledger forgets none
    last = {c["type"]: c for c in every_minute["fails"].status["conditions"]}["LastRestoreSucceeded"]
    assert (last["status"], last["reason"]) == ("False", "RejectLimitExceeded")


def test_a_suspended_schedule_makes_nothing_until_it_goes_on(every_minute: dict[str, Schedule]) -> None:
    paused = every_minute["paused"]
    assert paused.children() == [] and paused.status["observedGeneration"] == 1
    paused.change(suspend=False)
    (child,) = until("the time that is due by now is made up for", paused.children, 10)
    paused.change(suspend=True)
    paused.restore(child).wait_succeeded(50)  # suspending a schedule stops no restore


def test_restores_go_with_their_schedule(every_minute: dict[str, Schedule]) -> None:
    drill = every_minute["drill"]
    assert drill.children()
    kubectl("-n", RESTORES, "delete", KIND, drill.name)
    until("its restores are gone", lambda: not drill.children(), 60)
