"""A cycle that takes long to settle, and tables that have nothing to do with it."""

from __future__ import annotations

import signal
import time
from typing import Any

import psycopg
import pytest
from command import Started, restorer
from fix_restore import Restore
from restorer.events import TableChanged

CYCLE = "CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t, v text)"
# Row 1 waits for a later one, and so comes when the cycle is settled. (AFTER: its parent is looked for before.)
SLOW = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {}; RETURN NULL; END'",
    "CREATE TRIGGER slow AFTER INSERT ON t FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION slow()",
)


def cycle(at: Restore, then: str) -> None:
    at.schema(CYCLE, SLOW[0].format(then), SLOW[1])
    at.file("t", [{"id": i, "up": i + 500 if i < 500 else None, "v": "é"} for i in range(1000)])


def test_others_go_on_while_it_is_settled(at: Restore):
    """Their parents are complete by the leader's word, who had been busy."""
    cycle(at, "PERFORM pg_sleep(3)")
    at.schema("CREATE TABLE p (id int PRIMARY KEY CHECK (pg_sleep(0.01) IS NOT NULL))")
    at.schema("CREATE TABLE u (id int PRIMARY KEY REFERENCES p)", "CREATE TABLE w (id int PRIMARY KEY REFERENCES u)")
    for name in "puw":
        at.file(name, [{"id": i} for i in range(30)])
    at.ok(batch=250, load={"workers": 2, "batch_rows": 250})
    done = [e.table for e in at.events if isinstance(e, TableChanged) and e.state == "Done"]
    assert done == ["p", "u", "w", "t"]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_keeps_it_from_being_settled_is_told(at: Restore, workers: int):
    cycle(at, "RAISE ''no'' USING ERRCODE = ''42501''")
    end = restorer("run", "--backup", at.root, "--dsn", at.dsn, "--batch-size", 250, "--workers", workers)
    assert end.code == 2 and "settling t: " in end.lines[-1] and "42501" in end.lines[-1]


def test_it_can_be_interrupted_and_goes_on_from_there(at: Restore):
    cycle(at, "PERFORM pg_sleep(60)")
    args: tuple[Any, ...] = (
        "run", "--backup", at.root, "--dsn", at.dsn, "--name", "slow", "--batch-size", 250, "--workers", 2,
    )  # fmt: skip
    started = Started(*args)

    def sleeping() -> bool:
        return bool(at.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

    started.until(sleeping)
    began = time.monotonic()
    started.send(signal.SIGTERM)
    end = started.end()
    assert end.code == 143 and time.monotonic() - began < 5, end.err
    assert not sleeping()
    at.schema("DROP TRIGGER slow ON t")
    with psycopg.connect(at.dsn) as conn:
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (500,)
    assert restorer(*args).code == 0
    assert at.value("SELECT count(*) FROM t JOIN t up ON up.id = t.up") == 500
