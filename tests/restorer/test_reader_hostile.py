"""The reader against hostile files: what is bad costs only itself, and is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from reading import (
    LINE,
    MANY,
    check_places,
    check_resume,
    read,
    read_until_broken,
    records,
    row,
    written,
)
from restorer.model import Compression, Layout
from restorer.source.reader import BrokenFile, pieces, segments

pytestmark = pytest.mark.usefixtures("parts")

DEEP = b"[" * 10_000 + b"]" * 10_000


HOSTILE = {
    "10,000 levels deep": row(3, DEEP),
    "lone surrogate": row(3, b'"\\ud800"'),
    "raw control character": row(3, b'"a\x01b"'),
    "wrong number": row(3, b"01"),
    "no JSON at all": row(3, b"tru"),
    "missing key": b'{"id":3}',
    "unknown key": b'{"id":3,"a":1,"b":2}',
    "number": b"17",
    "string": b'"},{"',
    "null": b"null",
    "array": b'[{"id":1,"a":2}]',
    "empty object": b"{}",
    "missing colon": b'{"id" 3,"a":1}',
}


@pytest.mark.parametrize("bad", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("style", ["array", "pretty", "ndjson"])
@pytest.mark.parametrize("window", [64, 4096, 262_144])
def test_a_bad_record_costs_only_itself(tmp_path: Path, bad: bytes, style: str, window: int) -> None:
    rows = [row(n) if n != 3 and n != 190 else bad for n in range(1, 201)]
    data = {
        "array": b"[" + b",".join(rows) + b"]",
        "pretty": b"[\n  " + b" ,\n  ".join(rows) + b"\n]",
        "ndjson": b"\n".join(rows),
    }[style]
    file = written(tmp_path, data, "ndjson" if style == "ndjson" else "array")
    found = read(file, window=window)
    assert [raw for _, _, raw, _ in found] == rows
    assert [ordinal for ordinal, *_ in found] == list(range(1, 201))
    assert [ordinal for ordinal, _, _, decoded in found if not decoded] == [3, 190]
    check_places(data, found)


def test_invalid_utf8_and_duplicate_keys_arrive_as_they_stand(tmp_path: Path) -> None:
    rows = [row(1), row(2, b'"\xff\xfe"'), b'{"id":3,"a":1,"a":2}', row(4)]
    file = written(tmp_path, b"[" + b",".join(rows) + b"]")
    assert [raw for _, _, raw, _ in read(file)] == rows
    last = [r for p in pieces(file, decoder=MANY, line_decoder=LINE) for r in p.records or ()][2]
    assert bytes(last.a) == b"2"


def test_when_bad_records_are_everywhere_they_come_in_one_piece(tmp_path: Path) -> None:
    rows = [row(n) if n % 2 else b'{"id":%d}' % n for n in range(1000)]
    for layout, data in (("array", b"[" + b",".join(rows) + b"]"), ("ndjson", b"\n".join(rows))):
        file = written(tmp_path, data, layout)
        found = list(pieces(file, decoder=MANY, line_decoder=LINE))
        assert len(found) <= 2
        assert [raw for _, _, raw, _ in records(iter(found))] == rows
        assert {bool(n % 2) for n, (*_, good) in enumerate(records(iter(found))) if good} <= {True}


@pytest.mark.parametrize("layout", ["array", "ndjson"])
@pytest.mark.parametrize("window", [64, 5000])
def test_a_record_past_the_limit_is_told_and_its_neighbours_load(tmp_path: Path, layout: Layout, window: int) -> None:
    big = row(2, b'"' + b'\\"},{' * 40_000 + b'"')
    rows = [row(1), big, row(3), big, row(5)]
    data = b"\r\n".join(rows) if layout == "ndjson" else b"[" + b", ".join(rows) + b"]"
    file = written(tmp_path, data, layout)
    found = list(pieces(file, decoder=MANY, line_decoder=LINE, window=window, max_record=100_000))
    told = [p for p in found if p.oversized]
    assert [p.place(0)[0] for p in told] == [2, 4]
    for piece in told:
        assert piece.oversized is not None and piece.records is None and len(piece) == 1
        body = data[piece.offset :].partition(b"\n")[0] if layout == "ndjson" else big
        assert piece.oversized.length == len(body)
        assert piece.oversized.sha256 == hashlib.sha256(body).hexdigest()
        assert piece.oversized.head == piece.data == big[: 64 * 1024]
    good = [bytes(r.id) for p in found for r in p.records or ()]
    assert good == [b"1", b"3", b"5"]
    assert [raw for _, _, raw, _ in read(file, window=window)] == rows  # under the usual limit it is a record
    check_resume(file, window)


BREAKS = {
    "cut inside a record": (b"[" + row(1) + b"," + row(2) + b',{"id":3,"a"', 2, "does not end"),
    "cut after a record": (b"[" + row(1) + b"," + row(2), 2, "does not end"),
    "cut after a comma": (b"[" + row(1) + b"," + row(2) + b",", 2, "does not end"),
    "comma before the end": (b"[" + row(1) + b"," + row(2) + b",]", 2, "missing"),
    "two commas": (b"[" + row(1) + b"," + row(2) + b",," + row(3) + b"]", 2, "missing"),
    "no comma": (b"[" + row(1) + b"," + row(2) + b" " + row(3) + b"]", 2, "no comma"),
    "garbage between": (b"[" + row(1) + b"," + row(2) + b" xyz, " + row(3) + b"]", 2, "no comma"),
    "wrong bracket": (b"[" + row(1) + b"," + row(2) + b',{"id":[3},"a":1},' + row(4) + b"]", 2, "bracket"),
    "quote that opens and never closes": (
        b"[" + row(1) + b"," + row(2) + b',{"id":3,"a":"x},' + row(4) + b"]",
        2,
        "not end",
    ),
    "garbage behind the end": (b"[" + row(1) + b"," + row(2) + b"]\nDROP TABLE users", 2, "follows"),
    "second array": (b"[" + row(1) + b"," + row(2) + b"] [" + row(3) + b"]", 2, "follows"),
    "empty file": (b"", 0, "empty"),
    "object": (row(1), 0, "not an array"),
}


@pytest.mark.parametrize(("data", "before", "says"), BREAKS.values(), ids=BREAKS.keys())
@pytest.mark.parametrize("window", [64, 4096])
def test_a_break_is_told_after_everything_before_it_was_read(
    tmp_path: Path, data: bytes, before: int, says: str, window: int
) -> None:
    file = written(tmp_path, data)
    found, broken = read_until_broken(file, window=window)
    assert [raw for _, _, raw, _ in found] == [row(1), row(2)][:before]
    assert broken.ordinal == before + 1 and broken.table == "users" and broken.exit_code == 2
    assert says in broken.message and str(tmp_path / "users.json") in broken.message
    assert f"byte {broken.offset}" in broken.message and broken.offset <= len(data)
    last = list(segments(file, 1))[-1]
    assert last.stop is None
    with pytest.raises(BrokenFile):
        read(file, start=last.start, stop=last.stop, ordinal=last.ordinal)


@pytest.mark.parametrize("layout", ["array", "ndjson"])
@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_a_damaged_compressed_file_gives_what_came_before(
    tmp_path: Path, layout: Layout, compression: Compression, damage: str
) -> None:
    rows = [row(n, b'"%s"' % hashlib.sha256(b"%d" % n).hexdigest().encode()) for n in range(20_000)]
    data = b"\n".join(rows) if layout == "ndjson" else b"[" + b",".join(rows) + b"]"
    file = written(tmp_path, data, layout, compression)
    packed = Path(file.path).read_bytes()
    middle = len(packed) * 3 // 4
    Path(file.path).write_bytes(
        packed[:middle] + (b"\xff" * 64 + packed[middle + 64 :] if damage == "corrupt" else b"")
    )
    found, broken = read_until_broken(file)
    assert len(found) >= (10 if damage == "corrupt" else 5_000)
    assert [raw for _, _, raw, _ in found] == rows[: len(found)] or damage == "corrupt"
    assert "stream is" in broken.message or damage == "corrupt"
    assert broken.ordinal == len(found) + 1


def test_values_over_two_lines_do_not_make_up_for_two_on_one(tmp_path: Path) -> None:
    lines = [
        row(1),
        b'{"id":2,',
        b'"a":3}',
        row(4) + row(5),
        b'{"id":6,"a":[{}',
        b",{}]}",
        row(7) + b" " + row(8),
        row(9),
    ]
    for newline in (b"\n", b"\r\n"):
        found = read(written(tmp_path, newline.join(lines), "ndjson"))
        assert [raw for _, _, raw, _ in found] == lines
        assert [ordinal for ordinal, _, _, decoded in found if decoded] == [1, 8]
