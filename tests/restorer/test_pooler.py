"""Through PgBouncer, the real one: each transaction may have another process of the server, and a process outlives its client."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command import Started, restorer, write_backup
from fix_cli import check_refused
from own_server import OwnServer, free_port
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from restorer.database.session import Session
from restorer.spec import Retry

PROGRAM = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer on this machine")
MANY = [{"id": i, "v": f"v{i}"} for i in range(20_000)]


class Pooler:
    """A PgBouncer before `server`, in transaction or session mode."""

    def __init__(self, server: OwnServer, mode: str, size: int = 20) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pgb-"))
        self.folder.chmod(0o755)
        self.port = free_port()
        target = conninfo_to_dict(server.dsn())
        (self.folder / "users").write_text(f'"{target["user"]}" ""\n')
        lines = (
            "[databases]", f"* = host=127.0.0.1 port={server.port}", "[pgbouncer]",
            "listen_addr = 127.0.0.1", f"listen_port = {self.port}", "unix_socket_dir =", "auth_type = trust",
            f"auth_file = {self.folder / 'users'}", f"pool_mode = {mode}", f"default_pool_size = {size}", "max_client_conn = 100",
            *(["user = nobody"] if os.geteuid() == 0 else []),  # it will not be root
        )  # fmt: skip
        (self.folder / "ini").write_text("\n".join(lines) + "\n")
        assert PROGRAM is not None
        self._process = subprocess.Popen([PROGRAM, "-q", self.folder / "ini"], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while socket.socket().connect_ex(("127.0.0.1", self.port)):
            assert self._process.poll() is None, "pgbouncer ended"
            assert time.monotonic() < until
            time.sleep(0.05)

    def through(self, dsn: str) -> str:
        return make_conninfo(dsn, host="127.0.0.1", port=self.port)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    with OwnServer() as server:
        yield server


@pytest.fixture
def db(own: OwnServer) -> Iterator[psycopg.Connection[Any]]:
    """A connection past the pooler, to a database with a table."""
    with psycopg.connect(own.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS app WITH (FORCE)")
        admin.execute("CREATE DATABASE app")
    with psycopg.connect(own.dsn(), dbname="app", autocommit=True) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        yield conn


@pytest.fixture
def dsn(own: OwnServer, db: psycopg.Connection[Any], request: pytest.FixtureRequest) -> Iterator[str]:
    """By way of a pooler: in transaction mode, or the one that the test names."""
    given = getattr(request, "param", "transaction")
    pooler = Pooler(own, *((given,) if isinstance(given, str) else given))
    yield pooler.through(make_conninfo(own.dsn(), dbname="app"))
    pooler.close()


def held(
    db: psycopg.Connection[Any], query: str = "SELECT count(*), count(DISTINCT id), count(DISTINCT v) FROM t"
) -> Any:
    return db.execute(query).fetchone()


def test_a_dirty_backup_goes_in_exactly_by_several_workers(db: psycopg.Connection[Any], dsn: str, tmp_path: Path):
    db.execute("ALTER TABLE t ADD CHECK (v <> 'bad')")
    records = [{"id": i if i % 7 else i // 2, "v": "bad" if i % 11 == 0 else f"v{i}"} for i in range(1, 6001)]
    backup = write_backup(tmp_path, t=records)
    end = restorer(
        "run", "--backup", backup, "--dsn", dsn, "--json", "--workers", 2, "--batch-size", 100, "--max-rejects", "20%"
    )
    assert end.code == 0, end.err
    totals = end.report["totals"]
    first: dict[int, str] = {}
    for r in records:
        if r["v"] != "bad":
            first.setdefault(r["id"], r["v"])
    assert (totals["inserted"], totals["rejected"]) == (len(first), sum(r["v"] == "bad" for r in records))
    assert dict(db.execute("SELECT id, v FROM t").fetchall()) == first
    assert held(db, "SELECT count(*) FROM pg_class WHERE relname LIKE 'dbrestore_stage%'") == (0,)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_when_its_lease_is_over(db: psycopg.Connection[Any], dsn: str, tmp_path: Path):
    """The server's process stays with the pooler: that it is there says nothing of ours."""
    command = ("run", "--backup", write_backup(tmp_path, t=MANY), "--dsn", dsn, "--name", "k", "--batch-size", 50)
    started = Started(*command)
    started.until(lambda: held(db)[0] > 0)
    assert held(db, "SELECT bool_and(backend_pid = 0) FROM dbrestore.owners") == (True,)
    started.kill_group()
    started.close()
    assert 0 < held(db)[0] < len(MANY)
    end = restorer(*command)
    assert end.code == 0, end.err
    assert held(db) == (20_000, 20_000, 20_000)


