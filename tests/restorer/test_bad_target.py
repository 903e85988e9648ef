"""Targets that cannot be restored into: one line that names the thing and the remedy, the right exit code, nothing changed."""

from __future__ import annotations

import os
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command import Started, environment, restorer, write_backup
from fix_cli import Cli, check_refused
from fix_target import check_untouched, prepared
from own_server import OwnServer, free_port
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo


def test_a_wrong_database_or_role_is_refused(cli: Cli, target: str, good: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    for part, words in (
        ({"dbname": "no such"}, ('"no such" does not exist', "check the database name")),
        ({"user": "nobody at all"}, ('"nobody at all" does not exist', "check the user name")),
    ):
        end = cli("run", "--backup", good, "--dsn", make_conninfo(target, **part), "--report", report)
        check_refused(end, 2, ("cannot connect to", *words), report)
    check_untouched(target)


def test_a_wrong_host_or_port_is_worth_another_try(cli: Cli, good: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    for host, port, why in (
        ("127.0.0.1", free_port(), "Connection refused"),
        ("no-such-host.invalid", 5432, "failed to resolve host"),
        ("/nowhere", 5432, "No such file or directory"),
    ):
        dsn = f"postgresql://u:hunter2@/d?host={host}&port={port}&connect_timeout=1"
        end = restorer("run", "--backup", good, "--dsn", dsn, "--report", report)
        check_refused(end, 1, ("cannot reach", "after 1 s", why, "check host, port"), report)
        tries = [line for line in end.err.splitlines() if '"event": "retry"' in line]
        assert all('"message": "connecting: ' in line and why in line for line in tries)
        assert tries or host == "no-such-host.invalid"  # to look for that one may take the whole second


@contextmanager
def web_server(port: int = 0) -> Iterator[tuple[int, threading.Semaphore]]:
    """Speaks HTTP on 127.0.0.1, as a gateway does for a server that is away. (its port, released for each answer)"""
    answered = threading.Semaphore(0)

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1024)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            answered.release()

    class Server(socketserver.TCPServer):
        allow_reuse_address = True

    with Server(("127.0.0.1", port), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1], answered
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("mode", ["prefer", "require", "disable"])
def test_what_is_not_postgresql_is_worth_another_try(good: Path, tmp_path: Path, mode: str) -> None:
    report = tmp_path / "report.json"
    with web_server() as (port, answered):
        dsn = f"postgresql://u:hunter2@127.0.0.1:{port}/d?connect_timeout=1&sslmode={mode}"
        end = restorer("run", "--backup", good, "--dsn", dsn, "--report", report)
        words = ("cannot reach", "after 1 s", "what answers there is not PostgreSQL", "check host, port")
        check_refused(end, 1, words, report)
        assert answered.acquire(timeout=0)
        assert answered.acquire(timeout=0), "it tried once only"


def test_a_gateway_that_answers_for_a_server_that_is_away_is_waited_for(own: OwnServer, good: Path) -> None:
    prepared(own, "away")
    own.ctl("stop", "-m", "fast")
    dsn = f"postgresql://postgres@127.0.0.1:{own.port}/away"
    with web_server(own.port) as (_, answered):
        started = Started("run", "--backup", good, "--dsn", dsn)
        try:
            assert answered.acquire(timeout=20)
            assert answered.acquire(timeout=20)
        except BaseException:
            started.close()
            raise
    own.ctl("start")
    end = started.end()
    assert end.code == 0, end.err
    with own.connect("away") as conn:
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (3,)


def test_a_connection_string_that_is_none_is_refused(cli: Cli, good: Path) -> None:
    end = cli("run", "--backup", good, "--dsn", "nonsense hunter2")
    check_refused(end, 2, ("--dsn is not a connection string", "postgresql://"))


def test_a_read_only_database_is_refused(cli: Cli, target: str, good: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with psycopg.connect(target, autocommit=True) as conn:
        name = sql.Identifier(conn.info.dbname)
        conn.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    end = cli("run", "--backup", good, "--dsn", target, "--report", report)
    check_refused(end, 2, ("read-only", "restore into a database that takes writes"), report)
    check_untouched(target)


@pytest.fixture
def stranger(target: str) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """(DSN of a role that may do nothing, an administrator's connection)"""
    role = f"stranger_{os.getpid()}"
    with psycopg.connect(target, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'hunter2'").format(sql.Identifier(role)))
        try:
            yield make_conninfo(target, user=role, password="hunter2"), conn
        finally:
            conn.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(*[sql.Identifier(role)] * 2))


def test_a_role_that_may_not_log_in_is_refused_at_first_and_in_mid_run(
    stranger: tuple[str, psycopg.Connection[Any]], target: str, tmp_path: Path
) -> None:
    dsn, admin = stranger
    words = ("is not permitted to log in", "let the role log in")
    role = sql.Identifier(str(conninfo_to_dict(dsn)["user"]))
    admin.execute("GRANT ALL ON t TO PUBLIC")
    admin.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO PUBLIC").format(sql.Identifier(admin.info.dbname)))
    backup = write_backup(tmp_path, t=[{"id": i, "name": "n"} for i in range(1000, 60_000)])
    started = Started("run", "--backup", backup, "--dsn", dsn, "--batch-size", 200)
    try:
        started.until(lambda: admin.execute("SELECT count(*) FROM t").fetchone() != (0,))
        admin.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(role))
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND datname = current_database()",
            (role.as_string().strip('"'),),
        )
        check_refused(started.end(20), 2, words)
    finally:
        started.close()
    check_refused(restorer("run", "--backup", backup, "--dsn", dsn), 2, words)


