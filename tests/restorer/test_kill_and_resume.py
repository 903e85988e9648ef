"""Promise 1: no row is lost or doubled, whatever dies. Real processes, real SIGKILLs, a real PostgreSQL that crashes.

The load has everything that is done once and only once: a cleanup, hooks, rows that wait for parents in cycles of
foreign keys, records that are rejected, duplicates and conflicts. After every death the same command is started again;
at the end each row, each reject and each total is exactly what the backup says.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from command import COMMAND, SEGMENTED, Started, gone, restorer, write_backup
from own_server import OwnServer
from psycopg import sql

SCHEMA = """
CREATE TABLE places (id int PRIMARY KEY, name text NOT NULL, floor int);
CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, manager int REFERENCES people,
                     place int REFERENCES places);
CREATE TABLE teams (id int PRIMARY KEY, lead int);
CREATE TABLE members (id int PRIMARY KEY, team int NOT NULL REFERENCES teams);
ALTER TABLE teams ADD FOREIGN KEY (lead) REFERENCES members;
CREATE TABLE hook_log (said text);
INSERT INTO places SELECT i, 'stale', i FROM generate_series(1, 500) i;
"""
MANIFEST = """
apiVersion: dbrestore.io/v1alpha1
kind: DatabaseRestore
metadata: {name: killed, namespace: tests}
spec:
  cleanup: %(cleanup)s
  confirm: local/%(database)s
  load: {batchRows: %(rows)d}
  rejects: {limitPercent: 50}
  retry: {initialSeconds: 1, maxSeconds: 1, maxElapsedSeconds: 60}
  hooks:
    preRestore: [{name: before, sql: insert into hook_log values ('before')}]
    postRestore: [{name: after, sql: insert into hook_log values ('after')}]
