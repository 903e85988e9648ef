"""ANALYZE of a table as soon as it is settled, beside the rest of the load; nothing is lost where that goes wrong."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command import Started, write_backup
from fix_restore import Restore
from restorer.database.connection import Connection
from restorer.events import AnyEvent, PhaseChanged, TableChanged
from restorer.load import statistics
from restorer.model import TablePlan

FAMILY = (
    "CREATE TABLE p (id int PRIMARY KEY, n int)",
    "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p)",
)


@pytest.fixture
def family(at: Restore) -> Restore:
    at.schema(*FAMILY)
    at.file("p", [{"id": i, "n": i % 7} for i in range(300)])
    return at.file("t", [{"id": i, "p": i % 300} for i in range(600)])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables whose statistics are made, and the phases, as they come."""
    found: list[str] = []
    analyze = statistics.analyze

    def noted(conn: Connection, plan: TablePlan, *, untouched: bool) -> None:
        found.append(plan.name)
        analyze(conn, plan, untouched=untouched)

    monkeypatch.setattr(statistics, "analyze", noted)
    return found


def slowly(seen: list[str], seconds: float = 5) -> Callable[[AnyEvent], None]:
    """As `until`; notes phases in `seen` as well."""
    wait = until(seen, seconds)

    def emit(event: AnyEvent) -> None:
        if isinstance(event, PhaseChanged):
            seen.append(event.phase)
        wait(event)

    return emit


def until(begun: list[str], seconds: float = 5) -> Callable[[AnyEvent], None]:
    """Hears of the second table only when the first one's statistics were begun, or so many seconds later."""

    def emit(event: AnyEvent) -> None:
        if event == TableChanged("t", "Loading"):
            latest = time.monotonic() + seconds
            while "p" not in begun and time.monotonic() < latest:
                time.sleep(0.01)

    return emit


@pytest.mark.parametrize("workers", [1, 2])
def test_parents_have_theirs_while_children_are_loaded(family: Restore, seen: list[str], workers: int):
    family.ok(load={"workers": workers}, emit=slowly(seen))
    assert seen.index("Loading") < seen.index("p") < seen.index("Verifying")
    assert sorted(name for name in seen if len(name) == 1) == ["p", "t"]  # none of them twice
    assert family.value("SELECT count(*) FROM pg_stats WHERE schemaname = 'public'") == 4
    assert family.value("SELECT reltuples FROM pg_class WHERE oid = 't'::regclass") == 600


@pytest.mark.parametrize("workers", [1, 2])
def test_at_the_end_where_a_trigger_may_change_them_later(family: Restore, seen: list[str], workers: int):
    family.schema(
        "CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE p SET n = 77 WHERE id = NEW.p; RETURN NULL; END'",
        "CREATE TRIGGER c AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION count_up()",
    )
    family.ok(load={"workers": workers}, emit=slowly(seen, 0.5))
    assert seen.index("Verifying") < seen.index("p")
    assert family.value("SELECT most_common_vals::text FROM pg_stats WHERE tablename = 'p' AND attname = 'n'") == "{77}"


def test_what_failed_is_done_at_the_end(family: Restore, seen: list[str], monkeypatch: pytest.MonkeyPatch):
    analyze, failed = statistics.analyze, list[str]()

    def once(conn: Connection, plan: TablePlan, *, untouched: bool) -> None:
        if not failed:
            failed.append(plan.name)
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        analyze(conn, plan, untouched=untouched)

    monkeypatch.setattr(statistics, "analyze", once)
    family.ok(load={"workers": 2}, emit=until(failed))
    assert failed == ["p"]
    assert sorted(seen) == ["p", "t"]
    assert family.value("SELECT count(*) FROM pg_stats WHERE schemaname = 'public'") == 4