def test_missing_privileges_are_named(
    stranger: tuple[str, psycopg.Connection[Any]], target: str, good: Path, tmp_path: Path
) -> None:
    dsn, admin = stranger
    report = tmp_path / "report.json"
    args = ("run", "--backup", good, "--dsn", dsn, "--report", report)
    check_refused(
        restorer(*args),
        2,
        ("no INSERT privilege on table t", "no SELECT privilege", "grant", "may not create the ledger's"),
        report,
        3,
    )
    admin.execute("GRANT ALL ON t TO PUBLIC")
    check_refused(restorer(*args), 2, ("may not create the ledger's schema", "restorer ledger ddl"), report)
    check_untouched(target)
    # The remedy is one: the DBA runs what `ledger ddl` prints.
    admin.execute(restorer("ledger", "ddl").out)
    admin.execute("GRANT USAGE ON SCHEMA dbrestore TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA dbrestore TO PUBLIC")
    admin.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA dbrestore TO PUBLIC")
    end = restorer(*args)
    assert end.code == 0, end.err
    assert "hunter2" not in end.out + end.err + report.read_text()


def test_row_security_is_worked_with_and_said(
    stranger: tuple[str, psycopg.Connection[Any]], target: str, tmp_path: Path
) -> None:
    """COPY is refused there; a row that the policy refuses is a reject."""
    dsn, admin = stranger
    admin.execute("GRANT ALL ON t TO PUBLIC; ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    admin.execute("CREATE POLICY small ON t USING (true) WITH CHECK (id < 100)")
    admin.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO PUBLIC").format(sql.Identifier(admin.info.dbname)))
    backup = write_backup(tmp_path, t=[{"id": i, "name": "n"} for i in (1, 2, 200, 3)])
    end = restorer("run", "--backup", backup, "--dsn", dsn, "--json", "--max-rejects", "50%")
    assert end.code == 0, end.err
    assert (end.report["totals"]["inserted"], end.report["totals"]["rejected"]) == (3, 1)
    assert end.report["rejectedSample"][0]["record"] == 3
    assert any("row" in w and "security" in w for w in end.report["warnings"])


def test_cleaning_needs_its_name_typed(cli: Cli, target: str, good: Path, tmp_path: Path) -> None:
    """Promise 6: nothing destructive happens by accident."""
    report = tmp_path / "report.json"
    label = f"local/{psycopg.conninfo.conninfo_to_dict(target)['dbname']}"
    for args in ((), ("--confirm", "local/another"), ("--confirm", label.upper())):
        end = cli("run", "--backup", good, "--dsn", target, "--cleanup", "truncate", "--report", report, *args)
        check_refused(end, 2, ("confirmed", f"--confirm {label}"), report)
        check_untouched(target)
    with psycopg.connect(target, autocommit=True) as conn:
        name = sql.Identifier(conn.info.dbname)
        conn.execute(sql.SQL("ALTER DATABASE {} SET dbrestore.protected = 'on'").format(name))
    end = cli("run", "--backup", good, "--dsn", target, "--cleanup", "delete", "--confirm", label)
    check_refused(end, 2, ("is protected", "dbrestore.protected"))
    check_untouched(target)
    end = cli("run", "--backup", good, "--dsn", target, "--cleanup", "require-empty")
    check_refused(end, 2, ("t hold rows, and cleanup is RequireEmpty", "empty them"))
    check_untouched(target)


def test_another_run_on_the_same_target_is_named_and_waited_for(dsn: str, good: Path, tmp_path: Path) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE big (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, name text)")
    big = write_backup(tmp_path / "big", big=[{"id": i} for i in range(20_000)])
    report = tmp_path / "report.json"
    first = Started("run", "--backup", big, "--dsn", dsn, "--name", "first", "--batch-size", 30)
    try:
        first.until_said('"table started"')
        second = ("run", "--backup", good, "--dsn", dsn, "--name", "second", "--report", report)
        with psycopg.connect(dsn) as holding:  # its rows wait, its heartbeat goes on
            holding.execute("LOCK TABLE big IN ACCESS EXCLUSIVE MODE")
            check_refused(restorer(*second), 1, ("is being restored by run 'first/1'", "--wait"), report)
            same = restorer("run", "--backup", big, "--dsn", dsn, "--name", "first", "--batch-size", 30)
            check_refused(same, 1, ("another process of this run", "--wait"))
            waiting = Started(*second, "--wait", 60)
            waiting.until_said("waiting:")
            time.sleep(3)  # longer than from one heartbeat to the next
        waited = waiting.end()
        assert waited.code == 0, waited.err
        assert first.end().code == 0
    finally:
        first.close()


def test_a_wrong_password_is_refused_and_no_password_is_told(good: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with OwnServer(hba="local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n") as own:
        dsn = prepared(own, "locked")
        with own.connect() as conn:
            conn.execute("ALTER ROLE postgres PASSWORD 'right hunter2'")
        tcp = f"postgresql://postgres@127.0.0.1:{own.port}/locked"
        for password, remedy in (("wrong-hunter2", "check user and password"), ("", "check user and password")):
            uri = tcp.replace("postgres@", f"postgres:{password}@" if password else "postgres@")
            end = restorer("run", "--backup", good, "--dsn", uri, "--report", report)
            check_refused(end, 2, ("cannot connect to 127.0.0.1/locked", "password", remedy), report)
        end = restorer("run", "--backup", good, "--dsn", tcp, env=environment(PGPASSWORD="wrong-hunter2"))
        check_refused(end, 2, ("password authentication failed", "check user and password"))
        right = tcp.replace("postgres@", "postgres:right%20hunter2@")
        end = restorer("run", "--backup", good, "--dsn", right, "--workers", 2, "--report", report, "--verbose")
        assert end.code == 0, end.err
        with psycopg.connect(dsn) as conn:
            assert conn.execute("SELECT count(*) FROM t").fetchone() == (3,)
            ledger = conn.execute("SELECT r::text FROM dbrestore.runs r").fetchall()
        assert "hunter2" not in end.out + end.err + report.read_text() + str(ledger)


def test_a_standby_is_refused(good: Path, tmp_path: Path) -> None:
    """A copy of a stopped primary (not every server's programs have pg_basebackup), which then follows it."""
    report = tmp_path / "report.json"
    with OwnServer() as primary:
        prepared(primary, "primary")
        primary.ctl("stop", "-m", "fast")
        standby = OwnServer(f"primary_conninfo = '{primary.dsn()}'")
        subprocess.run(["cp", "-Rp", primary.data, standby.data], check=True)
        (standby.data / "standby.signal").touch()
        primary.ctl("start")
        try:
            standby.begin()
            end = restorer("run", "--backup", good, "--dsn", standby.dsn("primary"), "--report", report)
            check_refused(end, 2, ("is a standby", "restore into the primary"), report)
        finally:
            standby.__exit__(None, None, None)
        with primary.connect("primary") as conn:
            assert conn.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'dbrestore'").fetchone() == (0,)
