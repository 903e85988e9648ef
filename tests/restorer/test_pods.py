"""Several pods of one run (`load.pods`): the first leads, the others work on the same tasks and end with its outcome."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

ROWS = 40_000
MANIFEST = """
apiVersion: dbrestore.io/v1alpha1
kind: DatabaseRestore
metadata: {name: pods, namespace: test}
spec:
  target: {host: unused, database: unused}
  load: {pods: 2, batchRows: 200}
"""


@pytest.fixture
def volume(tmp_path: Path, db: psycopg.Connection[Any]) -> Path:
    backup = tmp_path / "backup"
    backup.mkdir()
    for name in ("left", "right", "child"):
        db.execute(f'CREATE TABLE "{name}" (id int PRIMARY KEY, note text)')
        records = [{"id": i, "note": f"{name} {i} " + "x" * 80} for i in range(ROWS)]
        (backup / f"{name}.json").write_text(json.dumps(records))
    (tmp_path / "restore.yaml").write_text(MANIFEST)
    return tmp_path


def start(volume: Path, dsn: str, number: int) -> subprocess.Popen[bytes]:
    words = ["run", "-f", str(volume / "restore.yaml"), "--backup", str(volume / "backup"), "--dsn", dsn]
    report = volume / f"report{number}.json"
    command = [sys.executable, "-m", "restorer", *words, "--report", str(report)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_rows(db: psycopg.Connection[Any], table: str) -> None:
    for _ in range(1500):
        row = db.execute(f'SELECT count(*) FROM "{table}"').fetchone()
        if row and row[0]:
            return
        time.sleep(0.02)
    raise AssertionError("nothing was loaded")


def check(volume: Path, db: psycopg.Connection[Any]) -> None:
    for name in ("left", "right", "child"):
        row = db.execute(f'SELECT count(*), count(DISTINCT id) FROM "{name}"').fetchone()
        assert row == (ROWS, ROWS)
    row = db.execute("SELECT state, report->'totals'->>'read' FROM dbrestore.runs").fetchone()
    assert row == ("Succeeded", str(3 * ROWS))


def test_two_pods_share_the_tasks_and_both_end_with_success(
    volume: Path, dsn: str, db: psycopg.Connection[Any]
) -> None:
    with psycopg.connect(dsn) as holder:
        holder.execute('LOCK TABLE "right" IN EXCLUSIVE MODE')  # the leader comes no further than here
        leader = start(volume, dsn, 1)
        wait_for_rows(db, "child")
        follower = start(volume, dsn, 2)
        wait_for_rows(db, "left")  # so the follower is at work
    assert leader.wait(60) == 0
    assert follower.wait(60) == 0
    check(volume, db)
    owners = db.execute("SELECT count(DISTINCT owner) FROM dbrestore.tasks").fetchone()
    assert owners == (2,), "the follower did nothing"
    told = json.loads((volume / "report2.json").read_text())
    assert (told["outcome"], told["totals"]["read"]) == ("Succeeded", 3 * ROWS)


def test_a_follower_leads_on_when_the_leader_is_killed(volume: Path, dsn: str, db: psycopg.Connection[Any]) -> None:
    leader = start(volume, dsn, 1)
    wait_for_rows(db, "child")
    follower = start(volume, dsn, 2)
    time.sleep(0.7)
    os.kill(leader.pid, signal.SIGKILL)
    leader.wait()
    assert follower.wait(60) == 0, follower.stderr.read().decode() if follower.stderr else ""
    check(volume, db)
