"""The promises of the README, one by one, on the generated LMS with its bad records, by the real command.

Each of them has many more tests behind it (kills and crashes: test_kill_and_resume; conflicts, foreign keys, triggers,
cleanup, verification: the files of those names). Here each is said once, as a person would check it.
"""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import psycopg
import pytest
import zstandard
from command import Started, restorer
from restorer.demo.lms import Generated, generate, schema_sql

OUTCOMES = ("inserted", "updated", "duplicate", "conflict", "rejected")


@pytest.fixture(scope="module")
def lms(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return generate(tmp_path_factory.mktemp("volume"), records=12_000, seed=11)


@pytest.fixture
def loaded(lms: Generated, dsn: str, db: psycopg.Connection[Any], tmp_path: Path) -> dict[str, Any]:
    """The LMS restored by one uninterrupted run: its report."""
    db.execute(schema_sql())
    end = restorer("run", *words(lms, dsn), "--json")
    assert end.code == 0, end.err
    return end.report


def words(lms: Generated, dsn: str) -> list[object]:
    return ["--backup", lms.root / lms.path, "--dsn", dsn, "--name", "lms", "--max-rejects", "5%"]


def contents(db: psycopg.Connection[Any], lms: Generated) -> dict[str, str]:
    """A hash of all rows of every table, whatever their order."""
    query = "SELECT md5(string_agg(md5(t::text), ',' ORDER BY md5(t::text))) FROM \"{}\" t"
    return {name: str(db.execute(query.format(name)).fetchone()) for name in lms.tables}


def told(report: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {t["name"]: {k: t[k] for k in ("read", *OUTCOMES)} for t in report["tables"]}


def truth(lms: Generated) -> dict[str, dict[str, int]]:
    empty = dict.fromkeys(("read", *OUTCOMES), 0)
    return {name: empty | counts for name, counts in lms.expected().items()}


def test_1_no_row_is_lost_or_doubled_whatever_dies(
    lms: Generated, loaded: dict[str, Any], db: psycopg.Connection[Any], dsn: str
) -> None:
    want = contents(db, lms)
    db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; DROP SCHEMA dbrestore CASCADE")
    db.execute(schema_sql())
    luck = random.Random(5)
    for _ in range(3):
        started = Started("run", *words(lms, dsn), "--batch-size", "100")
        try:
            started.until(lambda: committed(db))
            wait(luck.uniform(0.0, 0.5))
        finally:
            started.close()  # SIGKILL
    end = restorer("run", *words(lms, dsn), "--batch-size", "100", "--json")
    assert end.code == 0, end.err
    assert contents(db, lms) == want
    assert told(end.report) == truth(lms)
    assert end.report["attempts"] >= 2 or end.report["reason"] == "AlreadyCompleted"


def committed(db: psycopg.Connection[Any]) -> bool:
    if db.execute("SELECT to_regclass('dbrestore.tasks')").fetchone() == (None,):
        return False
    row = db.execute("SELECT count(*) FROM dbrestore.tasks WHERE read > 0").fetchone()
    return row is not None and row[0] > 0


def wait(seconds: float) -> None:
    import time

    time.sleep(seconds)


def test_2_every_record_is_accounted_for(lms: Generated, loaded: dict[str, Any], db: psycopg.Connection[Any]) -> None:
    assert told(loaded) == truth(lms)
    for table in loaded["tables"]:
        assert table["read"] == sum(table[k] for k in OUTCOMES), table["name"]
        row = db.execute(f'SELECT count(*) FROM "{table["name"]}"').fetchone()
        assert row == (table["inserted"],)
    assert loaded["totals"]["read"] == lms.records
    rejects = db.execute("SELECT count(*) FROM dbrestore.rejects").fetchone()
    assert rejects == (loaded["totals"]["rejected"],)


def test_3_every_rejected_record_is_kept_whole_with_its_reason(
    lms: Generated, loaded: dict[str, Any], db: psycopg.Connection[Any]
) -> None:
    files = {p.name.split(".")[0]: p for p in lms.folder.iterdir()}
    bytes_of: dict[str, bytes] = {}
    rows = db.execute(
        "SELECT t.file, x.byte_offset, x.record, x.reason FROM dbrestore.rejects x "
        "JOIN dbrestore.tables t ON t.run = x.run AND t.name = x.table_name"
    ).fetchall()
    assert len(rows) == loaded["totals"]["rejected"] > 50
    for file, offset, record, reason in rows:
        data = bytes_of.setdefault(file, unpacked(files[file]))
        assert data[offset : offset + len(record)] == bytes(record)
        assert reason


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    return zstandard.ZstdDecompressor().decompressobj().decompress(data) if path.suffix == ".zst" else data


def test_4_memory_does_not_grow_with_the_backup(dsn: str, db: psycopg.Connection[Any], tmp_path: Path) -> None:
    peaks = []
    for number, records in enumerate((20_000, 200_000)):
        folder = tmp_path / f"size{number}"
        folder.mkdir()
        db.execute("DROP TABLE IF EXISTS wide; CREATE TABLE wide (id int PRIMARY KEY, note text)")
        with (folder / "wide.json").open("w") as out:
            out.write("[")
            out.writelines(("," if i else "") + json.dumps({"id": i, "note": "n" * 200}) for i in range(records))
            out.write("]")
        started = Started("run", "--backup", folder, "--dsn", dsn, "--name", f"m{number}")
        peaks.append(started.peak())  # not what the system says of a child: it begins with what pytest holds
        assert started.end().code == 0
    assert peaks[1] < peaks[0] * 1.10, f"peak RSS for ten times the records: {peaks}"


def test_5_good_records_go_by_copy_alone(dsn: str, db: psycopg.Connection[Any], tmp_path: Path) -> None:
    """The speed itself is measured in benchmarks/, never in a test."""
    db.execute("CREATE TABLE t (id int PRIMARY KEY, at timestamptz, data jsonb, note text)")
    record = {"at": "2024-12-19T10:30:45.123Z", "data": {"a": [1, {"b": None}]}, "note": 'Xin chào, "bạn"\n\\'}
    (tmp_path / "t.json").write_text(json.dumps([{"id": i} | record for i in range(12_000)]))
    report = restorer("run", "--backup", tmp_path, "--dsn", dsn, "--json").report
    assert report["fallback"] == [{"level": "Copy", "batches": 2, "records": 12_000}]


def test_6_nothing_destructive_happens_by_accident(
    lms: Generated, loaded: dict[str, Any], db: psycopg.Connection[Any], dsn: str
) -> None:
    before = contents(db, lms)
    arguments = ["run", "--backup", lms.root / lms.path, "--dsn", dsn, "--name", "again", "--cleanup", "truncate"]
    for confirmed in ([], ["--confirm", "elsewhere/production"]):
        end = restorer(*arguments, *confirmed)
        assert end.code == 2
        assert "--confirm" in end.err
    assert contents(db, lms) == before


def test_7_it_never_says_that_it_succeeded_when_it_did_not(
    lms: Generated, db: psycopg.Connection[Any], dsn: str
) -> None:
    db.execute(schema_sql())
    strict = restorer("run", *words(lms, dsn)[:-1], "0%", "--json")
    assert (strict.code, strict.report["outcome"], strict.report["reason"]) == (2, "Failed", "RejectLimitExceeded")
    again = restorer("run", *words(lms, dsn)[:-1], "0%", "--json")
    assert (again.code, again.report["outcome"]) == (2, "Failed"), "a failed run stays failed"
