"""The life of restores, as a person sees it: applied, watched, stopped, done again."""

from __future__ import annotations

import json
from typing import Any

from cluster import Json, apply, get, kubectl, sql, until
from restores import Restore


def conditions(restore: Restore) -> dict[str, str]:
    return {c["type"]: c["status"] for c in restore.status["conditions"]}


def test_success(restore: Any, backups: dict[str, Json]) -> None:
    done = restore("clean").apply().wait_succeeded()
    done.check(backups["clean"])
    told = conditions(done)
    assert (told["Succeeded"], told["Ready"], told["Reconciling"], told["Stalled"]) == (
        "True",
        "True",
        "False",
        "False",
    )
    assert (
        done.condition("Degraded")["reason"] == "FallbackUsed"
    )  # rows of a cycle of foreign keys never go by COPY alone
    status = done.status
    assert status["observedGeneration"] == done.read()["metadata"]["generation"]
    assert status["snapshot"]["name"] == "20241219_103045"
    assert status["snapshot"]["tables"] == 24
    line = kubectl("-n", done.namespace, "get", "dbr", done.name).splitlines()[1].split()
    assert line[1:5] == ["Succeeded", "100", "3000", "0"]


def test_rejects_within_the_limit(restore: Any, backups: dict[str, Json]) -> None:
    done = restore("small").apply().wait_succeeded()
    done.check(backups["small"])
    assert done.condition("Degraded")["status"] == "True"
    assert done.condition("Degraded")["reason"] == "RowsRejected"
    sample = done.status["rejectedSample"]
    assert 0 < len(sample) <= 5
    assert {"table", "record", "reason"} <= sample[0].keys() <= {"table", "record", "reason", "sqlState", "constraint"}


def test_rejects_past_the_limit(restore: Any) -> None:
    made = restore("small").set(rejects={"limit": 0}).apply()
    status = made.wait_phase("Failed")
    assert made.condition("Succeeded")["reason"] == "RejectLimitExceeded"
    assert conditions(made)["Stalled"] == "True"
    # what is committed stays, and is told as it is
    ledger = made.ledger()
    told = {t["name"]: t["inserted"] for t in status["tables"]}
    assert told == {name: ledger.get(name, {"inserted": 0})["inserted"] for name in told}
    assert sum(counts["rejected"] for counts in ledger.values()) == status["progress"]["recordsRejected"] > 0


def test_dry_run_keeps_nothing(restore: Any, backups: dict[str, Json]) -> None:
    done = restore("small").set(mode="DryRun").apply().wait_succeeded()
    assert done.status["progress"]["recordsRejected"] == backups["small"]["totals"]["rejected"]
    assert sql(done.database, "select count(*) from users") == "0"
    assert sql(done.database, "select to_regclass('dbrestore.runs') is null") == "t"


def test_truncate_with_confirmation(restore: Any, backups: dict[str, Json]) -> None:
    first = restore("small", name="first").apply().wait_succeeded()
    target = first.manifest["spec"]["target"]
    again = restore("small", name="again").set(cleanup="Truncate", confirm=f"{target['host']}/{target['database']}")
    again.apply().wait_succeeded().check(backups["small"])


def test_cancel_while_running(restore: Any) -> None:
    made = restore("large").slowly().apply()
    made.wait_loading()
    kubectl("-n", made.namespace, "patch", "dbr", made.name, "--type=merge", "-p", '{"spec":{"cancel":true}}')
    status = made.wait_phase("Cancelled", seconds=60)
    assert made.condition("Succeeded")["reason"] == "Cancelled"
    ledger = made.ledger()
    assert sum(t["read"] for t in ledger.values()) == status["progress"]["recordsRead"] > 0
    assert 0 < status["progress"]["percent"] < 100
    assert 0 < status["progress"]["bytesDone"] < status["progress"]["bytesTotal"]
    assert sql(made.database, "select state from dbrestore.runs") == "Cancelled"
    assert not made.pods_alive()


