"""Whatever dies, every row is there once, and the status says what the ledger says."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from cluster import DATABASE_NAMESPACE, CommandFailed, Json, get, items, kubectl, sql, until
from installed import NAMESPACE, kill_operator, wait_operator
from processes import kill_children, kill_first, running_container


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


def test_restorer_pod_deleted_while_running(restore: Any, backups: dict[str, Json]) -> None:
    """As a node that is drained does it, without waiting."""
    made = restore("large").slowly().apply()
    made.wait_loading()
    pod, _ = made.running_pod()
    kubectl("-n", made.namespace, "delete", "pod", pod, "--grace-period=0", "--force")
    made.wait_succeeded(300).check(backups["large"])
    assert made.runs() == 1


def test_restorer_process_killed_while_running(restore: Any, backups: dict[str, Json]) -> None:
    """SIGKILL to the first process of the container: nothing of it has time for anything."""
    made = restore("large").slowly().set(load__workers=2).apply()
    made.wait_loading()
    pod, container = made.running_pod()
    kill_first(container)
    made.wait_succeeded(300).check(backups["large"])
    ended = get("pod", pod, made.namespace)
    assert ended is not None
    assert ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
    assert made.pods_lost() == 1
    assert (made.runs(), made.attempts()) == (1, 2)


def test_workers_killed_while_running(restore: Any, backups: dict[str, Json]) -> None:
    """SIGKILL to the worker processes, as the kernel does it when memory is short."""
    made = restore("large").slowly().set(load__workers=2).apply()
    made.wait_loading()
    _, container = made.running_pod()
    assert kill_children(container) >= 1
    made.wait_succeeded(300).check(backups["large"])
    assert made.runs() == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_database_restarted_while_running(restore: Any, backups: dict[str, Json], number: signal.Signals) -> None:
    """The server's first process is killed (the database recovers from its log) or told to shut down fast; the kubelet
    starts it again on the same volume."""
    made = restore("large").slowly().apply()
    made.wait_loading()
    started = "select pg_postmaster_start_time()"
    before = sql("app", started)
    (pod,) = items("pods", DATABASE_NAMESPACE, "app=postgres")
    kill_first(running_container(pod), number)
    until("the server is back", lambda: said(started) not in ("", before), 60)
    made.wait_succeeded(300).check(backups["large"])
    assert made.runs() == 1
    (same,) = items("pods", DATABASE_NAMESPACE, "app=postgres")
    assert same["metadata"]["uid"] == pod["metadata"]["uid"]


def said(statement: str) -> str:
    """What the server says; "" while it is away."""
    try:
        return sql("app", statement)
    except CommandFailed:
        return ""


def test_job_deleted_while_running(restore: Any, backups: dict[str, Json]) -> None:
    made = restore("large").slowly().apply()
    made.wait_loading()
    name = made.jobs()[0]["metadata"]["name"]
    kubectl("-n", made.namespace, "delete", "job", name, "--wait=false")
    made.wait_succeeded(300).check(backups["large"])
    assert made.status["attempt"] == 2
    assert made.runs() == 1
