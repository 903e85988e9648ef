"""Exactly once: resuming, fencing, who holds the target, and what goes wrong in between."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any

import msgspec
import psycopg
import pytest
from fix_restore import Restore
from restorer.database import planned, tasks
from restorer.database.connection import open_connection
from restorer.database.ledger import Ledger
from restorer.database.ledger_schema import ddl
from restorer.database.origins import Origin
from restorer.database.runs import purge_runs
from restorer.database.session import Session
from restorer.database.tasks import Tasks
from restorer.database.waiting import Waiting
from restorer.events import AnyEvent, BatchLoaded, PhaseChanged, Retried
from restorer.spec import Retry

FORTY = [{"id": i, "v": f"v{i}"} for i in range(40)]


@pytest.fixture
def forty(at: Restore) -> Restore:
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    return at.file("t", FORTY)


def complete(at: Restore) -> bool:
    return at.rows() == [(r["id"], r["v"]) for r in FORTY]


def during(at: Restore, batch: int, *statements: str) -> Any:
    """A listener that runs statements by another connection right after a batch is committed."""
    seen: list[AnyEvent] = []

    def emit(event: AnyEvent) -> None:
        if isinstance(event, BatchLoaded):
            seen.append(event)
            if len(seen) == batch:
                for statement in statements:
                    at.db.execute(statement)

    return emit


def test_a_finished_run_gives_its_report_and_touches_nothing(forty: Restore):
    first = forty.ok(name="r")
    forty.schema("DELETE FROM t")
    again = forty.run(name="r", load={"workers": 1, "batchRows": 3})
    assert again.error is None and again.report.reason == "AlreadyCompleted"
    assert again.report.totals == first.report.totals and forty.rows() == []
    assert first.report.totals.bytes == first.report.snapshot.bytes > 0


def test_a_failed_run_reports_the_bytes_that_are_committed(forty: Restore):
    forty.file("t", [*FORTY, {"id": "x", "v": "x"}, *({"id": i, "v": "z"} for i in range(100, 300))])
    report = forty.run(name="r", limit=0, load={"workers": 1, "batchRows": 20}).report
    assert report.outcome == "Failed" and report.totals.inserted >= 40
    assert 0.1 < report.totals.bytes / report.snapshot.bytes < 0.4


def test_a_failed_run_stays_failed(forty: Restore):
    forty.file("t", [*FORTY, {"id": "x", "v": "x"}])
    assert forty.run(name="r", limit=0).error is not None
    forty.schema("DELETE FROM t")
    again = forty.run(name="r", limit=0)
    assert again.error is not None and again.error.exit_code == 2 and forty.rows() == []


def test_another_spec_under_the_same_name_is_refused(forty: Restore):
    forty.ok(name="r")
    result = forty.run(name="r", on_conflict="Update")
    assert result.error is not None and result.error.exit_code == 2 and "another spec" in result.error.line()


def test_a_manifests_restart_begins_an_unfinished_run_anew_and_leaves_a_finished_one(forty: Restore):
    forty.stopped(2, name="r", batch=10, resume_policy="Restart")
    again = forty.ok(name="r", batch=10, resume_policy="Restart")
    assert again.report.attempts == 1
    assert again.counts() == {"inserted": 20, "duplicate": 20}
    assert forty.ok(name="r", batch=10, resume_policy="Restart").report.reason == "AlreadyCompleted"
    assert complete(forty)


def test_restart_forgets_and_runs_again(forty: Restore):
    forty.ok(name="r")
    forty.schema("DELETE FROM t")
    assert forty.ok(name="r", restart=True, on_conflict="Update").counts() == {"inserted": 40}
    assert complete(forty)


def test_a_stopped_run_goes_on_where_it_was(forty: Restore):
    forty.file("t", [*FORTY, {"id": "x", "v": "x"}, {"id": 1, "v": "other"}])
    forty.stopped(3, name="r", batch=7)
    assert len(forty.rows()) == 21
    result = forty.ok(name="r", batch=4)
    assert complete(forty) and result.counts() == {"inserted": 40, "conflict": 1, "rejected": 1}
    assert result.report.attempts == 2 and [r[0] for r in result.rejects()] == [41]


def test_a_changed_backup_is_refused_and_what_changed_is_said(forty: Restore):
    forty.stopped(2, name="r", batch=7)
    forty.file("t", FORTY[:-1])
    result = forty.run(name="r", batch=7)
    assert result.error is not None and result.error.exit_code == 2 and "t.json" in result.error.line()
    forty.file("t", FORTY)
    assert forty.ok(name="r").counts() == {"inserted": 40}


def test_rows_that_wait_for_parents_survive_a_stop(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES t)")
    at.file("t", [{"id": i, "p": i + 1 if i < 39 else None} for i in range(40)])
    at.stopped(3, name="r", batch=5)
    assert at.value("SELECT count(*) FROM dbrestore.deferred") == 15
    assert at.ok(name="r", batch=5).counts() == {"inserted": 40}


@pytest.mark.parametrize(
    "taken",
    [
        "UPDATE dbrestore.tasks SET owner = 'somebody else'",
        "UPDATE dbrestore.tasks SET next_offset = next_offset + 1",
        "UPDATE dbrestore.target SET run = 'other', owner = 'other'",
        "DELETE FROM dbrestore.target",
        "UPDATE dbrestore.runs SET state = 'Cancelled'",
        "DELETE FROM dbrestore.runs",
    ],
)
def test_what_was_taken_from_a_process_it_cannot_commit_any_more(forty: Restore, taken: str):
    """After two batches of five something is taken away: not one more row may come, and the process must end."""
    holder = (
        "INSERT INTO dbrestore.owners SELECT 'somebody else', run, 'h', pg_backend_pid(), "
        "(SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()), now() + interval '1 day' FROM dbrestore.runs"
    )
    steps = [holder, taken] if "owner = 'somebody" in taken else [taken]
    done: list[Any] = []

    def go() -> None:
        done.append(forty.run(name="r", batch=5, emit=during(forty, 2, *steps)))

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(3 if "owner = 'somebody" in taken else 10)
    if "owner = 'somebody" in taken:
        assert not done, "the task is somebody else's: it has to be waited for"
        assert len(forty.rows()) == 10
        forty.schema("DELETE FROM dbrestore.owners WHERE owner = 'somebody else'")
        thread.join(15)
        assert done and complete(forty) and done[0].counts() == {"inserted": 40}
        return
    assert done, "it goes on for ever"
    if "next_offset" in taken:
        return  # from there the file is no JSON any more
    assert len(forty.rows()) == 10
    assert done[0].error is not None


@pytest.mark.parametrize("often", [1, 100], ids=["planned once", "planned each time"])
def test_a_batch_commits_from_where_its_task_stands_or_not_at_all(
    forty: Restore, monkeypatch: pytest.MonkeyPatch, often: int
):
    monkeypatch.setattr(planned, "_OFTEN", often)
    forty.stopped(1, name="r", batch=5)
    ledger = Ledger("dbrestore", "r")
    with closing(open_connection(forty.dsn)) as conn:
        ledger.register(conn)
        assert ledger.take_target(conn) is None
        tasks = Tasks(ledger)
        task = tasks.claim(conn)
        assert task is not None
        ahead = msgspec.structs.replace(task, next_offset=task.next_offset + 100)
        origin = Origin(task.id, task.next_offset, task.next_offset + 100, task.next_ordinal)
        stranger = Tasks(Ledger("dbrestore", "r"))
        assert tasks.advance(conn, task, ahead, origin=origin)
        assert not tasks.advance(conn, task, ahead, origin=origin), "somebody went on with it"
        assert tasks.advance(conn, ahead, ahead)
        assert not stranger.advance(conn, ahead, ahead)
        for who, then in ((tasks, True), (tasks, False), (stranger, False)):
            conn.execute("BEGIN")
            further = msgspec.structs.replace(ahead, next_offset=ahead.next_offset + 100)
            assert who.commit(conn, ahead, further, []) is then
            conn.execute("ROLLBACK")
    assert forty.rows("SELECT task, start_offset, stop_offset, ordinal FROM dbrestore.origins") == [
        msgspec.structs.astuple(origin)
    ]


def test_a_second_worker_keeps_off_a_cycle_that_is_begun_while_there_is_something_else(at: Restore):
    at.schema(
        "CREATE TABLE courses (id int PRIMARY KEY, first int)",
        "CREATE TABLE lessons (id int PRIMARY KEY, course int NOT NULL REFERENCES courses, body text)",
        "ALTER TABLE courses ADD FOREIGN KEY (first) REFERENCES lessons",
        "CREATE TABLE other (id int PRIMARY KEY)",
    )
    at.file("courses", [{"id": i, "first": 100 if i == 1 else None} for i in range(20)])
    at.file("lessons", [{"id": 100 + i, "course": i % 20, "body": "x" * 100} for i in range(60)])
    at.file("other", [{"id": i} for i in range(20)])
    at.stopped(1, name="r", batch=5)
    owners = [Ledger("dbrestore", "r") for _ in range(3)]
    for ledger in owners:
        ledger.register(at.db)
    assert owners[0].take_target(at.db) is None
    claimed = [task.table for ledger in owners if (task := Tasks(ledger).claim(at.db)) is not None]
    assert claimed == ["courses", "other", "lessons"]
    at.schema("UPDATE dbrestore.tasks SET owner = NULL", "DELETE FROM dbrestore.owners")
    result = at.ok(name="r", batch=5)
    assert result.counts("lessons") == {"inserted": 60} and result.counts("courses") == {"inserted": 20}
    waited = [e.deferred for e in at.events if isinstance(e, BatchLoaded) and e.deferred > 0]
    assert sum(waited) == 3, waited  # the lessons of course 1, which waits since the first batch


@pytest.mark.parametrize("bad", [0, 1])
def test_a_commit_whose_answer_is_lost_is_not_done_twice(at: Restore, monkeypatch: pytest.MonkeyPatch, bad: int):
    """The connection dies between the server's COMMIT and the client's next word: the ledger knows better."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v > 0))")
    at.file("t", [{"id": i, "v": 0 if bad and i % 5 == 3 else 1} for i in range(40)])
    original, commits = tasks.in_one_message, []

    def cut(conn: Any, *statements: Any, **values: Any) -> Any:
        result = original(conn, *statements, **values)
        if tasks.COMMIT in statements and tasks.BEGIN not in statements:  # no claim
            commits.append(conn)
            if len(commits) == 3:
                conn.close()
                raise psycopg.OperationalError("the answer is lost")
        return result

    monkeypatch.setattr(tasks, "in_one_message", cut)
    result = at.ok(name="r", batch=5)
    assert len(commits) == 8 and result.report.totals.retries == 1
    assert result.counts() == ({"inserted": 32, "rejected": 8} if bad else {"inserted": 40})
    assert at.value("SELECT count(*) FROM t") == (32 if bad else 40)
    assert len(result.rejects()) == 8 * bad


