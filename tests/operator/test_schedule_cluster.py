"""Schedules on a real API server: what it refuses, and the operator at work."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from kube_server import ApiError, KubeServer
from manifests import ROOT, SCHEDULE_CRD, SCHEDULES, Json, changed, schedule
from nights import HOURLY, Nights
from restore_operator import explain, schedule_crd
from restore_operator.schedule_api import DatabaseRestoreSchedule
from world import World

_names = (f"case-{n}" for n in itertools.count(1))

INVALID: list[tuple[str, Json, list[str]]] = [
    ("no schedule", {"schedule": None}, ["spec.schedule", "Required"]),
    ("four fields", {"schedule": "0 2 * *"}, ["spec.schedule", "five cron fields"]),
    ("seconds", {"schedule": "0 0 2 * * *"}, ["spec.schedule", "five cron fields"]),
    ("a minute that is none", {"schedule": "60 2 * * *"}, ["spec.schedule", "five cron fields"]),
    ("an hour that is none", {"schedule": "0 24 * * *"}, ["spec.schedule", "five cron fields"]),
    ("a macro that is none", {"schedule": "@reboot"}, ["spec.schedule", "@daily"]),
    ("a zone in the schedule", {"schedule": "TZ=Europe/Berlin 0 2 * * *"}, ["spec.schedule", "spec.timeZone"]),
    ("a zone that leads out", {"timeZone": "../etc/localtime"}, ["spec.timeZone", "tz database"]),
    ("the machine's own zone", {"timeZone": "Local"}, ["spec.timeZone", "tz database"]),
    ("Allow", {"concurrencyPolicy": "Allow"}, ["spec.concurrencyPolicy", '"Forbid"']),
    ("no deadline at all", {"startingDeadlineSeconds": 0}, ["spec.startingDeadlineSeconds", "1"]),
    ("a negative limit", {"failedRestoresHistoryLimit": -1}, ["failedRestoresHistoryLimit", "0"]),
    ("no template", {"template": None}, ["spec.template", "Required"]),
    ("a run of its own", {"template.spec.runID": "7"}, ['unknown field "spec.template.spec.runID"']),
    ("a suspended template", {"template.spec.suspend": True}, ['unknown field "spec.template.spec.suspend"']),
    ("a label of the operator's", {"template.metadata": {"labels": {"dbrestore.io/x": "y"}}}, ["spec.template.metadata.labels"]),
    ("no source", {"template.spec.source": {}}, ["spec.template.spec.source", "exactly one"]),
    ("an absolute path", {"template.spec.source.path": "/data"}, ["spec.template.spec.source.path", "not absolute"]),
    ("cleanup without its word", {"template.spec.cleanup": "Truncate"}, ["spec.template.spec.confirm", "pg-rw/app"]),
    ("port 0", {"template.spec.target.port": 0}, ["spec.template.spec.target.port"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(kube: KubeServer) -> str:
    kube.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "schedules"}})
    return SCHEDULES.format("schedules")


@pytest.mark.parametrize(("changes", "words"), [case[1:] for case in INVALID], ids=[case[0] for case in INVALID])
def test_an_invalid_schedule_is_refused_by_name(kube: KubeServer, place: str, changes: Json, words: list[str]) -> None:
    with pytest.raises(ApiError) as refused:
        kube.create(place, changed(schedule(next(_names), "schedules"), changes))
    assert refused.value.status in (400, 422)
    for word in words:
        assert word in refused.value.message


def test_a_name_too_long_for_its_restores_is_refused(kube: KubeServer, place: str) -> None:
    kube.create(place, schedule("x" * 50, "schedules", suspend=True))
    with pytest.raises(ApiError, match=r"metadata\.name: must have at most 50 characters"):
        kube.create(place, schedule("x" * 51, "schedules"))


@pytest.mark.parametrize(
    "expression",
    ["*/5 * * * *", "0 2 * * 1-5", "0,30 8-18/2 1,15 jan-mar MON", "@daily", "0 0 L * *", "0 3 LW * *", "0 3 * * 5L", "0 3 * * MON#1", " 0  2 * * *"],
)  # fmt: skip
def test_a_good_schedule_is_taken_and_the_operator_reads_it(kube: KubeServer, place: str, expression: str) -> None:
    made = kube.create(place, schedule(next(_names), "schedules", schedule=expression, suspend=True))
    read = DatabaseRestoreSchedule.model_validate(made)
    assert read.status.observed_generation == -1
    assert (read.spec.time_zone, read.spec.concurrency_policy) == ("UTC", "Forbid")


def test_the_file_is_what_the_models_make() -> None:
    assert SCHEDULE_CRD.read_text(encoding="utf-8") == schedule_crd.text(), "run `make crds`"


def _paths(schema: Json, path: str = "") -> list[str]:
    found = [path]
    for name, inner in schema.get("properties", {}).items():
        if f"{path}.{name}" != "template.spec":
            found += _paths(inner, f"{path}.{name}" if path else name)
    for key in ("items", "additionalProperties"):
        if key in schema:
            found += _paths(schema[key], f"{path}[]")
    return found


def test_every_field_has_its_line_and_no_line_is_left_over() -> None:
    assert sorted([*_paths(schedule_crd.spec_schema()), "template.spec"]) == sorted(schedule_crd.SPEC)
    assert sorted(_paths(schedule_crd.status_schema())) == sorted(schedule_crd.STATUS)
    template = schedule_crd.template_schema()["properties"]
    assert set(template) == {path for path in explain.SPEC if path and "." not in path} - {"runID", "suspend", "cancel"}


@pytest.fixture
def nights(world: World) -> Nights:
    return Nights(world)


def test_what_is_due_is_made_run_and_told(nights: Nights) -> None:
    nights.apply(schedule=HOURLY, template__spec__cleanup="Truncate", template__spec__confirm="pg-rw/app")
    nights.ran(timedelta(hours=3, minutes=30))
    nights.change(suspend=False)
    child = nights.wait_child()
    due = datetime.now(UTC).replace(minute=0, second=0)
    meta = child["metadata"]
    assert meta["name"] == f"nightly-{due:%Y%m%d%H%M}" and child["spec"]["runID"] == f"{due:%Y%m%dT%H%MZ}"
    assert (
        meta["ownerReferences"][0]["uid"] == nights.get()["metadata"]["uid"]
        and meta["ownerReferences"][0]["controller"]
    )
    assert child["spec"]["cleanup"] == "Truncate"
    nights.wait(lambda: [a["name"] for a in nights.status().get("active", [])] == [meta["name"]])
    assert nights.status()["lastScheduleTime"] == f"{due:%Y-%m-%dT%H:%M:%SZ}"
    nights.wait(lambda: nights.world.events("MissedSchedule"))
    nights.succeed(child)
    nights.wait(lambda: not nights.status().get("active") and nights.status().get("lastSuccessfulTime"))
    assert (
        nights.condition("LastRestoreSucceeded")["status"] == "True" and nights.condition("Ready")["status"] == "True"
    )
    time.sleep(1)
    before = nights.get()["metadata"]["resourceVersion"]
    time.sleep(2)
    assert nights.get()["metadata"]["resourceVersion"] == before  # at rest nothing is written
    assert len(nights.children()) == 1 and "finalizers" not in nights.get()["metadata"]


@pytest.mark.slow  # waits for a minute to begin
def test_forbid_waits_and_replace_takes_its_place(nights: Nights) -> None:
    nights.apply(schedule=HOURLY)
    nights.ran(timedelta(hours=2))
    nights.change(suspend=False)
    first = nights.wait_child()
    # Another time comes while the first is still active: the same, seen from an hour before.
    nights.change(suspend=True)
    nights.wait(lambda: nights.status()["observedGeneration"] == 3)
    nights.change(suspend=False, schedule="* * * * *")
    nights.wait(lambda: nights.world.events("RestoreStillActive"), 70)
    assert len(nights.children()) == 1
    nights.change(concurrencyPolicy="Replace")
    nights.wait(nights.collect)
    nights.wait(
        lambda: all(c["metadata"]["uid"] != first["metadata"]["uid"] for c in nights.children()) and nights.children()
    )
    assert nights.world.events("RestoreReplaced")


@pytest.mark.slow  # up to a minute of waiting
def test_a_minute_comes_by_itself(nights: Nights) -> None:
    nights.world.kube.create(
        SCHEDULES.format(nights.world.namespace), schedule(namespace=nights.world.namespace, schedule="* * * * *")
    )
    child = nights.wait_child(seconds=70)
    made = datetime.fromisoformat(child["metadata"]["creationTimestamp"])
    assert made.second <= 3 and child["spec"]["runID"] == f"{made:%Y%m%dT%H%MZ}"
    nights.change(suspend=True)


def test_only_finished_restores_beyond_the_limit_go(nights: Nights) -> None:
    nights.apply(schedule=HOURLY, successfulRestoresHistoryLimit=0)
    nights.ran(timedelta(hours=1, minutes=1))
    nights.change(suspend=False)
    child = nights.wait_child()
    time.sleep(1)
    assert len(nights.children()) == 1
    nights.world.complete(nights.world.wait_job(child["metadata"]["name"], run=child["spec"]["runID"]))
    nights.wait(nights.collect)
    nights.wait_child(0)
    assert nights.world.events("RestorePruned") and nights.status()["lastSuccessfulTime"]
    assert nights.condition("LastRestoreSucceeded")["status"] == "True"


@pytest.mark.slow
def test_what_cannot_be_read_or_made_is_said_and_heals(nights: Nights) -> None:
    nights.apply(timeZone="Mars/Olympus")
    nights.wait(lambda: nights.condition("Stalled").get("reason") == "InvalidTimeZone")
    assert nights.condition("Ready")["status"] == "False"
    nights.change(timeZone="Europe/Berlin", schedule=HOURLY)
    nights.wait(
        lambda: (
            nights.condition("Ready").get("reason") == "Suspended" and nights.condition("Stalled")["status"] == "False"
        )
    )
    due = datetime.now(UTC).replace(minute=0, second=0)
    foreign = f"nightly-{due:%Y%m%d%H%M}"
    nights.world.apply(foreign, suspend=True)
    nights.ran(timedelta(hours=1))
    nights.change(suspend=False)
    nights.wait(lambda: nights.condition("Stalled").get("reason") == "RestoreNotCreated")
    assert foreign in nights.condition("Ready")["message"]
    nights.world.kube.delete(f"{nights.world.restores}/{foreign}")
    nights.wait_child(seconds=40)
    nights.wait(lambda: nights.condition("Stalled")["status"] == "False")


def test_a_deleted_schedule_starts_nothing_more(nights: Nights) -> None:
    nights.apply(schedule="* * * * *")
    nights.world.kube.delete(nights.path)
    with pytest.raises(ApiError):
        nights.get()


@pytest.mark.parametrize("after", ["suspended", "run"])
def test_a_server_side_apply_of_the_same_schedule_changes_nothing(nights: Nights, after: str) -> None:
    nights.apply(schedule=HOURLY)
    if after == "run":
        nights.ran(timedelta(hours=1))
        nights.change(suspend=False)
        nights.succeed(nights.wait_child())
        nights.wait(lambda: nights.status().get("lastSuccessfulTime"))
    manifest = schedule(namespace=nights.world.namespace, schedule=HOURLY, suspend=after == "suspended")
    before = nights.get()["metadata"]["generation"]
    path = f"{nights.path}?fieldManager=gitops&force=true"
    again = nights.world.kube.request("PATCH", path, manifest, content="application/apply-patch+yaml")
    assert again["metadata"]["generation"] == before


def test_the_examples_are_taken(kube: KubeServer, place: str) -> None:
    found = [
        document
        for file in sorted((ROOT / "examples").glob("**/*.yaml"))
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if document and document.get("kind") == "DatabaseRestoreSchedule"
    ]
    for document in found:
        document["metadata"] |= {"name": next(_names), "namespace": "schedules"}
        DatabaseRestoreSchedule.model_validate(kube.create(place, document))