def test_suspend_and_resume(restore: Any, backups: dict[str, Json]) -> None:
    made = restore("large").slowly().apply()
    made.wait_loading()
    made.set(suspend=True).apply()
    made.wait_phase("Suspended", seconds=60)
    until("no pod runs", lambda: not made.pods_alive(), 30)
    before = made.ledger_read()
    assert 0 < before < backups["large"]["totals"]["read"]
    made.set(suspend=False, load={"batchRows": 5000, "workers": 1})
    kubectl("-n", made.namespace, "patch", "dbr", made.name, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    made.wait_succeeded(240).check(backups["large"])


def test_suspended_from_the_start(restore: Any, backups: dict[str, Json]) -> None:
    made = restore("clean").set(suspend=True).apply()
    made.wait_phase("Suspended")
    assert not made.pods_alive()
    made.set(suspend=False).apply()
    made.wait_succeeded().check(backups["clean"])


def test_three_on_one_target(restore: Any, backups: dict[str, Json]) -> None:
    """One after the other; never two at once, never one failed for it."""
    three = [restore("small", name=name) for name in ("a", "b", "c")]
    for each in three:
        each.set(load__batchRows=500).apply()
    seen: list[list[str]] = []

    def all_done() -> bool:
        phases = [each.status.get("phase", "") for each in three]
        seen.append(phases)
        running = [each.name for each in three if each.pods_alive()]
        assert len(running) <= 1, f"side by side: {running}"
        assert "Failed" not in phases, [each.explain() for each in three]
        return phases == ["Succeeded"] * 3

    until("all three succeeded", all_done, 180)
    assert any("Queued" in phases for phases in seen)
    totals = backups["small"]["totals"]
    first, *others = sorted(three, key=lambda each: each.status["completionTime"])
    assert first.status["progress"]["recordsInserted"] == totals["inserted"]
    for other in others:
        assert other.status["progress"]["recordsInserted"] == 0
        assert other.status["progress"]["recordsDuplicate"] > 0
    assert first.runs() == 3


def test_another_run_of_the_same_object(restore: Any) -> None:
    made = restore("small").apply().wait_succeeded()
    inserted = made.status["progress"]["recordsInserted"]
    made.set(runID="2").apply().wait_succeeded()
    status = made.status
    assert status["runID"] == "2"
    assert (status["progress"]["recordsInserted"], status["progress"]["recordsDuplicate"] >= inserted) == (0, True)
    assert made.runs() == 2


def test_deleted_and_applied_again(restore: Any, backups: dict[str, Json]) -> None:
    made = restore("small").apply().wait_succeeded()
    before = made.status
    made.delete()
    sql(made.database, "delete from answers")  # what happened to the data since is nobody's business but the owner's
    made.apply().wait_succeeded()
    assert made.condition("Succeeded")["reason"] == "AlreadyCompleted"
    assert made.status["progress"] | {"lastUpdateTime": ""} == before["progress"] | {"lastUpdateTime": ""}
    assert made.status["tables"] == before["tables"]
    assert sql(made.database, "select count(*) from answers") == "0"
    assert made.runs() == 1


def test_deleted_while_running(restore: Any, backups: dict[str, Json]) -> None:
    """Job and pods go with it; the same object applied again goes on where the first one stopped."""
    made = restore("large").slowly().apply()
    made.wait_loading()
    made.delete()
    assert get("dbr", made.name, made.namespace) is None
    selector = f"dbrestore.io/restore={made.name}"
    until(
        "job and pods are gone",
        lambda: not kubectl("-n", made.namespace, "get", "jobs,pods", "-l", selector, "-o", "name"),
        90,
    )
    before = made.ledger_read()
    assert 0 < before < backups["large"]["totals"]["read"]
    made.set(load={"batchRows": 5000, "workers": 1}).apply().wait_succeeded(240).check(backups["large"])
    assert made.runs() == 1


def test_applying_the_same_again_changes_nothing(restore: Any) -> None:
    made = restore("clean").apply().wait_succeeded()
    before = made.read()
    assert "unchanged" in kubectl("apply", "-f", "-", input=json.dumps(made.manifest))
    assert made.read()["metadata"]["generation"] == before["metadata"]["generation"]
    assert made.read()["status"] == before["status"]
    assert "finalizers" not in before["metadata"]


def test_events_tell_the_story(restore: Any) -> None:
    made = restore("clean").apply().wait_succeeded()

    def story() -> list[str]:
        text = kubectl(
            "-n", made.namespace, "get", "events", "-o", "json", "--field-selector", f"involvedObject.name={made.name}"
        )
        return [e["reason"] for e in json.loads(text)["items"]]

    until("there is an event of the success", lambda: "Succeeded" in story(), 15)
    described = kubectl("-n", made.namespace, "describe", "dbr", made.name)
    assert "Succeeded" in described


def test_a_secret_is_not_in_job_or_status(restore: Any) -> None:
    made = restore("clean").apply().wait_succeeded()
    job = json.dumps(made.jobs())
    assert job.count("secretKeyRef") >= 2
    assert "e2e-password" not in job + json.dumps(made.read())


def test_a_bad_manifest_is_refused_by_its_field(restore: Any) -> None:
    import pytest
    from cluster import CommandFailed

    for field, value, words in (
        ("mode", "Aply", "spec.mode"),
        ("cleanup", "Truncate", "confirm"),
        ("source__path", "../other", "spec.source.path"),
        ("load__pods", 0, "spec.load.pods"),
    ):
        with pytest.raises(CommandFailed) as refused:
            restore("clean").set(**{field: value}).apply()
        assert words in str(refused.value)
    made = restore("clean").apply()
    made.set(onConflict="Update")
    with pytest.raises(CommandFailed, match="runID"):
        apply(made.manifest)
