"""The benchmarks run, on a few rows. What they measure is nobody's promise here: a busy machine proves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.flat import RECORD_BYTES, build
from benchmarks.spoiled import EVERY, KINDS, Spoiler


def test_the_flat_table_has_the_size_it_says(tmp_path: Path) -> None:
    made = build(tmp_path, 2_000)
    assert made.json.stat().st_size == 2_000 * RECORD_BYTES + 1
    assert made.csv.read_bytes().count(b"\n") == 2_001


def test_every_kind_of_bad_record_is_there_and_counted(tmp_path: Path) -> None:
    spoiler = Spoiler()
    records = EVERY * len(KINDS)
    build(tmp_path, records, spoiler)
    assert spoiler.expected == {
        "read": records,
        "inserted": records - len(KINDS),
        "rejected": len(KINDS) - 2,
        "duplicate": 1,
        "conflict": 1,
    }


def test_the_benchmarks_run_and_write_their_tables(tmp_path: Path) -> None:
    """Each case checks the report of what it loaded, so this also loads bad records of every kind."""
    target = tmp_path / "benchmarks.md"
    command = [sys.executable, "-m", "benchmarks", "--rows", "1500", "--runs", "1", "--write", str(target)]
    names = ["copy", "workers", "memory", "bad", "there", "stages"]
    root = Path(__file__).parents[1]
    done = subprocess.run([*command, "--only", *names], cwd=root, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    text = target.read_text("utf-8")
    assert text == done.stdout
    for words in ("| What ", "1 worker / `psql", "2 workers", "1 % bad", "all rows there", "| convert ", "fsync on"):
        assert words in text
