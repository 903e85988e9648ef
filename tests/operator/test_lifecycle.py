"""The life of restores: the operator as a process, against a real API server."""

from __future__ import annotations

import json

import pytest
from kube_server import ApiError
from manifests import restore
from operator_process import Operator
from restore_operator import api, job
from restore_operator.settings import Settings
from world import DONE, World, container


def test_apply_makes_a_job_and_its_report_becomes_the_status(world: World) -> None:
    world.apply()
    job = world.wait_job()
    container = job["spec"]["template"]["spec"]["containers"][0]
    environment = {e["name"]: e for e in container["env"]}
    sent = json.loads(environment["RESTORE_SPEC"]["value"])
    assert sent["spec"]["target"]["host"] == "pg-rw" and sent["metadata"]["name"] == "reset"
    assert environment["PGPASSWORD"]["valueFrom"] == {"secretKeyRef": {"name": "pg-app", "key": "password"}}
    assert job["spec"].get("ttlSecondsAfterFinished") is None
    status = world.wait_phase("Validating")
    assert status["attempt"] == 1 and status["jobRef"]["uid"] == job["metadata"]["uid"]
    assert world.condition("Reconciling")["status"] == "True" and world.condition("Succeeded")["status"] == "Unknown"
    world.complete(job)
    status = world.wait_phase("Succeeded")
    assert status["progress"]["percent"] == 100 and status["progress"]["recordsRead"] == 100
    assert status["progress"]["recordsRejected"] == 4 and status["rejectedSample"][0]["record"] == 7
    assert status["snapshot"] == {"name": "20241219_103045", "bytes": 5000, "tables": 2}
    assert status["message"] == DONE["message"] and status["completionTime"]
    found = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    assert found == {
        "Succeeded": ("True", "Succeeded"),
        "Ready": ("True", "Succeeded"),
        "Reconciling": ("False", "Succeeded"),
        "Stalled": ("False", "AsExpected"),
        "Degraded": ("True", "RowsRejected"),
    }
    assert all(c["observedGeneration"] == 1 for c in status["conditions"])
    world.wait(lambda: world.jobs()[0]["spec"].get("ttlSecondsAfterFinished") == 86400)  # once the verdict is stored
    assert [event["message"] for event in world.events("Succeeded")] == [DONE["message"]]
    assert "finalizers" not in world.get()["metadata"] and "annotations" not in world.get()["metadata"]


@pytest.mark.parametrize(
    ("reported", "reason"),
    [("ValidationFailed", "ValidationFailed"), ("RejectLimitExceeded", "RejectLimitExceeded"), ("Odd", "LoadFailed")],
)
def test_exit_2_is_a_failure_for_good(world: World, reported: str, reason: str) -> None:
    world.apply()
    world.fail(world.wait_job(), 2, reported, "no table fits the file users: mend it")
    status = world.wait_phase("Failed")
    assert world.condition("Succeeded")["reason"] == reason and world.condition("Stalled")["status"] == "True"
    assert status["message"] == "no table fits the file users: mend it" == status["lastError"]["message"]
    assert status["lastError"]["reason"] == reported
    assert len(world.jobs()) == 1


def test_a_failed_run_says_how_far_it_came(world: World) -> None:
    """Out of its report, whatever was seen last: here nothing was."""
    world.apply()
    totals = DONE["totals"] | {"bytes": 1999, "read": 40, "inserted": 36}
    tables = [DONE["tables"][0] | {"state": "Failed", "error": "too many rejects"}, DONE["tables"][1]]
    made = {"totals": totals, "tables": tables, "snapshot": DONE["snapshot"], "seconds": 4}
    world.fail(world.wait_job(), 2, "RejectLimitExceeded", "4 of 40 records are rejected", **made)
    progress = world.wait_phase("Failed")["progress"]
    told = {key: progress[key] for key in ("percent", "bytesDone", "bytesTotal", "recordsRead", "recordsInserted")}
    assert told == {"percent": 39, "bytesDone": 1999, "bytesTotal": 5000, "recordsRead": 40, "recordsInserted": 36}
    assert (progress["tablesDone"], progress["tablesTotal"], progress["recordsPerSecond"]) == (1, 2, 10)


def test_a_run_that_is_over_stays_so_and_a_new_run_id_runs_again(world: World) -> None:
    world.apply()
    world.complete(world.wait_job())
    world.wait_phase("Succeeded")
    world.change(suspend=True)
    world.wait(lambda: world.status()["observedGeneration"] == 2)
    assert world.status()["phase"] == "Succeeded"
    with pytest.raises(ApiError, match=r"give spec\.runID a new value"):
        world.change(load={"workers": 3})
    world.change(load={"workers": 3}, runID="2", suspend=False)
    job = world.wait_job(run="2")
    status = world.wait_phase("Validating")
    assert status["runID"] == "2" and "progress" not in status and "completionTime" not in status
    world.complete(job)
    world.wait_phase("Succeeded")


