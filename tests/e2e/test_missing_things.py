"""What only the cluster can know: it is told within 30 s, by name, and heals by itself when the cause goes away."""

from __future__ import annotations

from typing import Any

from cluster import DATABASE_NAMESPACE, Json, apply, kubectl
from surroundings import RESTORES, claim, secret, service


def test_missing_secret(restore: Any, backups: dict[str, Json]) -> None:
    kubectl("-n", RESTORES, "delete", "secret", "not-yet", "--ignore-not-found")
    made = restore("clean").set(target__credentialsSecretRef={"name": "not-yet"}).apply()
    status = made.wait_reason("SecretMissing")
    assert "not-yet" in str(status["conditions"])
    assert status["phase"] not in ("Failed", "Running")
    apply(secret(RESTORES, "not-yet"))
    made.wait_succeeded(120).check(backups["clean"])


def test_missing_key_of_a_secret(restore: Any) -> None:
    made = restore("clean").set(target__credentialsSecretRef={"name": "pg-app", "passwordKey": "pasword"}).apply()
    status = made.wait_reason("SecretMissing")
    assert "pasword" in str(status["conditions"])


def test_missing_claim(restore: Any, backups: dict[str, Json]) -> None:
    kubectl("-n", RESTORES, "delete", "pvc", "not-yet", "--ignore-not-found")
    kubectl("delete", "pv", f"{RESTORES}-not-yet", "--ignore-not-found")
    made = restore("clean").set(source__persistentVolumeClaim={"claimName": "not-yet"}).apply()
    status = made.wait_reason("ClaimMissing")
    assert "not-yet" in str(status["conditions"])
    apply(*claim(RESTORES, "not-yet"))
    try:
        made.wait_succeeded(420).check(backups["clean"])  # the scheduler looks again after up to five minutes
    finally:
        made.delete()
        kubectl("-n", RESTORES, "delete", "pvc", "not-yet", "--wait=false")
        kubectl("delete", "pv", f"{RESTORES}-not-yet", "--wait=false")


def test_wrong_password(restore: Any) -> None:
    apply(secret(RESTORES, "pg-wrong", "not-the-password"))
    made = restore("clean").set(target__credentialsSecretRef={"name": "pg-wrong"}).apply()
    status = made.wait_phase("Failed", seconds=60)
    assert made.condition("Succeeded")["reason"] == "ValidationFailed"
    assert "password" in status["lastError"]["message"]
    assert "not-the-password" not in str(made.read())


def test_unreachable_database(restore: Any, backups: dict[str, Json]) -> None:
    kubectl("-n", DATABASE_NAMESPACE, "delete", "service", "later", "--ignore-not-found")
    made = restore("clean").set(target__host=f"later.{DATABASE_NAMESPACE}", backoffLimit=10).apply()
    made.wait_reason(f"later.{DATABASE_NAMESPACE}", seconds=45)
    assert made.status["phase"] != "Failed"
    apply(service("later", DATABASE_NAMESPACE))
    made.wait_succeeded(240).check(backups["clean"])


def test_unknown_snapshot(restore: Any) -> None:
    made = restore("clean").set(source__snapshot={"policy": "Exact", "name": "20200101_000000"}).apply()
    made.wait_phase("Failed")
    assert made.condition("Succeeded")["reason"] == "ValidationFailed"
    assert "20200101_000000" in made.condition("Succeeded")["message"]


def test_no_node_for_the_pod(restore: Any) -> None:
    """A selector that no node meets."""
    made = restore("clean").set(jobTemplate={"nodeSelector": {"disk": "of-gold"}}).apply()
    made.wait_reason("Unschedulable")
    described = kubectl("-n", RESTORES, "describe", "dbr", made.name)
    (pod,) = made.pods_alive()
    assert f"pod {pod}: " in described and "mend nodeSelector" in described


def test_a_volume_that_cannot_be_mounted(restore: Any) -> None:
    """A folder that the node does not have: only the kubelet knows, and only its event tells."""
    kubectl("-n", RESTORES, "delete", "pvc", "no-folder", "--ignore-not-found")
    kubectl("delete", "pv", f"{RESTORES}-no-folder", "--ignore-not-found")
    volume, wish = claim(RESTORES, "no-folder")
    volume["spec"]["hostPath"] = {"path": "/nowhere/at/all", "type": "Directory"}
    apply(volume, wish)
    # Binding may take a while, and the scheduler another one: that is another trouble.
    kubectl("-n", RESTORES, "wait", "pvc/no-folder", "--for=jsonpath={.status.phase}=Bound", "--timeout=90s")
    made = restore("clean").set(source__persistentVolumeClaim={"claimName": "no-folder"}).apply()
    try:
        made.wait_reason("hostPath type check failed")
        described = kubectl("-n", RESTORES, "describe", "dbr", made.name)
        assert "VolumeUnavailable" in described and "ClaimMissing" not in described
        assert "claim no-folder (spec.source.persistentVolumeClaim) cannot be mounted" in described
    finally:
        made.delete()
        kubectl("-n", RESTORES, "delete", "pvc", "no-folder", "--wait=false")
        kubectl("delete", "pv", f"{RESTORES}-no-folder", "--wait=false")


def test_a_pod_that_the_namespace_does_not_admit(restore: Any) -> None:
    """An inline volume of a kind that a restricted namespace refuses."""
    made = restore("clean").set(source__persistentVolumeClaim=None, source__volume={"hostPath": {"path": "/tmp"}})
    made.apply().wait_reason("PodForbidden")
    described = kubectl("-n", RESTORES, "describe", "dbr", made.name)
    assert "hostPath" in described and f"namespace {RESTORES} does not admit it" in described
