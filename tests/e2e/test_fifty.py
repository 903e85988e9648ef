"""Fifty restores, and fifty times the operator is killed on the way: every restore right, each loaded once."""

from __future__ import annotations

from functools import partial
from typing import Any

from cluster import Json, items, kubectl, run, sql, until
from installed import NAMESPACE, SELECTOR, wait_operator
from restores import Restore
from surroundings import RESTORES

MANY = 50


def container() -> tuple[str, str]:
    """(pod, container ID) of the operator that runs; ("", "") while none does."""
    for pod in items("pods", NAMESPACE, SELECTOR):
        for status in pod["status"].get("containerStatuses", []):
            if "running" in status["state"] and "deletionTimestamp" not in pod["metadata"]:
                return pod["metadata"]["name"], status["containerID"]
    return "", ""


def test_fifty_kills_of_the_operator_during_fifty_restores(restore: Any, backups: dict[str, Json]) -> None:
    first: Restore = restore("small")
    databases = [f"{first.database}_{n}" for n in range(MANY)]
    made: list[Restore] = []
    for n, database in enumerate(databases):
        sql("app", f"drop database if exists {database} with (force)")
        sql("app", f"create database {database} template template_lms")
        each: Restore = restore("small", name=str(n))
        each.database = database
        made.append(
            each.set(
                target__database=database, load__workers=1, jobTemplate={"resources": {"requests": {"cpu": "50m"}}}
            )
        )

    kills, seen = 0, ""
    try:
        while kills < MANY:
            if kills < len(made):
                made[kills].apply()
            pod, alive = until("an operator runs", partial(_another, seen), 60, every=0.05)
            # a pod that is deleted at once is replaced at once; a container that dies waits longer each time
            kubectl("-n", NAMESPACE, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
            seen, kills = alive, kills + 1
        wait_operator()
        for each in made:
            each.wait_succeeded(600)
            each.check(backups["small"])
            assert each.runs() == 1
            assert sql(each.database, "select attempts from dbrestore.runs") == "1", "it was started twice"
            assert len(each.jobs()) == 1
    finally:
        run(
            "kubectl", "-n", RESTORES, "delete", "dbr", *(each.name for each in made), "--ignore-not-found", timeout=180
        )
        for database in databases:
            sql("app", f"drop database if exists {database} with (force)")


def _another(seen: str) -> tuple[str, str] | None:
    pod, alive = container()
    return (pod, alive) if alive and alive != seen else None