"""
TABLES = ("places", "people", "teams", "members")
Rows = list[tuple[Any, ...]]


class Expected:
    """A backup and, worked out apart from the program, what a restore of it must leave behind."""

    def __init__(self, size: int) -> None:
        places: list[dict[str, Any]] = []
        self.rejected: set[tuple[str, int]] = set()
        self.totals = {"read": 0, "inserted": 0, "updated": 0, "duplicate": 0, "conflict": 0, "rejected": 0}
        self.rows: dict[str, Rows] = {}
        for i in range(1, size + 1):
            good = {"id": i, "name": f"place {i}", "floor": i % 7}
            if i % 97 == 0:  # not a number
                self.rejected.add(("places", len(places) + 1))
                places.append(good | {"floor": "ground"})
                continue
            self.rows.setdefault("places", []).append((i, good["name"], good["floor"]))
            places.append(good)
            if i % 101 == 0:
                places.append(good)
                self.totals["duplicate"] += 1
            elif i % 103 == 0:
                places.append(good | {"name": "another"})
                self.totals["conflict"] += 1
        people: list[dict[str, Any]] = []
        count = size // 3
        gone_places = {i for i in range(1, size + 1) if i % 97 == 0}
        for i in range(1, count + 1):
            manager = i + 37 if i + 37 <= count and i % 5 else None  # further down in the file: the row waits
            people.append({"id": i, "name": f"person {i}", "manager": manager, "place": i})
        lost = {i for i in range(1, count + 1) if i in gone_places}
        falling = True
        while falling:  # whose manager is lost is lost too
            more = {p["id"] for p in people if p["manager"] in lost} - lost
            lost |= more
            falling = bool(more)
        self.rejected |= {("people", i) for i in lost}
        self.rows["people"] = [(p["id"], p["name"], p["manager"], p["place"]) for p in people if p["id"] not in lost]
        teams = [{"id": i, "lead": size // 4 - i + 1} for i in range(1, size // 4 + 1)]
        members = [{"id": i, "team": i} for i in range(1, size // 4 + 1)]
        self.rows["teams"] = [(t["id"], t["lead"]) for t in teams]
        self.rows["members"] = [(m["id"], m["team"]) for m in members]
        self.files: dict[str, Any] = {"places": places, "people": people, "teams": teams}
        # Lines, so that there is a file of each kind.
        self.files["members.ndjson"] = "".join(json.dumps(m) + "\n" for m in members).encode()
        self.totals["read"] = len(places) + len(people) + len(teams) + len(members)
        self.totals["inserted"] = sum(map(len, self.rows.values()))
        self.totals["rejected"] = len(self.rejected)
        assert self.totals["read"] == sum(n for key, n in self.totals.items() if key != "read")

    def check(self, conn: psycopg.Connection, report: dict[str, Any]) -> None:
        """Every row once, every reject once, every total, and nothing left open in the ledger."""
        for table in TABLES:
            found = conn.execute(sql.SQL("SELECT * FROM {} ORDER BY id").format(sql.Identifier(table))).fetchall()
            assert found == sorted(self.rows[table]), f"{table}: {len(found)} rows, not {len(self.rows[table])}"
        rejects = conn.execute("SELECT table_name, ordinal FROM dbrestore.rejects").fetchall()
        assert len(rejects) == len(set(rejects)), "a reject is kept twice"
        assert set(rejects) == self.rejected
        assert {key: report["totals"][key] for key in self.totals} == self.totals
        for table in report["tables"]:
            parts = ("inserted", "updated", "duplicate", "conflict", "rejected")
            assert table["read"] == sum(table[p] for p in parts), table
            assert table["state"] == "Done"
        assert conn.execute("SELECT said FROM hook_log ORDER BY said").fetchall() == [("after",), ("before",)]
        for leftover in ("deferred", "origins", "owners", "target"):
            query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("dbrestore", leftover))
            assert conn.execute(query).fetchone() == (0,), leftover


class Restore:
    """One restore that is killed and started again, always by the same command."""

    def __init__(
        self, folder: Path, dsn: str, expected: Expected, *, workers: int = 1, rows: int = 25, cleanup: str = "Truncate"
    ) -> None:
        self.dsn, self.expected = dsn, expected
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
            database = conn.info.dbname
        root = write_backup(folder / "backups", **expected.files)
        manifest = folder / "restore.yaml"
        manifest.write_text(MANIFEST % {"database": database, "rows": rows, "cleanup": cleanup})
        self.args = ("run", "-f", manifest, "--backup", root, "--dsn", dsn, "--workers", workers, "--json")
        self.command = COMMAND if workers == 1 else SEGMENTED

    def start(self) -> Started:
        return Started(*self.args, command=self.command)

    def finish(self, struck: Sized = ()) -> dict[str, Any]:
        """Starts the command until it ends well. -> its report. Exit 1 is taken from one that saw a crash alone (the database may be
        away while a run begins): `struck` has one more at the beginning and the end of each."""
        while True:
            before = len(struck)
            end = restorer(*self.args, "--batch-size", 500, command=self.command, seconds=110)
            if end.code != 1 or len(struck) == before:
                break
        assert end.code == 0, end.err[-3000:]
        return end.report

    def check(self, report: dict[str, Any]) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            self.expected.check(conn, report)


def whole_group(started: Started, _: random.Random) -> list[psutil.Process]:
    workers = started.workers()
    for process in workers:
        process.kill()
    started.kill_group()
    return workers


def parent_only(started: Started, _: random.Random) -> list[psutil.Process]:
    workers = started.workers()
    started.send(signal.SIGKILL)
    return workers


def one_worker(started: Started, chance: random.Random) -> list[psutil.Process]:
    if workers := started.workers():
        chance.choice(workers).kill()
    return []


Kill = Callable[[Started, random.Random], list[psutil.Process]]


def kill_and_start_again(
    restore: Restore, chance: random.Random, most: int, ways: tuple[Kill, ...], longest: float
) -> tuple[int, int]:
    """Kills the restore at random instants, one in four of them (but not the first) while it is still starting, `most` times or
    until it is done all the same. -> (kills, how many hit it while it worked on the load)"""
    hits = 0
    for kills in range(most):
        started = restore.start()
        try:
            early = kills > 0 and chance.random() < 0.25
            while not early and '"run started"' not in started.err() and started.process.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.4 if early else longest))
            if started.process.poll() is not None:
                return kills, hits
            hits += '"run started"' in started.err()
            way = chance.choice(ways)
            left = way(started, chance)
            if way is one_worker:  # the run goes on without it; then all of it dies
                time.sleep(0.2)
                left = parent_only(started, chance)
            started.process.wait(10)
            assert gone(left), "a worker outlives its parent"
        finally:
            started.close()
    return most, hits


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("KILL_SEED") or random.randrange(1 << 32))
    print(f"KILL_SEED={seed}")
    return random.Random(seed)


def test_one_process_killed_at_random_instants_ends_exact(tmp_path: Path, dsn: str, chance: random.Random) -> None:
    restore = Restore(tmp_path, dsn, Expected(4000))
    _, hits = kill_and_start_again(restore, chance, 4, (whole_group,), 0.4)
    assert hits > 0
    report = restore.finish()
    assert report["outcome"] == "Succeeded"
    restore.check(report)


def test_two_workers_killed_at_random_instants_end_exact(tmp_path: Path, dsn: str, chance: random.Random) -> None:
    restore = Restore(tmp_path, dsn, Expected(4000), workers=2)
    _, hits = kill_and_start_again(restore, chance, 4, (whole_group, parent_only, one_worker), 0.3)
    assert hits > 0
    report = restore.finish()
    restore.check(report)


def test_workers_that_die_are_replaced_and_nothing_is_lost(tmp_path: Path, dsn: str, chance: random.Random) -> None:
    restore = Restore(tmp_path, dsn, Expected(8000), workers=2)
    started = restore.start()
    try:
        started.until_said('"table started"')
        for _ in range(2):
            started.until(lambda: len(started.workers()) == 2)
            time.sleep(0.3)
            one_worker(started, chance)
        end = started.end()
    finally:
        started.close()
    assert end.code == 0, end.err[-3000:]
    assert sum(event["event"] == "warning" and "died" in event["message"] for event in end.events) == 2
    restore.check(end.report)


def test_a_run_begun_by_two_workers_is_finished_by_one(tmp_path: Path, dsn: str) -> None:
    """Segments that were not cut yet when the run died are loaded all the same."""
    restore = Restore(tmp_path, dsn, Expected(4000), workers=2)
    started = restore.start()
    try:
        started.until_said('"run started"')
        left = parent_only(started, random.Random(0))
        assert gone(left)
    finally:
        started.close()
    restore.args = tuple(1 if a == 2 else a for a in restore.args)
    restore.check(restore.finish())


def test_a_killed_run_is_taken_over_at_once(tmp_path: Path, dsn: str) -> None:
    """Seconds, not the ten of the lease: the dead process's backend is gone."""
    for workers in (1, 2):
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; DROP SCHEMA IF EXISTS dbrestore CASCADE")
        restore = Restore(tmp_path / str(workers), dsn, Expected(3000), workers=workers)
        started = restore.start()
        try:
            started.until_said('"table started"')
            time.sleep(0.2)
            parent_only(started, random.Random(0))
        finally:
            started.process.wait()
        again = restore.start()
        try:
            again.until_said('"table started"')
            took = time.monotonic() - again.began
            assert '"resumed": true' in again.err()
            print(f"taken over by {workers} worker(s) after {took:.2f} s")
            assert took < 5
            end = again.end()
        finally:
            again.close()
        assert end.code == 0, end.err[-3000:]
        assert end.report["attempts"] == 2
        restore.check(end.report)