def test_a_killed_backend_in_mid_batch_is_no_loss(forty: Restore):
    forty.schema(
        "CREATE SEQUENCE tries",
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 17 AND nextval('tries') < 3 THEN "
        "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); END IF; RETURN NEW; END $$",
        "CREATE TRIGGER die BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION die()",
    )
    result = forty.ok(batch=5)
    assert complete(forty) and result.counts() == {"inserted": 40} and result.report.totals.retries == 2
    assert {e.sqlstate for e in forty.events if isinstance(e, Retried)} <= {"57P01", "08006"}


def test_a_deadlock_is_tried_again(forty: Restore):
    forty.schema(
        "CREATE SEQUENCE tries",
        "CREATE FUNCTION dead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 17 AND nextval('tries') < 3 THEN "
        "RAISE EXCEPTION 'dead' USING ERRCODE = '40P01'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER dead BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION dead()",
    )
    result = forty.ok(batch=5)
    assert complete(forty) and result.counts() == {"inserted": 40}


def test_a_batch_that_takes_too_long_goes_in_halves_and_grows_again(at: Restore):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.id < 40) EXECUTE FUNCTION slow()",
        f"ALTER DATABASE {at.db.info.dbname} SET statement_timeout = '600ms'",
    )
    records = [{"id": i, "v": "x"} for i in range(2000)]
    result = at.file("t", records).ok_hurried(batch=64)
    assert result.counts() == {"inserted": 2000} and at.value("SELECT count(*) FROM t") == 2000
    sizes = [e.counters.read for e in at.events if isinstance(e, BatchLoaded)]
    assert sizes[0] <= 32 and sizes[-2] == 64


