"""A role or a database with timeouts, as many have for their application: batches shrink to fit, all else takes its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from fix_restore import Restore
from restorer.database.runs import purge_runs
from restorer.events import AnyEvent, PhaseChanged, Retried, TableChanged

HELD = 1.0  # seconds that a lock is held
TIMEOUTS = ("statement_timeout", "transaction_timeout")


class Locks:
    """Takes a lock on a table when it is told to, from another session, and lets it go by itself."""

    def __init__(self, dsn: str) -> None:
        self._dsn, self.threads = dsn, list[threading.Thread]()

    def hold(self, mode: str, table: str = "t") -> None:
        taken = threading.Event()

        def work() -> None:
            with psycopg.connect(self._dsn) as conn:
                conn.execute(f"SET LOCAL statement_timeout = 0; LOCK TABLE {table} IN {mode} MODE")
                taken.set()
                time.sleep(HELD)

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        assert taken.wait(5)

    def when(self, happened: Callable[[AnyEvent], bool], mode: str) -> Callable[[AnyEvent], None]:
        def look(event: AnyEvent) -> None:
            if not self.threads and happened(event):
                self.hold(mode)

        return look


@pytest.fixture
def locks(at: Restore) -> Iterator[Locks]:
    """Not subject to what is set for the database's other sessions."""
    made = Locks(
        psycopg.conninfo.make_conninfo(
            at.dsn, options="-c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
        )
    )
    yield made
    for thread in made.threads:
        thread.join()


@contextmanager
def hurried(at: Restore, timeout: str, most: str = "300ms") -> Iterator[str]:
    """A role whose statements, or transactions, may not take longer. -> how it connects"""
    if timeout == "transaction_timeout" and at.db.info.server_version < 170000:
        pytest.skip("PostgreSQL 17 and later")
    dsn = at.role()
    role = f"role_{at.db.info.dbname}"
    at.schema(f"ALTER TABLE t OWNER TO {role}", f"ALTER ROLE {role} SET {timeout} = '{most}'")
    yield dsn


def untroubled(at: Restore, **options: Any) -> None:
    began = time.monotonic()
    at.ok(**options)
    assert not [e for e in at.events if isinstance(e, Retried)]
    assert time.monotonic() - began > HELD / 2


FORTY = [{"id": i, "up": 39 - i} for i in range(40)]


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("what", ["cleanup", "ANALYZE", "settling", "verification", "hook", "query"])
def test_what_takes_longer_than_the_roles_timeout_is_not_cut_off(at: Restore, locks: Locks, timeout: str, what: str):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t)").file("t", FORTY)
    slow = "SELECT count(*) FROM (SELECT pg_sleep(0.6)) s"
    with hurried(at, timeout) as dsn:
        if what == "cleanup":
            locks.hold("ACCESS SHARE")
            untroubled(at, dsn=dsn, cleanup="Truncate", confirm=at.label)
        elif what == "ANALYZE":
            locks.hold("SHARE UPDATE EXCLUSIVE")
            untroubled(at, dsn=dsn)
        elif what == "settling":
            waits = locks.when(lambda e: isinstance(e, TableChanged) and e.state == "Deferred", "SHARE")
            untroubled(at, dsn=dsn, emit=waits, batch=10)
        elif what == "verification":
            begins = locks.when(lambda e: isinstance(e, PhaseChanged) and e.phase == "Verifying", "ACCESS EXCLUSIVE")
            untroubled(at, dsn=dsn, emit=begins)
        elif what == "hook":
            untroubled(at, dsn=dsn, hooks={"postRestore": [{"name": "slow", "sql": slow}]})
        else:
            untroubled(at, dsn=dsn, verification={"queries": [{"name": "slow", "sql": slow, "expect": "1"}]})
    assert at.value("SELECT count(*) FROM t") == 40


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_a_batch_that_takes_longer_goes_in_halves(at: Restore, timeout: str):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, up int)",
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END'",
        "CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow()",
    ).file("t", FORTY)
    with hurried(at, timeout, "500ms") as dsn:
        assert at.ok(dsn=dsn, retry={"initialSeconds": 1, "maxSeconds": 1}).counts() == {"inserted": 40}
    state = {"statement_timeout": "57014", "transaction_timeout": "25P04"}[timeout]
    assert state in [e.sqlstate for e in at.events if isinstance(e, Retried)]


def test_a_run_with_very_much_in_the_ledger_is_forgotten_in_its_own_time(at: Restore, locks: Locks):
    at.schema("CREATE TABLE t (id int PRIMARY KEY)").file("t", [{"id": 1}, {"id": "x"}]).ok(name="r/1")
    locks.hold("SHARE", "dbrestore.rejects")
    at.schema("SET statement_timeout = '300ms'")
    assert purge_runs(at.db, "dbrestore", ["r/1"], None, rejects_only=True) == ["r/1"]