def test_a_finished_run_started_again_touches_nothing(tmp_path: Path, dsn: str) -> None:
    """Promise 1 again: nothing that forgets can make a restore run twice over good data."""
    restore = Restore(tmp_path, dsn, Expected(600), rows=200)
    first = restore.finish()
    assert first["reason"] == ""
    before = _versions(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:  # what people did since then stays as it is
        conn.execute("UPDATE places SET name = 'changed by hand' WHERE id = 1; DELETE FROM people WHERE id = 1")
    changed = _versions(dsn)
    again = restore.finish()
    assert (again["outcome"], again["reason"]) == ("Succeeded", "AlreadyCompleted")
    assert again["totals"] == first["totals"]
    assert _versions(dsn) == changed != before


def _versions(dsn: str) -> dict[str, Rows]:
    """Place and transaction of every row, of the tables and of the ledger."""
    found: dict[str, Rows] = {}
    with psycopg.connect(dsn, autocommit=True) as conn:
        ledger = [f"dbrestore.{name}" for name in ("runs", "tables", "tasks", "rejects", "owners", "target")]
        for name in (*TABLES, *ledger):
            query = sql.SQL("SELECT ctid::text, xmin::text FROM {} ORDER BY ctid").format(
                sql.Identifier(*name.split("."))
            )
            found[name] = conn.execute(query).fetchall()
    return found


# -- the database dies -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    # Commits that nobody waits for stay in memory as long as possible: a crash loses the last seconds of them.
    with OwnServer("wal_writer_delay = '10s'", "wal_writer_flush_after = '1GB'") as server:
        yield server


@pytest.mark.parametrize(("workers", "cleanup"), [(1, "Delete"), (2, "Truncate")])
def test_a_database_that_crashes_in_mid_load_ends_exact(
    own: OwnServer, tmp_path: Path, workers: int, cleanup: str
) -> None:
    """Batches whose commit was lost in the crash are loaded again, whatever the process remembers of them."""
    restore = Restore(tmp_path, own.database(f"crash{workers}"), Expected(10_000), workers=workers, cleanup=cleanup)
    started = restore.start()
    try:
        started.until_said('"table started"')
        for _ in range(2):
            time.sleep(0.5)
            own.crash_and_restart()
        end = started.end()
    finally:
        started.close()
    assert end.code == 0, end.err[-3000:]
    assert end.report["totals"]["retries"] > 0
    restore.check(end.report)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_hundred_kills_and_ten_crashes_end_exact(
    own: OwnServer, tmp_path: Path, chance: random.Random, workers: int
) -> None:
    """50 random SIGKILLs and 5 crashes of PostgreSQL for each number of workers: 100 and 10 in all. A restore that ends
    before the kills do is checked, and the next one gets the rest."""
    ways = (whole_group,) if workers == 1 else (whole_group, parent_only, one_worker)
    crashes, over = iter(sorted(chance.uniform(0, 40) for _ in range(5))), threading.Event()
    done, struck, quiet = [], list[str](), threading.Lock()  # while the test itself asks the server

    def crash() -> None:
        began = time.monotonic()
        for at in crashes:
            if over.wait(max(0.0, began + at - time.monotonic())):
                return
            with quiet:
                struck.append("begins")
                own.crash_and_restart()
                struck.append("ends")
            done.append(at)

    kills = hits = rounds = 0
    crashing = threading.Thread(target=crash)
    crashing.start()
    try:
        while kills < 50 or crashing.is_alive():
            rounds += 1
            folder = tmp_path / str(rounds)
            folder.mkdir()
            with quiet:
                database = own.database(f"slow{workers}_{rounds}")
                restore = Restore(folder, database, Expected(60_000), workers=workers, rows=10)
            more, hit = kill_and_start_again(restore, chance, max(50 - kills, 5), ways, 1.5)
            kills, hits = kills + more, hits + hit
            report = restore.finish(struck)
            print(f"{hits} of {kills} kills in mid-load, {len(done)} crashes, {report['attempts']} attempts")
            with quiet:
                restore.check(report)
    finally:
        over.set()
        crashing.join()
    assert hits >= 25
    assert len(done) == 5
