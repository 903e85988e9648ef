"""Fifty restores, and fifty times the operator is killed on the way: every restore right, each loaded once."""

from __future__ import annotations

import random
import time
from functools import partial
from typing import Any

import pytest
from cluster import Json, items, run, sql, until
from installed import operator, replace_operator, wait_operator
from restores import Restore
from surroundings import RESTORES

MANY = 50


@pytest.fixture
def fifty(restore: Any) -> Any:
    """That many restores, each of the small backup into a database of its own; none is applied yet."""
    database = restore("small").database
    made: list[Restore] = []
    for n in range(MANY):
        each: Restore = restore("small", name=str(n))
        each.database = f"{database}_{n}"
        sql("app", f"drop database if exists {each.database} with (force)")
        sql("app", f"create database {each.database} template template_lms")
        requests = {"resources": {"requests": {"cpu": "50m"}}}
        made.append(each.set(target__database=each.database, load__workers=1, jobTemplate=requests))
    yield made
    words = ["-n", RESTORES, "delete", "dbr", *(each.name for each in made), "--ignore-not-found"]
    run("kubectl", *words, timeout=180)
    for each in made:
        sql("app", f"drop database if exists {each.database} with (force)")


class Work:
    """What restores do: Jobs that were not there before, rows that were not there before."""

    def __init__(self, databases: str) -> None:
        self._rows = f"select coalesce(sum(tup_inserted), 0) from pg_stat_database where datname like '{databases}%'"
        self._jobs: set[str] = set()
        self._inserted = 0

    def since_last(self) -> tuple[int, int] | None:
        """(Jobs, rows) that are new since this was last asked; None when there are none."""
        jobs = {job["metadata"]["uid"] for job in items("jobs", RESTORES)}
        inserted = int(sql("app", self._rows))
        new = len(jobs - self._jobs), inserted - self._inserted
        self._jobs, self._inserted = jobs, inserted
        return new if any(new) else None


@pytest.mark.slow
def test_fifty_kills_of_the_operator_during_fifty_restores(fifty: list[Restore], backups: dict[str, Json]) -> None:
    """Each kill is a SIGKILL to an operator that is another than the last one, after Jobs or rows have come since the last
    kill. The pod is deleted after it, because a container that dies again and again is started later each time."""
    chance = random.Random(50)
    work = Work(fifty[0].database.removesuffix("0"))
    work.since_last()
    last = ""
    for n, each in enumerate(fifty):
        each.apply()
        last = until("another operator runs", partial(another, last), 60, every=0.1)
        until(f"work is seen before kill {n + 1}", work.since_last, 60, every=0.2)
        time.sleep(chance.uniform(0, 0.5))  # so that it is hit at all kinds of moments
        replace_operator()
    wait_operator()
    for each in fifty:
        each.wait_succeeded(600).check(backups["small"])
        assert each.runs() == 1
        assert len(each.jobs()) == 1, "a Job was made twice"
        if not each.pods_lost():
            assert each.attempts() == 1, "it was begun twice"


def another(last: str) -> str:
    _, container = operator()
    return container if container != last else ""
