"""What breaks in the middle of a load: connections, the server, its disk. It goes on, or says in one line why it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from command import Ended, Started, restorer, write_backup
from fix_target import prepared
from own_server import OwnServer
from psycopg import sql
from psycopg.conninfo import make_conninfo

MANY = 40_000
TRANSIENT = """
apiVersion: dbrestore.io/v1alpha1
kind: DatabaseRestore
metadata: {name: x}
spec: {load: {batchRows: 50}, retry: {initialSeconds: 1, maxSeconds: 1, maxElapsedSeconds: %d}}
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backup(tmp_path_factory.mktemp("many"), t=[{"id": i, "name": "n" * 100} for i in range(MANY)])


def begun(many: Path, dsn: str, folder: Path, patience: int = 60, workers: int = 1) -> Started:
    """A load that is under way."""
    manifest = folder / "restore.yaml"
    manifest.write_text(TRANSIENT % patience)
    started = Started(
        "run", "-f", manifest, "--backup", many, "--dsn", dsn, "--workers", workers, "--json",
        "--report", folder / "report.json",
    )  # fmt: skip
    started.until_said('"table started"')
    time.sleep(0.2)
    return started


def check_whole(end: Ended, dsn: str) -> None:
    assert end.code == 0, end.err[-3000:]
    assert (end.report["totals"]["read"], end.report["totals"]["inserted"]) == (MANY, MANY)
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (MANY,)


def terminate(own: OwnServer, database: str) -> None:
    with own.connect() as conn:
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
        row = conn.execute(query, (database,)).fetchone()
        assert row is not None
        assert row[0] > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_connections_that_are_cut_in_the_middle_are_opened_again(
    own: OwnServer, many: Path, tmp_path: Path, workers: int
) -> None:
    dsn = prepared(own, f"cut{workers}")
    started = begun(many, dsn, tmp_path, workers=workers)
    try:
        terminate(own, f"cut{workers}")
        end = started.end()
    finally:
        started.close()
    check_whole(end, dsn)
    assert end.report["totals"]["retries"] > 0


def test_a_server_restarted_in_the_middle_is_waited_for(own: OwnServer, many: Path, tmp_path: Path) -> None:
    dsn = prepared(own, "restarted")
    started = begun(many, dsn, tmp_path)
    try:
        own.ctl("restart", "-m", "fast")
        end = started.end()
    finally:
        started.close()
    check_whole(end, dsn)


def test_a_server_that_stays_away_is_told_in_the_end_and_the_run_goes_on_later(
    own: OwnServer, many: Path, tmp_path: Path
) -> None:
    dsn = prepared(own, "away")
    started = begun(many, dsn, tmp_path, patience=2)
    try:
        own.ctl("stop", "-m", "fast")
        end = started.end()
    finally:
        started.close()
        own.ctl("start")
    assert end.code == 1, end.err
    assert [f["reason"] for f in end.failures] == ["Unavailable"]
    assert "cannot connect: connection to server" in end.failures[0]["message"]
    assert "start the same command again" in end.failures[0]["remedy"]
    assert json.loads((tmp_path / "report.json").read_text())["outcome"] == "Failed"
    again = restorer(
        "run", "-f", tmp_path / "restore.yaml", "--backup", many, "--dsn", dsn, "--workers", 1, "--json"
    )  # fmt: skip
    check_whole(again, dsn)


def test_a_database_dropped_in_the_middle_ends_the_run(own: OwnServer, many: Path, tmp_path: Path) -> None:
    dsn = prepared(own, "dropped")
    started = begun(many, dsn, tmp_path)
    try:
        with own.connect() as conn:
            conn.execute("DROP DATABASE dropped WITH (FORCE)")
        end = started.end(20)
    finally:
        started.close()
    assert end.code == 2, end.err
    assert len(end.failures) == 1
    assert "cannot connect to local/dropped any more" in end.failures[0]["message"]
    assert 'database "dropped" does not exist' in end.failures[0]["remedy"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["outcome"] == "Failed"


@pytest.mark.slow
def test_a_network_that_drops_connections_is_lived_with(own: OwnServer, many: Path, tmp_path: Path) -> None:
    """A proxy in between cuts every connection after a while, as balancers do."""
    dsn = prepared(own, "proxied")
    proxy = subprocess.Popen([sys.executable, Path(__file__).with_name("dropping_proxy.py"), str(own.port)],
                             stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert proxy.stdout is not None
        port = int(proxy.stdout.readline())
        through = make_conninfo(dsn, host="127.0.0.1", port=port)
        started = begun(many, through, tmp_path)
        try:
            end = started.end()
        finally:
            started.close()
    finally:
        proxy.kill()
        proxy.wait()
    check_whole(end, dsn)
    assert end.report["totals"]["retries"] > 0


def test_a_statement_timeout_shrinks_the_batches(own: OwnServer, tmp_path: Path) -> None:
    dsn = prepared(
        own, "slowly",
        "CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE hurried LOGIN SUPERUSER; "
        "ALTER ROLE hurried SET statement_timeout = '600ms'; "
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.003); RETURN NEW; END'; "
        "CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION wait()",
    )  # fmt: skip
    backup = write_backup(tmp_path / "b", t=[{"id": i} for i in range(600)])
    manifest = tmp_path / "restore.yaml"
    manifest.write_text(TRANSIENT % 60)
    hurried = make_conninfo(dsn, user="hurried")
    end = restorer("run", "-f", manifest, "--backup", backup, "--dsn", hurried, "--batch-size", 400, "--json")
    assert end.code == 0, end.err
    assert end.report["totals"]["inserted"] == 600
    assert any(e["event"] == "retry" and e["sqlState"] == "57014" for e in end.events)


def test_a_full_disk_is_waited_for_and_told(own: OwnServer, tmp_path: Path) -> None:
    """SQLSTATE 53100: tried again until retry.maxElapsedSeconds, then exit 1; with room made, it goes on."""
    space = own.folder / "space"
    space.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", space], check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        import shutil

        shutil.chown(space, own.user)
        with own.connect() as conn:
            conn.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(space))))
        dsn = prepared(own, "full", "CREATE TABLE t (id int PRIMARY KEY, name text) TABLESPACE small")
        many = write_backup(tmp_path / "b", t=[{"id": i, "name": "n" * 500} for i in range(MANY)])
        end = begun(many, dsn, tmp_path, patience=2).end()
        assert end.code == 1, end.err
        assert "the server's disk is full (SQLSTATE 53100)" in end.failures[0]["message"]
        assert 0 < end.report["totals"]["inserted"] < MANY
        started = begun(many, dsn, tmp_path)
        try:
            started.until_said("the server's disk is full")
            subprocess.run(["mount", "-o", "remount,size=100m", space], check=True)
            check_whole(started.end(), dsn)
        finally:
            started.close()
        with own.connect() as conn:
            conn.execute("DROP DATABASE full_ WITH (FORCE)".replace("full_", '"full"'))
            conn.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", space], check=False)
