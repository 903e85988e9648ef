"""What the server told as committed and then does not know any more: a crash takes back batches, a failover to a replica that
lagged behind takes back anything; and what it committed without being able to say so."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from fix_disorder import at_once, backwards, forwards, second_worker
from fix_restore import Record, Restore
from restorer.database import clean
from restorer.database.connection import Connection, reopen, target_label
from restorer.database.ledger import Ledger
from restorer.database.session import Session
from restorer.database.tasks import Task, Tasks
from restorer.errors import Unavailable
from restorer.load import leader, replay, retry
from restorer.load.replay import Replay
from restorer.load.worker import Workbench
from restorer.spec import Retry

T = "CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE)"
ROWS: list[Record] = [{"id": i, "slug": f"s{i}"} for i in range(40)]
LOST = psycopg.OperationalError("the connection is lost")


def once(do: Callable[[], None]) -> Callable[[], None]:
    left = [do]
    return lambda: left.pop()() if left else None


def test_nobody_loads_before_hooks_and_cleanup_are_through(at: Restore, monkeypatch: pytest.MonkeyPatch):
    """Else the leader would empty the tables that a second pod has begun to load."""
    at.schema(T, "INSERT INTO t VALUES (0, 'old')")
    at.file("t", ROWS)
    cleaning, asked = clean.clean, list[bool]()

    def follower_first(session: Session, ledger: Ledger, spec: Any, plans: Any) -> None:
        asked.append(second_worker(Workbench(session, ledger, spec, plans, lambda _: None)))
        cleaning(session, ledger, spec, plans)

    monkeypatch.setattr(clean, "clean", follower_first)
    spec: dict[str, Any] = {"cleanup": "Truncate", "confirm": target_label(at.dsn)}
    result = at.ok(load={"batch_rows": 10, "pods": 2}, **spec)
    assert asked == [False]
    assert result.counts() == {"inserted": 40}
    assert at.value("SELECT count(*) FROM t") == 40


def test_a_run_that_lost_its_cleanup_cleans_again_and_loads_all(at: Restore, monkeypatch: pytest.MonkeyPatch):
    at.schema(T, "INSERT INTO t VALUES (0, 'old')")
    at.file("t", ROWS)
    spec: dict[str, Any] = {"cleanup": "Truncate", "confirm": target_label(at.dsn)}

    def failover() -> None:
        at.schema("UPDATE dbrestore.runs SET marks = '{}'", "TRUNCATE t", "INSERT INTO t VALUES (0, 'old')")

    lost, claim = once(failover), Tasks.claim

    def late(self: Tasks, conn: Connection) -> Any:
        lost()
        return claim(self, conn)

    monkeypatch.setattr(Tasks, "claim", late)
    monkeypatch.setattr(leader, "LEASE_SECONDS", 0)
    first = at.run(name="r", batch=10, **spec)
    assert first.error is not None and first.error.exit_code == 1
    assert at.ok(name="r", batch=10, **spec).counts() == {"inserted": 40}
    assert at.value("SELECT count(*) FROM t") == 40


def test_steps_of_a_replay_that_are_taken_back_are_done_again(at: Restore, monkeypatch: pytest.MonkeyPatch):
    at.schema(T)
    at.file("t", [*ROWS, *({"id": 100 + i, "slug": f"s{i}"} for i in range(40))])
    forwards(monkeypatch, (at.root / "t.json").stat().st_size // 2)
    monkeypatch.setattr(replay, "_CHUNK", 5)
    step, calls = Replay.step, list[int]()

    def taken_back(self: Replay, conn: Connection) -> Any:
        calls.append(1)
        if len(calls) == 2:
            at.schema(
                "CREATE TABLE d AS SELECT * FROM dbrestore.deferred", "CREATE TABLE k AS SELECT * FROM dbrestore.tasks"
            )
        done = step(self, conn)
        if len(calls) == 4:
            conn.execute("ROLLBACK")
            of_k = ", ".join(f"{name} = k.{name}" for name in ("read", "conflict", "deferred", "batches", "records"))
            at.schema(
                "DELETE FROM dbrestore.deferred", "INSERT INTO dbrestore.deferred SELECT * FROM d",
                f"UPDATE dbrestore.tasks t SET {of_k} FROM k WHERE k.id = t.id", "DROP TABLE d, k",
            )  # fmt: skip
            raise LOST
        return done

    monkeypatch.setattr(Replay, "step", taken_back)
    result = at.ok(load={"batch_rows": 100, "pods": 2})
    assert len(calls) > 8
    assert result.counts() == {"inserted": 40, "conflict": 40}


def test_a_replay_begins_again_from_the_first_record_that_waits(at: Restore, monkeypatch: pytest.MonkeyPatch):
    """Two steps are gone, the second of which had gone by the first: of two records that wait for one key the first counts."""
    at.schema(T)
    records = [{"id": i, "slug": f"{n} {i}"} for n in "ab" for i in range(10)]
    records[1]["slug"] = records[7]["slug"] = "k"  # in two steps
    at.file("t", records)
    backwards(monkeypatch, (at.root / "t.json").stat().st_size // 2)
    monkeypatch.setattr(replay, "_CHUNK", 5)
    step, gone = Replay.step, list[int]()

    def two_are_lost(self: Replay, conn: Connection) -> Any:
        if gone:
            return step(self, conn)
        gone.append(1)
        while (done := step(self, conn)) is not None and done.counters.read == 0:
            pass  # makes way
        step(self, conn)
        conn.execute("ROLLBACK")
        raise LOST

    monkeypatch.setattr(Replay, "step", two_are_lost)
    result = at.ok(load={"batch_rows": 100, "pods": 2})
    assert gone
    assert at.rows("SELECT id, slug FROM t WHERE id IN (1, 7) ORDER BY 1") == [(1, "k"), (7, "b 7")]
    assert result.counts() == {"inserted": 10, "conflict": 10}


@pytest.mark.parametrize("cyclic", [False, True])
def test_a_table_that_turns_out_not_to_be_read_is_read_again(
    at: Restore, monkeypatch: pytest.MonkeyPatch, cyclic: bool
):
    at.schema(T)
    if cyclic:
        at.schema("ALTER TABLE t ADD parent int REFERENCES t")
    at.file("t", ROWS)
    unsettled, asked = Tasks.unsettled, list[dict[str, bool]]()

    def and_then_a_failover(self: Tasks, conn: Connection, *tables: list[str]) -> dict[str, bool]:
        found = unsettled(self, conn, *tables)
        if found == {"t": True} and not asked:
            asked.append(found)
            at.schema(
                "DELETE FROM t",
                "UPDATE dbrestore.tasks SET state = 'Ready', next_offset = 0, next_ordinal = 1, read = 0, inserted = 0, "
                "batches = '{}', records = '{}'",
            )
        return found

    monkeypatch.setattr(Tasks, "unsettled", and_then_a_failover)
    result = at.ok(load={"batch_rows": 10, "workers": 2})
    assert asked
    assert result.counts() == {"inserted": 40}
    assert at.value("SELECT count(*) FROM t") == 40


@pytest.mark.parametrize("what", ["a segment", "all of them"])
def test_segments_that_are_taken_back_are_cut_again(at: Restore, monkeypatch: pytest.MonkeyPatch, what: str):
    at.schema(T)
    at.file("t", ROWS)
    monkeypatch.setattr(leader, "SEGMENT", 300)
    if what == "a segment":
        lost, add = once(lambda: at.schema("DELETE FROM dbrestore.tasks WHERE start_offset = 0")), Ledger.add_task

        def then_lost(self: Ledger, conn: Connection, table: str, start: int, *args: Any) -> None:
            if start > 0:
                lost()
            add(self, conn, table, start, *args)

        at_once(monkeypatch)
        monkeypatch.setattr(Ledger, "add_task", then_lost)
    else:
        cut = "UPDATE dbrestore.tables SET split = false"
        lost, unsettled = once(lambda: at.schema("DELETE FROM dbrestore.tasks", "DELETE FROM t", cut)), Tasks.unsettled

        def first_lost(self: Tasks, conn: Connection, *tables: list[str]) -> Any:
            lost()
            return unsettled(self, conn, *tables)

        at_once(monkeypatch)
        monkeypatch.setattr(Tasks, "unsettled", first_lost)
    result = at.ok(load={"batch_rows": 5, "workers": 2})
    assert result.counts() == {"inserted": 40}


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], bool]], None]:
    """The answer to the first COMMIT after which the given question is answered by yes does not arrive."""
    transaction = Session.transaction

    def make(heard: Callable[[], bool]) -> None:
        lost: list[bool] = []

        @contextlib.contextmanager
        def lossy(self: Session, **named: Any) -> Iterator[Connection]:
            with transaction(self, **named) as conn:
                yield conn
            if not lost and heard():
                lost.append(True)
                conn.close()
                raise LOST

        monkeypatch.setattr(Session, "transaction", lossy)

    return make


def test_a_hook_whose_commit_was_not_answered_runs_once(at: Restore, deaf: Callable[[Callable[[], bool]], None]):
    at.schema(T, "CREATE TABLE log (n int)")
    at.file("t", ROWS)
    deaf(lambda: at.value("SELECT count(*) FROM log") == 1)
    at.ok(hooks={"pre_restore": [{"name": "h", "sql": "INSERT INTO log VALUES (1)"}]})
    assert at.value("SELECT count(*) FROM log") == 1


def test_a_run_whose_end_was_not_answered_has_ended(at: Restore, monkeypatch: pytest.MonkeyPatch):
    at.schema(T)
    at.file("t", ROWS)
    finish, lost = Ledger.finish, list[bool]()

    def unheard(self: Ledger, conn: Connection, *args: Any) -> None:
        finish(self, conn, *args)
        lost.append(True)
        conn.close()
        raise LOST

    monkeypatch.setattr(Ledger, "finish", unheard)
    assert at.ok().counts() == {"inserted": 40}
    assert lost == [True]


def test_a_retry_of_rejects_whose_commit_was_not_answered_counts_them_once(
    at: Restore, monkeypatch: pytest.MonkeyPatch
):
    at.schema(T, "ALTER TABLE t ADD CHECK (id < 35)")
    result = at.file("t", ROWS).ok()
    assert result.counts() == {"inserted": 35, "rejected": 5}
    at.schema("ALTER TABLE t DROP CONSTRAINT t_id_check")
    ledger, load, lost = Ledger("dbrestore", result.run), retry._load, list[bool]()
    session = Session(at.dsn, Retry(), lambda _: None)
    ledger.register(session.conn)
    assert ledger.take_target(session.conn) is None

    def unheard(*args: Any) -> int:
        settled = load(*args)
        if not lost:
            lost.append(True)
            session.conn.close()
            raise LOST
        return settled

    monkeypatch.setattr(retry, "_load", unheard)
    done = retry.retry(session, ledger)
    session.close()
    assert (done.tried, done.settled, done.left) == (5, 5, 0)
    assert at.value("SELECT report->'totals'->>'inserted' FROM dbrestore.runs") == "40"
    assert at.value("SELECT count(*) FROM t") == 40


def test_who_lost_a_task_has_no_say_in_its_table(at: Restore):
    at.schema(T)
    ledger = Ledger("dbrestore", at.file("t", ROWS).ok().run)  # another owner
    task = Task(at.value("SELECT id FROM dbrestore.tasks"), "t", None, 0, 1)
    at.schema("UPDATE dbrestore.tasks SET state = 'Ready'")
    assert not Tasks(ledger).fail(at.db, task, "the file is gone")
    assert at.value("SELECT error FROM dbrestore.tables") == ""
    assert at.value("SELECT state FROM dbrestore.tasks") == "Ready"


def test_who_lost_the_target_begins_no_run(at: Restore):
    at.schema(T)
    at.file("t", ROWS).ok(name="r")
    ledger = Ledger("dbrestore", "other")
    with pytest.raises(Unavailable, match="taken over"):
        ledger.start(
            at.db, spec={}, spec_hash="", snapshot="", fingerprint={}, tables=(), was_empty={}, split=frozenset(),
            warnings=(), retain_days=0, prepared=True,
        )  # fmt: skip
    assert at.value("SELECT count(*) FROM dbrestore.runs") == 1


@pytest.fixture
def dying_server() -> Iterator[int]:
    """A port where TLS is agreed to, and the connection cut then. -> its number"""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    asking, _ = listening.accept()
                    with asking:
                        asking.recv(8)
                        asking.sendall(b"S")

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


def test_a_handshake_that_is_broken_off_is_tried_again(dying_server: int):
    with pytest.raises(psycopg.OperationalError, match="SSL"):  # LoadFailed would end the run
        reopen(f"host=127.0.0.1 port={dying_server} dbname=x user=x sslmode=require")


def test_a_server_that_became_a_standby_is_not_asked_over_the_same_connection(at: Restore):
    session = Session(at.dsn, Retry(initial_seconds=1), lambda _: None)
    pids: list[int] = []

    def step(conn: Connection) -> None:
        pids.append(conn.info.backend_pid)
        if len(pids) == 1:
            conn.execute("BEGIN READ ONLY")
            conn.execute("CREATE TABLE x (id int)")

    session.retrying(step, what="test")
    session.close()
    assert len(set(pids)) == 2
