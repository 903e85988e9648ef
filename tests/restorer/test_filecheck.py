"""One table file, judged by its head and tail: what is said of one that is not whole."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
import zstandard
from restorer.model import TableFile
from restorer.source.backup import check_file
from snapshots import GOOD, ROWS

LONG = json.dumps([{"id": n, "a": "x" * 100} for n in range(5_000)]).encode()
PROBLEMS = {
    "empty": ("users.json", b"", "empty (0 bytes)"),
    "cut, small": ("users.json", GOOD[:-5], "cut off"),
    "cut, long": ("users.json", LONG[:-5], "cut off"),
    "comma at the end": ("users.json", GOOD[:-1] + b",]", "comma"),
    "garbage, small": ("users.json", GOOD + b"\nDROP", "follows the array"),
    "garbage, long": ("users.json", LONG + b"\nDROP", "follows the array"),
    "two arrays": ("users.json", GOOD + GOOD, "follows the array"),
    "break in the middle": ("users.json", GOOD.replace(b"}, ", b"} "), "no comma"),
    "UTF-16": ("users.json", json.dumps(ROWS).encode("utf-16"), "UTF-16"),
    "UTF-16 without mark": ("users.json", json.dumps(ROWS).encode("utf-16-le"), "UTF-16"),
    "Latin-1": ("users.json", json.dumps([{"a": "é"}] * 9, ensure_ascii=False).encode("latin-1"), "not UTF-8"),
    "binary": ("users.json", b"\x1f\x8b\x08\x00\xff\xfe", "not UTF-8"),
    "not JSON": ("users.json", b"id,a\n1,2\n", "not JSON"),
    "object": ("users.json", b'{\n"a": 1\n}', "not an array"),
    "numbers": ("users.json", b"[1, 2]", "not an object"),
    "array in lines": ("users.ndjson", GOOD, "array"),
    "numbers in lines": ("users.ndjson", b"1\n2\n", "not an object"),
    "cut gzip": ("users.json.gz", gzip.compress(LONG)[:-20], "truncated"),
    "corrupt gzip": ("users.json.gz", gzip.compress(LONG)[:-6] + b"\0\0\0\0\0\0", "corrupt"),
    "no gzip": ("users.json.gz", GOOD, "corrupt"),
    "cut zstd": ("users.json.zst", zstandard.ZstdCompressor().compress(LONG)[:-20], "truncated"),
    "no zstd": ("users.json.zst", GOOD, "corrupt"),
    "cut document in gzip": ("users.json.gz", gzip.compress(GOOD[:-5]), "cut off"),
}


@pytest.mark.parametrize(("name", "data", "says"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_one_line_names_the_file_and_what_is_wrong(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    compression = {".gz": "gz", ".zst": "zst"}.get(path.suffix, "")
    layout = "ndjson" if ".ndjson" in name else "array"
    line = check_file(TableFile("users", str(path), len(data), layout, compression))
    assert line is not None and line.startswith(f"{path}: ") and says in line and "\n" not in line
    assert line.count(": ") >= 2, "a remedy follows"


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert "missing" in str(check_file(TableFile("t", str(tmp_path / "t.json"), 0, "array")))
    assert "missing" in str(check_file(TableFile("t", str(tmp_path / "t.json.gz"), 0, "array", "gz")))
    assert "cannot be read" in str(check_file(TableFile("t", str(tmp_path), 0, "array")))
    os.mkfifo(tmp_path / "p.json")
    assert "not a regular file" in str(check_file(TableFile("t", str(tmp_path / "p.json"), 0, "array")))


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b" [ ]\n",
        b"\xef\xbb\xbf[]",
        GOOD,
        LONG,
        b'[{"a":"\xff"},{"a":1},{"a":2}]',
        b'[{"a":tru},{"a":1}]',
        b'[{"a":"]"}]\n\n',
    ],
)
def test_nothing_is_wrong_with_a_file_whose_records_are_at_fault_at_most(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.json").write_bytes(data)
    assert check_file(TableFile("t", str(tmp_path / "t.json"), len(data), "array")) is None
