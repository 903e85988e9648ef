"""Watching a run from outside: the metrics port, the termination log, the profile, JSON, a terminal, a reader that goes away."""

from __future__ import annotations

import json
import os
import pstats
import pty
import re
import select
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from command import COMMAND, Ended, Started, environment, write_backup
from fix_cli import Cli, check_refused
from fix_people import Db, accounted, count
from own_server import free_port


@pytest.fixture
def slow_load(people: Db, dsn: str, tmp_path: Path) -> tuple[object, ...]:
    """The arguments of a load of some seconds."""
    backup = write_backup(tmp_path / "slow", people=[{"id": i, "name": f"n{i}"} for i in range(20_000)])
    return "run", "--backup", backup, "--dsn", dsn, "--batch-size", 20


def fetch(port: int, path: str) -> tuple[int, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.status, answer.read().decode()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_metrics_port_tells_of_a_run_under_way(slow_load: tuple[object, ...], people: Db, workers: int) -> None:
    port = free_port()
    started = Started(*slow_load, "--metrics-port", port, "--workers", workers, "--name", "watched")
    try:
        started.until(lambda: count(people) > 0)
        time.sleep(0.3)
        if sys.platform == "linux":  # forks, made before the server had its thread
            mine = psutil.Process(started.pid).cmdline()
            assert [worker.cmdline() for worker in started.workers()] == [mine] * (workers if workers > 1 else 0)
        assert fetch(port, "/healthz")[0] == 200
        shown = json.loads(fetch(port, "/progress")[1])
        assert shown["run"] == "watched/1"
        assert 0 < shown["recordsRead"] < 20_000
        metrics = fetch(port, "/metrics")[1]
        found = re.search(r'dbrestore_records_total\{.*outcome="inserted".*\} ([0-9.e+]+)', metrics)
        assert found
        assert 0 < float(found[1]) < 20_000
        assert "dbrestore_progress_ratio" in metrics
        end = started.end()
    finally:
        started.close()
    assert end.code == 0, end.err


def test_a_metrics_port_that_is_taken_is_refused(cli: Cli, people: Db, dsn: str, backup: Path) -> None:
    import socket

    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        end = cli("run", "--backup", backup, "--dsn", dsn, "--metrics-port", port)
    check_refused(end, 2, (f"metrics port {port}", "choose another --metrics-port"))
    assert count(people) == 0


def test_the_termination_log_holds_the_state_so_far_and_then_the_report(
    slow_load: tuple[object, ...], people: Db, tmp_path: Path
) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    inode = log.stat().st_ino
    started = Started(*slow_load, "--termination-log", log)
    try:
        started.until(lambda: count(people) > 0)
        early = json.loads(log.read_bytes())
        assert early["outcome"] == "Interrupted"
        end = started.end()
    finally:
        started.close()
    assert end.code == 0
    final = log.read_bytes()
    assert len(final) <= 4096
    assert json.loads(final)["outcome"] == "Succeeded"
    assert json.loads(final)["totals"]["inserted"] == 20_000
    assert log.stat().st_ino == inode  # the kubelet's mount cannot be replaced


def test_the_termination_log_of_a_run_that_never_began_says_why(cli: Cli, people: Db, dsn: str, tmp_path: Path) -> None:
    for args in (("--backup", tmp_path / "gone"), ("--backup", write_backup(tmp_path / "b", ghosts=[{"id": 1}]))):
        log = tmp_path / "log"
        end = cli("run", *args, "--dsn", dsn, "--termination-log", log)
        assert end.code == 2
        told = json.loads(log.read_bytes())
        assert (told["outcome"], told["reason"]) == ("Failed", "ValidationFailed")
        assert "gone" in told["message"] or "ghosts" in told["message"]


def test_profile_writes_a_profile(cli: Cli, people: Db, dsn: str, backup: Path, tmp_path: Path) -> None:
    target = tmp_path / "run.prof"
    assert cli("run", "--backup", backup, "--dsn", dsn, "--profile", target).code == 0
    assert pstats.Stats(str(target)).total_calls > 1000


def test_a_profile_that_cannot_be_written_is_refused_at_once(
    cli: Cli, people: Db, dsn: str, backup: Path, tmp_path: Path
) -> None:
    for target in (tmp_path, tmp_path / "gone" / "run.prof"):
        end = cli("run", "--backup", backup, "--dsn", dsn, "--profile", target)
        check_refused(end, 2, (f"the profile cannot be written to {target}", "name a file"))
    assert people.execute("SELECT count(*) FROM people").fetchone() == (0,)


def test_json_gives_json_and_nothing_else(cli: Cli, people: Db, dsn: str, backup: Path) -> None:
    end = cli("run", "--backup", backup, "--dsn", dsn, "--json", "--verbose")
    assert len(end.out.splitlines()) == 1
    accounted(end.report, inserted=200)
    assert [e["event"] for e in end.events][-1] == "run finished"
    assert {"ts", "level", "event"} <= end.events[0].keys()


def on_a_terminal(*args: object, seconds: float = 30) -> Ended:
    """Runs the command on a pseudo-terminal of 100 columns. -> all that it showed, as `out`"""
    parent, child = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    began = time.monotonic()
    process = subprocess.Popen(
        [*COMMAND, *map(str, args)],
        stdin=child, stdout=child, stderr=child, env=environment(TERM="xterm-256color"), start_new_session=True,
    )  # fmt: skip
    os.close(child)
    shown = b""
    try:
        while time.monotonic() - began < seconds:
            if select.select([parent], [], [], 0.1)[0]:
                try:
                    data = os.read(parent, 65536)
                except OSError:  # the other end is closed
                    break
                if not data:
                    break
                shown += data
        code = process.wait(max(0.1, seconds - (time.monotonic() - began)))
    finally:
        process.kill()
        process.wait()
        os.close(parent)
    return Ended(code, shown.decode(), "", time.monotonic() - began)


def test_a_terminal_shows_it_live_and_then_the_report(slow_load: tuple[object, ...], people: Db) -> None:
    end = on_a_terminal(*slow_load)
    assert end.code == 0, end.out[-2000:]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", end.out)
    assert re.search(r"\b[1-9]\d? ?%", plain), "no progress was shown"
    assert "people" in plain
    assert "Restored" in plain[-2500:]
    assert "20,000" in plain[-2500:]
    assert '{"ts"' not in plain  # no log lines among it
    assert end.out.rfind("\x1b[?25h") >= end.out.rfind("\x1b[?25l")  # the cursor is back


def test_a_terminal_shows_a_refusal_in_one_line(people: Db, dsn: str, tmp_path: Path) -> None:
    end = on_a_terminal("run", "--backup", write_backup(tmp_path, ghosts=[{"id": 1}]), "--dsn", dsn)
    assert end.code == 2
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", end.out)
    assert len([line for line in plain.splitlines() if "ghosts" in line]) == 1
    assert "Traceback" not in plain


def test_a_reader_that_goes_away_does_no_harm(people: Db, dsn: str, backup: Path) -> None:
    """`restorer run | head -0`: the run is finished all the same."""
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [*COMMAND, "run", "--backup", str(backup), "--dsn", dsn],
        stdout=write, stderr=subprocess.PIPE, env=environment(), timeout=30, check=False,
    )  # fmt: skip
    os.close(write)
    assert b"Traceback" not in process.stderr
    assert count(people) == 200
    assert people.execute("SELECT state FROM dbrestore.runs").fetchall() == [("Succeeded",)]
