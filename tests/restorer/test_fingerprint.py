"""What a backup says about itself, and whether it is still the same: manifest, checksums, fingerprint."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from restorer.errors import Refused
from restorer.source.backup import differences, find_snapshot, fingerprint, verify_checksums
from restorer.source.stream import Source
from snapshots import GOOD, ROWS, snapshot

SUM = hashlib.sha256(GOOD).hexdigest()


def listed(root: Path, files: int) -> Path:
    """A snapshot of so many files, t0 and so on, and a manifest with their checksums. -> the folder"""
    told = {"tables": {f"t{n}": {"count": 2, "sha256": SUM} for n in range(files)}}
    return snapshot(root, "s", **{f"t{n}": GOOD for n in range(files)}, manifest=json.dumps(told).encode())


@pytest.mark.parametrize(
    "told",
    [
        {"tables": {"users": {"count": 2, "sha256": SUM}}},
        {"version": 1, "tables": [{"name": "users", "records": 2, "sha256": SUM, "file": "users.json"}]},
        {"files": [{"file": "users.json", "rows": 2, "checksum": "sha256:" + SUM.upper()}]},
        {"users": {"count": 2, "sha256": SUM}, "createdAt": "2024-12-19", "ok": True},
    ],
)
@pytest.mark.parametrize("name", ["manifest.json", "_manifest.json", "metadata.json"])
def test_a_manifest_gives_counts_and_checksums(tmp_path: Path, told: Any, name: str) -> None:
    folder = snapshot(tmp_path, "s", **{"users.json": GOOD, name: json.dumps(told).encode()})
    found = find_snapshot(folder)
    assert [f.expected_records for f in found.files] == [2]
    assert verify_checksums(found) == []
    (folder / "users.json").write_bytes(GOOD.replace(b"x", b"z"))
    assert len(problems := verify_checksums(found)) == 1 and "users.json" in problems[0]


@pytest.mark.parametrize("at_once", [1, 3, 20])
def test_every_file_with_a_wrong_checksum_is_told_in_order(tmp_path: Path, at_once: int) -> None:
    folder = listed(tmp_path, 9)
    found = find_snapshot(folder)
    assert verify_checksums(found, at_once) == []
    for n in (7, 2, 5):
        (folder / f"t{n}.json").write_bytes(GOOD.replace(b"x", b"z"))
    (folder / "t4.json").unlink()
    assert [line.split(".json")[0][-2:] for line in verify_checksums(found, at_once)] == ["t2", "t4", "t5", "t7"]


def test_where_no_thread_can_be_started_one_is_made_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_snapshot(listed(tmp_path, 3))
    Path(found.files[1].path).write_bytes(GOOD.replace(b"x", b"z"))

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert ["t1.json" in line for line in verify_checksums(found, 3)] == [True]


def test_an_interruption_does_not_wait_for_the_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_snapshot(listed(tmp_path, 9))
    read = Source.read

    def slow(self: Source, size: int) -> bytes:
        time.sleep(0.3)
        return read(self, 1)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Source, "read", slow)
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.4)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            verify_checksums(found, 2)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 5  # of a minute


def test_a_table_of_the_manifest_without_a_file_makes_a_snapshot_incomplete(tmp_path: Path) -> None:
    snapshot(tmp_path, "s", **{"users.json": GOOD, "manifest.json": b'{"tables":{"users":2,"posts":5,"none":0}}'})
    with pytest.raises(Refused, match="lists posts, which has no file"):
        find_snapshot(tmp_path / "s")


def test_a_manifest_that_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    snapshot(tmp_path, "s", **{"users.json": GOOD, "manifest.json": b'{"tables":'})
    assert "manifest.json is not used" in find_snapshot(tmp_path / "s").warnings[0]


def test_differences_between_two_fingerprints_are_told_in_words(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, "s", a=GOOD, b=GOOD, c=GOOD, d=GOOD)
    old = fingerprint(find_snapshot(folder))
    assert differences(old, fingerprint(find_snapshot(folder))) == []
    (folder / "a.json").unlink()
    (folder / "b.json").write_bytes(GOOD.replace(b"x", b"z"))
    (folder / "c.json").write_bytes(b"[]")
    (folder / "e.json").write_bytes(b"[]")
    assert differences(old, fingerprint(find_snapshot(folder))) == [
        "a.json is gone",
        "b.json has other content (same size)",
        f"c.json has another size: {len(GOOD)} bytes before, 2 now",
        "e.json is new",
    ]


@pytest.mark.parametrize("place", [0, -1])
def test_a_fingerprint_sees_head_and_tail_of_a_large_file(tmp_path: Path, place: int) -> None:
    data = bytearray(json.dumps(ROWS * 20_000).encode())
    folder = snapshot(tmp_path, "s", users=bytes(data))
    found = find_snapshot(folder)
    old = fingerprint(found)
    data[place] = 32
    (folder / "users.json").write_bytes(data)
    assert differences(old, fingerprint(found)) == ["users.json has other content (same size)"]
