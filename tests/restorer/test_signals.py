"""SIGTERM and ctrl-C: the open batch is rolled back, the command ends within seconds, says so, and can be resumed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from command import SEGMENTED, Ended, Started, environment, gone, restorer, write_backup
from own_server import OwnServer, free_port

ROWS = 40_000
SECONDS = 5  # the kubelet gives 30 until it kills; a person at a terminal has less patience


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40,000 records: about two seconds in batches of 50."""
    return write_backup(tmp_path_factory.mktemp("backup"), t=[{"id": i, "name": f"name {i}"} for i in range(ROWS)])


class Load:
    """A restore of the volume that was begun, and is in the middle of its load."""

    def __init__(self, volume: Path, dsn: str, folder: Path, workers: int) -> None:
        self.dsn, self.report_file = dsn, folder / "report.json"
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
        self.args = (
            "run", "--backup", volume, "--dsn", dsn, "--name", "signals", "--batch-size", 50, "--workers", workers,
            "--report", self.report_file, "--json",
        )  # fmt: skip
        self.started = Started(*self.args, command=SEGMENTED)
        self.started.until(lambda: self.rows() > 0)
        self.children = self.started.workers()
        assert len(self.children) == (workers if workers > 1 else 0)

    def rows(self) -> int:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            row = conn.execute("SELECT count(*) FROM t").fetchone()
        assert row is not None
        return int(row[0])

    def backends(self) -> int:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            row = conn.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
        assert row is not None
        return int(row[0])

    def check_resumable(self) -> dict[str, Any]:
        """The same command goes on from where the other stopped. -> its report"""
        end = restorer(*self.args, "--batch-size", 2000, command=SEGMENTED)
        assert end.code == 0, end.err
        assert self.rows() == ROWS
        assert {k: end.report["totals"][k] for k in ("read", "inserted")} == {"read": ROWS, "inserted": ROWS}
        assert end.report["attempts"] == 2
        return end.report


@pytest.fixture
def begin(volume: Path, dsn: str, tmp_path: Path) -> Iterator[Any]:
    loads: list[Load] = []

    def make(workers: int = 1) -> Load:
        loads.append(Load(volume, dsn, tmp_path, workers))
        return loads[-1]

    yield make
    for load in loads:
        load.started.close()


def check_interrupted(load: Load, end: Ended, code: int) -> None:
    assert end.code == code, end.err
    assert gone(load.children, 1), "a worker is left behind"
    for report in (end.report, json.loads(load.report_file.read_text())):
        assert report["outcome"] == report["reason"] == "Interrupted"
        # What is told is what is there: whole batches, and nothing of the open one.
        assert report["totals"]["read"] == report["totals"]["inserted"] == load.rows() < ROWS
        if not load.children:  # the last batch of a segment is a smaller one
            assert load.rows() % 50 == 0
    until = time.monotonic() + 2  # the server takes a moment to notice
    while load.backends():
        assert time.monotonic() < until
        time.sleep(0.02)
    assert [f["reason"] for f in end.failures] == ["Interrupted"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_mid_load_ends_it_within_seconds(
    begin: Any, number: signal.Signals, code: int, workers: int
) -> None:
    load = begin(workers)
    at = time.monotonic()
    load.started.send(number)
    end = load.started.end(20)
    took = time.monotonic() - at
    print(f"{number.name} with {workers} worker(s): ended after {took:.2f} s")
    assert took < SECONDS
    check_interrupted(load, end, code)
    load.check_resumable()


def test_ctrl_c_at_a_terminal_reaches_the_whole_group_and_the_parent_decides(begin: Any) -> None:
    load = begin(2)
    os.killpg(load.started.pid, signal.SIGINT)
    check_interrupted(load, load.started.end(SECONDS), 130)


def test_ctrl_c_while_the_workers_start_leaves_no_traceback(volume: Path, dsn: str, tmp_path: Path) -> None:
    """They are born deaf to it."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
    started = Started("run", "--backup", volume, "--dsn", dsn, "--workers", 3, "--json", command=SEGMENTED)
    try:
        started.until(lambda: len(started.workers()) > 0)
        children = started.workers()
        os.killpg(started.pid, signal.SIGINT)
        end = started.end(SECONDS)
    finally:
        started.close()
    assert end.code == 130
    assert "Traceback" not in end.err
    assert end.events  # every line is JSON
    assert gone(children, 2)


def test_ctrl_c_twice_ends_it_at_once(begin: Any) -> None:
    load = begin(2)
    os.killpg(load.started.pid, signal.SIGINT)
    time.sleep(0.02)
    os.killpg(load.started.pid, signal.SIGINT)
    end = load.started.end(SECONDS)
    assert end.code == 130
    assert "Traceback" not in end.err
    assert gone(load.children, 2)
    load.check_resumable()


def test_no_worker_outlives_a_parent_that_is_killed(begin: Any) -> None:
    load = begin(2)
    load.started.send(signal.SIGKILL)
    load.started.process.wait()
    assert gone(load.children, 2), "a worker is left behind"
    load.check_resumable()


def test_it_ends_although_the_server_does_not_answer(volume: Path, tmp_path: Path) -> None:
    """Backends that hang (stopped here) answer neither the rollback nor a cancel."""
    with OwnServer() as own:
        load = Load(volume, own.database("hangs"), tmp_path, 1)
        with psycopg.connect(load.dsn, autocommit=True) as conn:
            backends = [
                psutil.Process(pid)
                for (pid,) in conn.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'restorer'")
            ]
        try:
            for backend in backends:
                backend.suspend()
            time.sleep(0.2)
            at = time.monotonic()
            load.started.send(signal.SIGTERM)
            end = load.started.end(20)
            assert time.monotonic() - at < SECONDS
        finally:
            for backend in backends:
                backend.resume()
            load.started.close()
        assert end.code == 143
        assert end.report["outcome"] == "Interrupted"
        assert [(f["reason"], f["remedy"]) for f in end.failures] == [
            ("Interrupted", "the same command goes on from there")
        ]
        assert json.loads(load.report_file.read_text())["outcome"] == "Interrupted"
        assert gone(backends, 5)
        load.check_resumable()


def test_it_ends_while_it_waits_for_a_server_or_a_target(begin: Any, volume: Path, dsn: str) -> None:
    nobody = f"host=127.0.0.1 port={free_port()} dbname=x"
    held = begin()
    other = ("--name", "other", "--wait", 60)
    with psycopg.connect(dsn) as holding:  # so that the first one is not done meanwhile
        holding.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        for args, said in (
            (("--dsn", nobody), '"connecting: '),
            (("--dsn", dsn, *other), "is being restored by run 'signals/1'"),
        ):
            started = Started("run", "--backup", volume, "--json", *args, env=environment())
            try:
                started.until_said(said)
                at = time.monotonic()
                started.send(signal.SIGTERM)
                end = started.end(20)
                assert time.monotonic() - at < SECONDS
            finally:
                started.close()
            assert end.code == 143, end.err
            assert end.report["outcome"] == "Interrupted"
    assert held.started.end().code == 0
