"""A role or a database with timeouts, as many have for their application: batches shrink to fit, all else takes its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from fix_restore import Restore
from restorer.database.runs import purge_runs
from restorer.events import AnyEvent, PhaseChanged, Retried, TableChanged

HELD = 1.0  # seconds that a lock is held
TIMEOUTS = ("statement_timeout", pytest.param("transaction_timeout", marks=pytest.mark.slow))


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

    def when(self, happened: Callable[[AnyEvent], bool], mode: str, table: str = "t") -> Callable[[AnyEvent], None]:
        def look(event: AnyEvent) -> None:
            if not self.threads and happened(event):
                self.hold(mode, table)

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


def hurried(at: Restore, timeout: str, most: str = "400ms") -> str:
    """A role whose statements, or transactions, may not take longer. -> how it connects"""
    if timeout == "transaction_timeout" and at.db.info.server_version < 170000:
        pytest.skip("PostgreSQL 17 and later")
    dsn = at.role()
    role = f"role_{at.db.info.dbname}"
    at.schema(f"ALTER TABLE t OWNER TO {role}", f"ALTER ROLE {role} SET {timeout} = '{most}'")
    return dsn


def untroubled(at: Restore, what: str, **options: Any) -> None:
    """Nothing of the kind was tried again. (A batch may have been: the machine may stand still for a moment.)"""
    began = time.monotonic()
    at.ok_hurried(**options)
    assert not [e for e in at.events if isinstance(e, Retried) and e.message.startswith(what)]
    assert time.monotonic() - began > HELD / 2


SLOW_ROWS = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END'"
SLOW_TRIGGER = "CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow()"
FORTY = [{"id": i, "up": 39 - i} for i in range(40)]


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize(
    "what", ["cleanup", "ANALYZE", "settling", "verification", "comparing", "report", "hook", "query"]
)
def test_what_takes_longer_than_the_roles_timeout_is_not_cut_off(at: Restore, locks: Locks, timeout: str, what: str):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t)").file("t", FORTY)
    slow = "SELECT count(*) FROM (SELECT pg_sleep(0.8)) s"
    dsn = hurried(at, timeout)
    if what == "cleanup":
        locks.hold("ACCESS SHARE")
        untroubled(at, "cleanup", dsn=dsn, cleanup="Truncate", confirm=at.label)
    elif what == "ANALYZE":
        locks.hold("SHARE UPDATE EXCLUSIVE")
        untroubled(at, "ANALYZE", dsn=dsn)
    elif what == "settling":
        waits = locks.when(lambda e: isinstance(e, TableChanged) and e.state == "Deferred", "SHARE")
        untroubled(at, "settling", dsn=dsn, emit=waits, batch=10)
    elif what == "verification":
        begins = locks.when(lambda e: isinstance(e, PhaseChanged) and e.phase == "Verifying", "ACCESS EXCLUSIVE")
        untroubled(at, "verification", dsn=dsn, emit=begins)
    elif what == "comparing":
        at.ok()
        begins = locks.when(lambda e: isinstance(e, PhaseChanged) and e.phase == "Verifying", "ACCESS EXCLUSIVE")
        untroubled(at, "verification", dsn=dsn, emit=begins, mode="VerifyOnly")
    elif what == "report":
        at.ok_hurried(dsn=dsn)
        begins = locks.when(
            lambda e: isinstance(e, PhaseChanged) and e.phase == "Verifying", "ACCESS EXCLUSIVE", "dbrestore.rejects"
        )
        untroubled(at, "report", dsn=dsn, emit=begins)
    elif what == "hook":
        untroubled(at, "hook", dsn=dsn, hooks={"postRestore": [{"name": "slow", "sql": slow}]})
    else:
        queries = [{"name": "slow", "sql": slow, "expect": "1"}]
        untroubled(at, "verification", dsn=dsn, verification={"queries": queries})
    assert at.value("SELECT count(*) FROM t") == 40


def test_a_batch_that_takes_longer_than_a_transaction_may_goes_in_halves(at: Restore):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, up int)",
        SLOW_ROWS,
        SLOW_TRIGGER,
    ).file("t", FORTY)
    dsn = hurried(at, "transaction_timeout", "500ms")
    assert at.ok_hurried(dsn=dsn, retry={"initialSeconds": 1, "maxSeconds": 1}).counts() == {"inserted": 40}
    assert "25P04" in [e.sqlstate for e in at.events if isinstance(e, Retried)]


def test_a_session_that_is_ended_while_it_is_sent_a_batch_breaks_without_a_word(at: Restore):
    """More than a socket holds: what the server said at last is lost."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)", SLOW_ROWS.replace("0.02", "0.002"), SLOW_TRIGGER)
    at.file("t", [{"id": i, "v": "x" * 4000} for i in range(600)])
    dsn = hurried(at, "transaction_timeout", "700ms")
    result = at.ok_hurried(dsn=dsn, batch=600, retry={"initialSeconds": 1, "maxSeconds": 1})
    assert result.counts() == {"inserted": 600}
    assert [e.sqlstate for e in at.events if isinstance(e, Retried)][:2] == ["08006", "08006"]


@pytest.mark.parametrize("timeout", ["", "statement_timeout"])
def test_a_partitioned_table_has_its_statistics_with_and_without_a_timeout(at: Restore, timeout: str):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, up int) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (20)", "CREATE TABLE t2 PARTITION OF t DEFAULT",
    ).file("t", FORTY)  # fmt: skip
    if timeout:
        at.schema(f"ALTER DATABASE {at.db.info.dbname} SET {timeout} = '5s'")
    at.ok()
    analyzed = "SELECT DISTINCT tablename::text FROM pg_stats WHERE schemaname = 'public' ORDER BY 1"
    assert at.rows(analyzed) == [("t",), ("t1",), ("t2",)]


def test_a_run_with_very_much_in_the_ledger_is_forgotten_in_its_own_time(at: Restore, locks: Locks):
    at.schema("CREATE TABLE t (id int PRIMARY KEY)").file("t", [{"id": 1}, {"id": "x"}]).ok(name="r/1")
    locks.hold("SHARE", "dbrestore.rejects")
    at.schema("SET statement_timeout = '300ms'")
    assert purge_runs(at.db, "dbrestore", ["r/1"], None, rejects_only=True) == ["r/1"]