def test_a_lock_that_is_not_to_be_had_is_waited_for(forty: Restore):
    forty.schema(f"ALTER DATABASE {forty.db.info.dbname} SET lock_timeout = '200ms'")
    with psycopg.connect(forty.dsn) as other:
        other.execute("LOCK t IN SHARE MODE")
        result = forty.ok(batch=10, emit=lambda event: other.rollback() if isinstance(event, Retried) else None)
    assert complete(forty) and result.counts() == {"inserted": 40} and result.report.totals.retries > 0


def test_the_second_run_on_a_target_is_refused_by_the_name_of_the_first_or_waits(forty: Restore):
    held = Ledger("dbrestore", "first/1")
    forty.schema(ddl("dbrestore"))
    held.register(forty.db)
    assert held.take_target(forty.db) is None
    refused = forty.run()
    assert refused.error is not None and refused.error.exit_code == 1 and "'first/1'" in refused.error.line()
    assert forty.rows() == []
    other = psycopg.connect(forty.dsn, autocommit=True)
    timer = threading.Timer(1.0, lambda: held.release_target(other))
    timer.start()
    started = time.monotonic()
    assert forty.ok(wait=10).counts() == {"inserted": 40}
    assert 0.5 < time.monotonic() - started < 6
    timer.join()
    other.close()