def test_a_process_of_the_server_that_dies_in_a_copy_is_no_loss(db: psycopg.Connection[Any], dsn: str, tmp_path: Path):
    """The pooler tells of it twice."""
    db.execute(
        "CREATE FUNCTION dies() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.id = 10000 AND nextval('once') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NEW; END $$"
    )
    db.execute("CREATE SEQUENCE once; CREATE TRIGGER dies BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION dies()")
    end = restorer("run", "--backup", write_backup(tmp_path, t=MANY), "--dsn", dsn, "--json", "--batch-size", 1000)
    assert end.code == 0, end.err
    assert end.report["totals"]["retries"] == 1
    assert held(db) == (20_000, 20_000, 20_000)


@pytest.mark.parametrize("command", [("run", "--dry-run"), ("verify",)])
def test_what_keeps_temporary_tables_is_refused_in_transaction_mode(
    db: psycopg.Connection[Any], dsn: str, tmp_path: Path, command: tuple[str, ...]
):
    """Other clients of the pooler would come upon them."""
    end = restorer(*command, "--backup", write_backup(tmp_path, t=MANY[:10]), "--dsn", dsn)
    check_refused(
        end, 2, ("is a pooler in transaction mode", "connect to the server itself, or to a pool in session mode")
    )
    assert held(db, "SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text LIKE 'pg_temp%'") == (0,)


@pytest.mark.slow
def test_a_session_that_the_server_ends_in_a_copy_for_its_timeout_goes_in_halves(
    db: psycopg.Connection[Any], dsn: str, tmp_path: Path
):
    """The pooler tells of it in its own words."""
    if db.info.server_version < 170000:
        pytest.skip("PostgreSQL 17 and later")
    db.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END'"
    )
    db.execute("CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow()")
    db.execute("ALTER DATABASE app SET transaction_timeout = '500ms'")
    end = restorer("run", "--backup", write_backup(tmp_path, t=MANY[:40]), "--dsn", dsn)
    assert end.code == 0, end.err
    assert held(db)[0] == 40


@pytest.mark.parametrize("dsn", [("session", 1)], indirect=True)
def test_a_pool_with_room_for_one_session_is_no_pool_in_transaction_mode(
    db: psycopg.Connection[Any], dsn: str, tmp_path: Path
):
    end = restorer("run", "--dry-run", "--backup", write_backup(tmp_path, t=MANY[:10]), "--dsn", dsn)
    assert end.code == 0, end.err


@pytest.mark.parametrize("dsn", ["statement"], indirect=True)
def test_a_pooler_in_statement_mode_is_refused_by_its_name(db: psycopg.Connection[Any], dsn: str, tmp_path: Path):
    end = restorer("run", "--backup", write_backup(tmp_path, t=MANY[:10]), "--dsn", dsn)
    check_refused(end, 2, ("is a pooler in statement mode", "a pool in transaction or session mode"))


@pytest.mark.slow
def test_a_run_that_was_killed_behind_a_pooler_goes_on_past_it(
    own: OwnServer, db: psycopg.Connection[Any], dsn: str, tmp_path: Path
):
    command = ("run", "--backup", write_backup(tmp_path, t=MANY), "--name", "k", "--batch-size", 50, "--dsn")
    started = Started(*command, dsn)
    started.until(lambda: held(db)[0] > 0)
    started.kill_group()
    started.close()
    end = restorer(*command, make_conninfo(own.dsn(), dbname="app"))
    assert end.code == 0, end.err
    assert held(db) == (20_000, 20_000, 20_000)


@pytest.mark.parametrize("dsn", ["session"], indirect=True)
def test_in_session_mode_all_goes_as_without(db: psycopg.Connection[Any], dsn: str, tmp_path: Path):
    backup = write_backup(tmp_path, t=[*MANY[:1000], {"id": "x"}])
    told = {}
    for command in (("run", "--dry-run"), ("run",), ("verify",)):
        end = restorer(
            *command, "--backup", backup, "--dsn", dsn, "--json", *(["--max-rejects", 1] if command[0] == "run" else [])
        )
        told[command] = end.report["totals"]
        assert (end.code, told[command]["read"], told[command]["rejected"]) == (
            2 if command == ("verify",) else 0,
            1001,
            1,
        )
    assert told["verify",]["duplicate"] == 1000
    assert held(db)[0] == 1000
    until = time.monotonic() + 20  # the pool cleans up behind the client
    while held(db, "SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text LIKE 'pg_temp%'") != (0,):
        assert time.monotonic() < until, "temporary tables stay"
        time.sleep(0.05)


def test_nothing_is_begun_ahead_where_others_wait_for_the_servers_process(own: OwnServer, dsn: str):
    past = make_conninfo(own.dsn(), dbname="app")
    for conninfo, ahead in ((dsn, False), (past, True)):
        session = Session(conninfo, Retry(), lambda _: None)
        session.begin(session.conn)
        assert bool(session.ahead(session.conn, False)) is ahead
        session.close()
