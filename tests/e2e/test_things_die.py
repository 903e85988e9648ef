"""Whatever dies, every row is there once, and the status says what the ledger says."""

from __future__ import annotations

from typing import Any

from cluster import DATABASE_NAMESPACE, Json, kubectl, until
from installed import NAMESPACE, kill_operator, wait_operator


def test_operator_killed_while_running(restore: Any, backups: dict[str, Json]) -> None:
    made = restore("large").set(load__batchRows=1000, load__workers=1).apply()
    made.wait_loading()
    jobs = [j["metadata"]["uid"] for j in made.jobs()]
    kill_operator()
    made.wait_succeeded(240).check(backups["large"])
    assert [j["metadata"]["uid"] for j in made.jobs()] == jobs, "the new operator began anew"
    wait_operator()


def test_applied_while_no_operator_runs(restore: Any, backups: dict[str, Json]) -> None:
    kubectl("-n", NAMESPACE, "scale", "deploy", "--all", "--replicas=0")
    try:
        made = restore("clean").apply()
        until("there is no operator", lambda: not kubectl("-n", NAMESPACE, "get", "pods", "-o", "name"), 60)
        assert made.status == {"observedGeneration": -1}
    finally:
        kubectl("-n", NAMESPACE, "scale", "deploy", "--all", "--replicas=1")
    made.wait_succeeded(120).check(backups["clean"])


def test_restorer_pod_killed_while_running(restore: Any, backups: dict[str, Json]) -> None:
    made = restore("large").slowly().apply()
    made.wait_loading()
    pod = next(p["metadata"]["name"] for p in made.pods() if p["status"]["phase"] == "Running")
    kubectl("-n", made.namespace, "delete", "pod", pod, "--grace-period=0", "--force")
    made.wait_succeeded(300).check(backups["large"])
    assert made.runs() == 1


def test_restorer_process_killed_while_running(restore: Any, backups: dict[str, Json]) -> None:
    """SIGKILL from inside the pod, as the kernel does it when memory is short."""
    made = restore("large").slowly().set(load__workers=2).apply()
    made.wait_loading()
    pod = next(p["metadata"]["name"] for p in made.pods() if p["status"]["phase"] == "Running")
    code = "import os,signal\nfor p in os.listdir('/proc'):\n  p.isdigit() and p not in ('1', str(os.getpid())) and os.kill(int(p), signal.SIGKILL)"
    kubectl("-n", made.namespace, "exec", pod, "--", "python", "-c", code)
    made.wait_succeeded(300).check(backups["large"])
    assert made.runs() == 1


def test_database_restarted_while_running(restore: Any, backups: dict[str, Json]) -> None:
    made = restore("large").slowly().apply()
    made.wait_loading()
    stop = "select pg_terminate_backend(pid) from pg_stat_activity where datname = '%s' and pid <> pg_backend_pid()"
    words = ["psql", "-U", "app", "-d", "app", "-qtAXc", stop % made.database]
    kubectl("-n", DATABASE_NAMESPACE, "exec", "deploy/postgres", "--", *words)
    made.wait_succeeded(300).check(backups["large"])


def test_job_deleted_while_running(restore: Any, backups: dict[str, Json]) -> None:
    made = restore("large").slowly().apply()
    made.wait_loading()
    name = made.jobs()[0]["metadata"]["name"]
    kubectl("-n", made.namespace, "delete", "job", name, "--wait=false")
    made.wait_succeeded(300).check(backups["large"])
    assert made.status["attempt"] == 2
    assert made.runs() == 1