def test_what_fails_at_the_end_as_well_is_told(family: Restore):
    family.schema(
        "CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN "
        "IF EXISTS (SELECT FROM pg_stat_progress_analyze WHERE relid = 'public.p'::regclass AND datname = current_database()) "
        "THEN RAISE EXCEPTION 'not %', $1; END IF; RETURN $1; END $$",
        "CREATE INDEX ON p (f(n))",
    )
    error = family.run(load={"workers": 2}).error
    assert error is not None and error.exit_code == 2
    words = "ANALYZE p: a function or trigger raised an exception (SQLSTATE P0001): see the database's log"
    assert error.line() == words
    assert family.value("SELECT count(*) FROM t") == 600


def test_no_thread_to_be_had_for_it(family: Restore, seen: list[str], monkeypatch: pytest.MonkeyPatch):
    start = threading.Thread.start

    def none_left(self: threading.Thread) -> None:
        if self.name == "statistics":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", none_left)
    family.ok(load={"workers": 2}, emit=slowly(seen, 0.5))
    assert seen.index("Verifying") < seen.index("p")
    assert sorted(name for name in seen if len(name) == 1) == ["p", "t"]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_server_counts_afterwards_is_what_is_there(family: Restore, workers: int):
    """What a session has written counts a second later, and on top, where an ANALYZE of another one has counted it already."""
    if family.db.info.server_version < 150000:
        pytest.skip("the statistics collector tells when it likes")
    family.schema("CREATE TABLE c (id int PRIMARY KEY, up int REFERENCES c)")
    family.file("c", [{"id": i, "up": 299 - i} for i in range(300)])
    family.ok(load={"workers": workers, "batch_rows": 50})
    family.db.execute("SELECT pg_stat_clear_snapshot()")
    asked = "SELECT relname, n_live_tup, n_mod_since_analyze FROM pg_stat_user_tables WHERE schemaname = 'public' ORDER BY 1"
    assert family.rows(asked) == [("c", 300, 0), ("p", 300, 0), ("t", 600, 0)]


def test_a_query_of_the_spec_finds_the_statistics(family: Restore):
    family.schema("CREATE VIEW known AS SELECT count(*) FROM pg_stats WHERE schemaname = 'public'")
    query = {"name": "q", "sql": "SELECT count FROM known", "expect": "4"}
    result = family.run(load={"workers": 2}, verification={"queries": [query]})
    assert result.error is None, result.check("query q")


class Locked:
    """A load by two workers whose ANALYZE of table t waits for somebody's lock."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CREATE TABLE t (id int PRIMARY KEY)")
        backup = write_backup(folder, t=[{"id": i} for i in range(1000)])
        self.holder = psycopg.connect(dsn)
        self.holder.execute("LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE")  # COPY goes on
        self.started = Started("run", "--backup", backup, "--dsn", dsn, "--name", "locked", "--workers", 2, "--json")
        self.started.until(lambda: self.waiting() == 1)

    def waiting(self) -> int:
        with psycopg.connect(self.dsn) as conn:
            row = conn.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%ANALYZE%' AND wait_event_type = 'Lock'"
            ).fetchone()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        self.holder.close()
        self.started.close()


@pytest.fixture
def locked(dsn: str, tmp_path: Path) -> Iterator[Locked]:
    made = Locked(dsn, tmp_path)
    yield made
    made.close()


def test_one_that_is_under_way_at_the_end_is_waited_for(locked: Locked):
    locked.started.until_said('"Verifying"')
    time.sleep(0.3)
    assert locked.waiting() == 1  # not begun a second time
    locked.holder.rollback()
    ended = locked.started.end()
    assert ended.code == 0, ended.err
    report: dict[str, Any] = ended.report
    assert all(check["passed"] for check in report["verification"])


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_it_does_not_keep_a_run_from_stopping(locked: Locked, seconds: float):
    locked.started.until_said('"Verifying"')
    time.sleep(seconds)  # beside the checks, or when they are through
    locked.started.send(signal.SIGTERM)
    assert locked.started.end(10).code == 143
    until = time.monotonic() + 2
    while locked.waiting():
        assert time.monotonic() < until
        time.sleep(0.05)