def test_a_new_run_id_while_running_stops_the_run_before(world: World) -> None:
    world.apply()
    first = world.wait_job()
    world.change(runID="2")
    world.wait_deleting(first)
    assert len(world.jobs()) == 1
    world.collect(first)
    world.wait_job(run="2")


def test_already_completed(world: World) -> None:
    world.apply()
    world.complete(world.wait_job(), reason="AlreadyCompleted")
    world.wait_phase("Succeeded")
    assert world.condition("Succeeded")["reason"] == "AlreadyCompleted"
    assert world.status()["progress"]["recordsRead"] == 100


def test_suspend_and_resume(world: World) -> None:
    world.apply(suspend=True)
    world.wait_phase("Suspended")
    assert world.jobs() == []
    world.change(suspend=False)
    job = world.wait_job()
    world.change(suspend=True)
    world.wait(lambda: world.jobs()[0]["spec"].get("suspend"))
    status = world.wait_phase("Suspended")
    assert world.condition("Reconciling")["reason"] in ("Suspending", "Suspended")
    assert world.condition("Stalled")["status"] == "False"
    world.change(suspend=False)
    world.wait(lambda: not world.jobs()[0]["spec"].get("suspend"))
    world.complete(job)
    assert world.wait_phase("Succeeded")["startTime"] == status["startTime"]


def test_cancel_before_the_start(world: World) -> None:
    world.apply(suspend=True)
    world.wait_phase("Suspended")
    world.change(cancel=True)
    world.wait_phase("Cancelled")
    assert world.jobs() == [] and world.condition("Stalled")["status"] == "True"