def test_a_holder_whose_lease_is_over_gives_way_to_one_only(forty: Restore):
    forty.schema(ddl("dbrestore"))
    dead = Ledger("dbrestore", "dead/1")
    dead.register(forty.db)
    assert dead.take_target(forty.db) is None
    forty.schema("UPDATE dbrestore.owners SET lease_until = now() - interval '1 s'")
    got: list[tuple[int, str | None]] = []
    gate = threading.Barrier(8)

    def race(n: int) -> None:
        ledger = Ledger("dbrestore", f"race/{n}")
        with psycopg.connect(forty.dsn, autocommit=True) as conn:
            ledger.register(conn)
            gate.wait()
            got.append((n, ledger.take_target(conn)))
            time.sleep(0.3)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8 and [holder for _, holder in got].count(None) == 1


def test_rejects_are_purged_after_their_time_and_not_before(forty: Restore):
    forty.file("t", [*FORTY, {"id": "x", "v": "x"}])
    result = forty.ok(name="r", ledger={"rejectRetentionDays": 5})
    ledger = Ledger("dbrestore", "any")
    assert ledger.purge_expired(forty.db) == 0
    forty.schema("UPDATE dbrestore.runs SET finished_at = now() - interval '6 days'")
    assert ledger.purge_expired(forty.db) == 1 and result.rejects() == []


@pytest.mark.parametrize("at_phase", ["Loading", "Verifying"])
def test_a_run_that_is_forgotten_while_its_process_stands_still_is_told(forty: Restore, at_phase: str):
    """Its lease is over, as of a machine that was paused."""

    def purge(event: AnyEvent) -> None:
        if isinstance(event, PhaseChanged) and event.phase == at_phase:
            forty.schema("UPDATE dbrestore.owners SET lease_until = now() - interval '1 second'")
            assert purge_runs(forty.db, "dbrestore", ["r"], None, rejects_only=False) == ["r"]

    result = forty.run(name="r", emit=purge)
    assert result.error is not None and result.error.exit_code == 1 and result.error.reason == "TakenOver"
    assert "forgotten by another process: the same command begins anew" in result.error.line()
    assert forty.rows("SELECT run FROM dbrestore.runs UNION SELECT run FROM dbrestore.target") == []
    assert forty.ok(name="r").report.outcome == "Succeeded"