def test_cancel_while_running_closes_the_run_in_the_ledger(world: World) -> None:
    world.apply()
    job = world.wait_job()
    world.running(job)
    world.change(cancel=True)
    world.wait_deleting(job)
    assert world.status()["phase"] == "Validating"  # not before it is so
    world.collect(job)
    closing = world.wait_job(attempt=2)
    environment = {e["name"]: e for e in closing["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert json.loads(environment["RESTORE_SPEC"]["value"])["spec"]["cancel"] is True
    world.fail(
        closing,
        3,
        "Cancelled",
        "run is cancelled",
        outcome="Cancelled",
        snapshot=DONE["snapshot"],
        totals=DONE["totals"] | {"bytes": 2500},
    )
    status = world.wait_phase("Cancelled")
    assert (status["progress"]["recordsInserted"], status["progress"]["percent"]) == (90, 50)
    assert world.condition("Succeeded")["reason"] == "Cancelled" and world.condition("Stalled")["status"] == "True"


def test_the_second_restore_into_a_database_waits(world: World) -> None:
    world.apply("first")
    first = world.wait_job("first")
    world.apply(
        "second",
        target={"host": f"PG-RW.{world.namespace}.svc", "database": "app", "credentialsSecretRef": {"name": "s"}},
    )
    world.apply("third")
    world.apply("elsewhere", target__database="other")
    world.wait_job("elsewhere")
    assert f"{world.namespace}/first" in world.wait_phase("Queued", "second")["message"]
    world.wait_phase("Queued", "third")
    world.complete(first)
    second = world.wait_job("second")
    assert world.jobs("third") == []
    world.kube.delete(f"{world.restores}/second")
    world.remove_job(second)
    world.wait_job("third")


def test_a_job_that_vanished_is_made_again(world: World) -> None:
    world.apply()
    world.remove_job(world.wait_job())
    job = world.wait_job(attempt=2)
    world.complete(job)
    assert world.wait_phase("Succeeded")["attempt"] == 2


def test_a_lost_status_heals(world: World) -> None:
    world.apply()
    job = world.wait_job()
    world.complete(job)
    world.wait_phase("Succeeded")
    world.kube.request("PUT", f"{world.restores}/reset/status", world.get() | {"status": {"observedGeneration": -1}})
    status = world.wait_phase("Succeeded")
    assert status["attempt"] == 1 and status["progress"]["recordsRead"] == 100
    assert len(world.jobs()) == 1


def test_a_lost_report_is_asked_for_again(world: World) -> None:
    world.apply()
    world.complete_job(world.wait_job())
    world.complete(world.wait_job(attempt=2), reason="AlreadyCompleted")
    assert world.wait_phase("Succeeded")["progress"]["recordsRead"] == 100


def test_the_deadline_ends_the_pod_and_then_the_run(world: World) -> None:
    world.apply(activeDeadlineSeconds=2)
    job = world.wait_job()
    world.running(job)
    world.wait_deleting(job)
    assert world.status()["phase"] == "Validating"
    world.collect(job)
    world.wait_phase("Failed")
    assert world.condition("Succeeded")["reason"] == "DeadlineExceeded"


def test_a_deleted_restore_leaves_nothing_to_do(world: World) -> None:
    world.apply()
    job = world.wait_job()
    world.kube.delete(f"{world.restores}/reset")  # no finalizer: it is gone at once
    with pytest.raises(ApiError):
        world.get()
    assert job["metadata"]["ownerReferences"][0]["controller"] is True
    again = world.apply()
    other = world.wait(
        lambda: next((j for j in world.jobs() if j["metadata"]["name"] != job["metadata"]["name"]), None)
    )
    assert other["metadata"]["ownerReferences"][0]["uid"] == again["metadata"]["uid"]


def test_a_target_that_a_stranger_holds_is_waited_for(world: World) -> None:
    world.apply()
    world.fail(world.wait_job(), 1, "TargetBusy", "pg-rw/app is being restored by lms/other/1")
    status = world.wait_phase("Queued")
    assert "lms/other/1" in status["message"] and world.condition("Stalled")["status"] == "False"


def test_what_keeps_a_pod_from_starting_is_said_within_30_seconds_and_heals(world: World) -> None:
    world.apply()
    job = world.wait_job()
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "pg-app" not found'}}
    pod = world.pod(job, container(waiting) | {"phase": "Pending"})
    world.wait(lambda: world.condition("Succeeded").get("reason") == "SecretMissing", 30, say=world.status)
    assert 'secret "pg-app" not found' in world.status()["message"]
    assert world.status()["lastError"]["reason"] == "SecretMissing" and world.events("SecretMissing")
    world.ended(job, 0, {"run": "x", **DONE}, pod)
    world.complete_job(job)
    world.wait_phase("Succeeded")


def test_a_job_whose_pods_are_not_admitted_says_so(world: World) -> None:
    world.apply()
    job = world.wait_job()
    world.event(job, "FailedCreate", "pods is forbidden: exceeded quota: small")
    world.wait(lambda: world.condition("Succeeded").get("reason") == "QuotaExceeded", 30, say=world.status)


def test_a_volume_that_the_api_server_does_not_take_ends_the_run(world: World) -> None:
    world.apply(source={"volume": {"nonsense": {}}})
    status = world.wait_phase("Failed")
    assert "does not take the Job" in status["message"]
    assert world.condition("Succeeded")["reason"] == "ValidationFailed"


def test_a_job_of_that_name_that_is_ours_is_adopted_a_foreign_one_is_not(world: World) -> None:
    made = world.apply(suspend=True)
    world.wait_phase("Suspended")
    manifest = job.make_job(api.DatabaseRestore.model_validate(made), 1, Settings(), remaining=60)
    foreign = manifest | {"metadata": manifest["metadata"] | {"ownerReferences": [], "labels": {}}}
    world.kube.create(world.job_path, foreign)
    world.change(suspend=False)
    world.wait(lambda: "not this restore's" in world.status().get("lastError", {}).get("message", ""), say=world.status)
    world.remove_job(foreign)
    world.wait_job()


def test_the_port_tells_of_restores_until_they_go(world: World, operator: Operator) -> None:
    world.apply()
    world.complete(world.wait_job())
    world.wait_phase("Succeeded")
    line = f'dbrestore_restore_records{{namespace="{world.namespace}",outcome="inserted",restore="reset"}} 90.0'
    world.wait(lambda: line in operator.ask("/metrics"))
    assert operator.ask("/healthz") == "ok\n"
    world.kube.delete(f"{world.restores}/reset")
    world.wait(lambda: world.namespace not in operator.ask("/metrics"), say=lambda: operator.ask("/metrics"))


def test_a_server_side_apply_of_the_same_manifest_changes_nothing(world: World) -> None:
    made = world.apply()
    world.complete(world.wait_job())
    world.wait_phase("Succeeded")
    path = f"{world.restores}/reset?fieldManager=gitops&force=true"
    again = world.kube.request("PATCH", path, restore("reset", world.namespace), content="application/apply-patch+yaml")
    assert again["metadata"]["generation"] == made["metadata"]["generation"]