@pytest.mark.parametrize("how", ["purge", "restart", "by hand"])
def test_what_waits_goes_with_its_run(at: Restore, how: str):
    """A run that is stopped while rows wait for parents that only come later in the file."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t)")
    at.file("t", [{"id": i, "up": 39 - i} for i in range(40)])
    at.stopped(2, name="r", batch=10)
    waiting = "SELECT (SELECT count(*) FROM dbrestore.deferred), (SELECT count(*) FROM dbrestore.waiting_keys)"
    assert at.rows() == [] and at.db.execute(waiting).fetchone() == (20, 20)
    if how == "purge":
        assert purge_runs(at.db, "dbrestore", ["r"], None, rejects_only=False) == ["r"]
        assert at.db.execute(waiting).fetchone() == (0, 0)
    elif how == "by hand":
        at.schema("DELETE FROM dbrestore.runs")
    assert at.ok(name="r", batch=7, restart=how == "restart").counts() == {"inserted": 40}
    assert at.db.execute(waiting).fetchone() == (0, 0)


def test_what_a_batch_asks_of_those_that_wait_does_not_grow_with_them(forty: Restore):
    forty.ok(name="r")
    session, ledger = Session(forty.dsn, Retry(), lambda _: None), Ledger("dbrestore", "r")
    with session.transaction(staged=True) as conn:
        conn.execute(
            "INSERT INTO dbrestore.waiting_keys (run, table_name, key) SELECT 'r', 't', hashint8extended(n, 0) FROM generate_series(1, 50000) n"
        )
        held = Waiting(ledger).held(conn, "t", range(10_000))
        scans = conn.execute(
            "SELECT seq_scan, idx_scan > 0 FROM pg_stat_xact_user_tables WHERE relname = 'waiting_keys'"
        )
        assert (held, scans.fetchone()) == (set(), (0, True))
    session.close()


def test_what_a_claim_looks_at_does_not_grow_with_the_square_of_the_tables(at: Restore):
    many = 100
    at.schema(
        *(
            f"CREATE TABLE t{i} (id int PRIMARY KEY, p int {f'REFERENCES t{i - 1}' if i % 3 else ''})"
            for i in range(many)
        )
    )
    for i in range(many):
        at.file(f"t{i}", [{"id": 1, "p": 1}])
    at.stopped(1, name="r")
    ledger = Ledger("dbrestore", "r")
    claim = ledger.q("EXPLAIN (ANALYZE, BUFFERS, FORMAT json) " + tasks._CLAIM)
    row = at.db.execute(claim, ("r", "r", "r", "me", "r", "prepared", "me", "r")).fetchone()
    assert row is not None and row[0][0]["Plan"]["Shared Hit Blocks"] < 5 * many  # 13 for each without statistics


def test_the_sums_of_a_task_are_held_by_the_database_itself(forty: Restore):
    forty.ok()
    with pytest.raises(psycopg.errors.CheckViolation):
        forty.db.execute("UPDATE dbrestore.tasks SET read = read + 1")


def test_a_worker_that_was_killed_just_before_the_end_leaves_nothing_in_the_ledger(forty: Restore):
    def die(event: AnyEvent) -> None:
        if isinstance(event, PhaseChanged) and event.phase == "Verifying":
            forty.db.execute(
                "INSERT INTO dbrestore.owners VALUES ('dead', 'r/1', 'host', -1, 'x', clock_timestamp() + interval '1 hour')"
            )

    forty.ok(name="r/1", emit=die)
    assert complete(forty)
    assert forty.value("SELECT count(*) FROM dbrestore.owners") == 0


def test_hooks_run_once_however_often_a_run_goes_on(forty: Restore):
    forty.schema("CREATE TABLE hooks (n text)")
    hooks = {
        "preRestore": [{"name": "before", "sql": "INSERT INTO hooks VALUES ('before 100%')"}],
        "postRestore": [{"name": "after", "sql": "INSERT INTO hooks SELECT 'after ' || count(*) FROM t"}],
    }
    forty.stopped(1, name="r", batch=5, hooks=hooks)
    forty.stopped(1, name="r", batch=5, hooks=hooks)
    forty.ok(name="r", batch=5, hooks=hooks)
    assert forty.rows("SELECT * FROM hooks ORDER BY 1") == [("after 40",), ("before 100%",)]


def test_a_hook_that_fails_fails_the_run(forty: Restore):
    result = forty.run(hooks={"preRestore": [{"name": "bad", "sql": "SELECT * FROM nowhere"}]})
    assert result.error is not None and result.error.exit_code == 2 and "bad" in result.error.line()
    assert forty.rows() == []


def test_a_role_that_may_not_create_the_ledger_is_told_how(forty: Restore):
    dsn = forty.role("GRANT SELECT, INSERT ON t TO {}", f"REVOKE CREATE ON DATABASE {forty.db.info.dbname} FROM {{}}")
    result = forty.run(dsn=dsn)
    assert result.error is not None and result.error.exit_code == 2 and "ledger ddl" in result.error.line()
