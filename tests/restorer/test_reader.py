"""The reader against an independent one (ijson) and against hostile files."""

from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ijson.backends.python as ijson
import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from restorer.model import Compression, Layout, TableFile
from restorer.source.piece import Piece
from restorer.source.reader import BrokenFile, Segment, count_records, pieces, segments

Row = msgspec.defstruct("Row", [("id", msgspec.Raw), ("a", msgspec.Raw)], gc=False, forbid_unknown_fields=True)
MANY, LINE = msgspec.json.Decoder(list[Row]), msgspec.json.Decoder(Row)

Record = tuple[int, int, bytes, bool]  # ordinal, offset, raw bytes, decoded


def table(
    path: Path, layout: Layout = "array", compression: Compression = "", member: tuple[str, ...] = ()
) -> TableFile:
    return TableFile(path.name.split(".")[0], str(path), path.stat().st_size, layout, compression, member)


def written(folder: Path, data: bytes, layout: Layout = "array", compression: Compression = "") -> TableFile:
    packed = {"": lambda d: d, "gz": gzip.compress, "zst": zstandard.ZstdCompressor(write_checksum=True).compress}[
        compression
    ](data)
    path = folder / "users.json"
    path.write_bytes(packed)
    return table(path, layout, compression)


def records(found: Iterator[Piece]) -> Iterator[Record]:
    for piece in found:
        assert piece.records is None or len(piece.records) == len(piece.spans)
        assert piece.mixed is (piece.records is not None and None in piece.records)
        assert piece.offset + piece.spans[0][0] == piece.offset
        for i in range(len(piece)):
            yield *piece.place(i), piece.raw(i), piece.records is not None and piece.records[i] is not None


def read(file: TableFile, **options: Any) -> list[Record]:
    return list(records(pieces(file, decoder=MANY, line_decoder=LINE, **options)))


def read_until_broken(file: TableFile, **options: Any) -> tuple[list[Record], BrokenFile]:
    found: list[Record] = []
    with pytest.raises(BrokenFile) as broken:
        found.extend(records(pieces(file, decoder=MANY, line_decoder=LINE, **options)))
    return found, broken.value


# -- the same records as an independent reader ---------------------------------------------------------------------

TRICKY = [
    '},{"id":1',
    '[{"',
    "},\n  {",
    "]",
    '"',
    "\\",
    "\\\\",
    '\\"',
    "}\n{",
    "\n",
    "\u2028",
    "é",
    "😀",
    "\x00",
    "x" * 300,
]
texts = st.lists(
    st.sampled_from(TRICKY) | st.text(st.characters(exclude_categories=("Cs",)), max_size=4), max_size=4
).map("".join)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | texts
look_alikes = st.recursive(
    scalars,
    lambda inner: (
        st.lists(st.fixed_dictionaries({"id": inner, "a": inner}) | inner, max_size=3)
        | st.fixed_dictionaries({"id": inner})
    ),
    max_leaves=6,
)
good_rows = st.fixed_dictionaries({"id": scalars, "a": look_alikes})
other_rows = st.dictionaries(texts, look_alikes, max_size=3) | scalars | st.lists(look_alikes, max_size=2) | st.just({})
tables = st.lists(good_rows, max_size=12) | st.lists(good_rows | other_rows, max_size=12)


def compact(rows: list[Any]) -> bytes:
    return json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()


def line_broken(rows: list[Any]) -> bytes:
    return b"[\n" + b",\n".join(json.dumps(r).encode() for r in rows) + b"\r\n]\n"


def comma_first(rows: list[Any]) -> bytes:
    return b" [ " + b"\n , \t".join(json.dumps(r).encode() for r in rows) + b"  ]  "


STYLES: list[Callable[[list[Any]], bytes]] = [
    compact,
    line_broken,
    comma_first,
    lambda rows: json.dumps(rows, indent=2).encode(),
    lambda rows: b"\xef\xbb\xbf" + json.dumps(rows, indent="\t", ensure_ascii=False).encode() + b"\n",
]
windows = st.integers(64, 400) | st.just(4096)
property_settings = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def check_places(data: bytes, found: list[Record]) -> None:
    assert all(data[offset : offset + len(raw)] == raw for _, offset, raw, _ in found)


@property_settings
@given(rows=tables, style=st.sampled_from(STYLES), window=windows, compression=st.sampled_from(["", "", "gz", "zst"]))
def test_an_array_gives_the_records_that_ijson_gives(
    tmp_path: Path, rows: list[Any], style: Callable[[list[Any]], bytes], window: int, compression: Compression
) -> None:
    data = style(rows)
    file = written(tmp_path, data, compression=compression)
    found = read(file, window=window)
    expected = list(ijson.items(data.removeprefix(b"\xef\xbb\xbf"), "item"))
    assert [json.loads(raw) for _, _, raw, _ in found] == expected == rows
    assert [ordinal for ordinal, *_ in found] == list(range(1, len(rows) + 1))
    check_places(data, found)
    assert all(isinstance(r, dict) and set(r) == {"id", "a"} for r, f in zip(rows, found, strict=True) if f[3])
    assert count_records(file) == len(rows)


@property_settings
@given(rows=tables, style=st.sampled_from(STYLES), window=windows, compression=st.sampled_from(["", "", "gz"]))
def test_reading_goes_on_from_the_end_of_every_piece_of_an_array(
    tmp_path: Path, rows: list[Any], style: Callable[[list[Any]], bytes], window: int, compression: Compression
) -> None:
    check_resume(written(tmp_path, style(rows), compression=compression), window)


def check_resume(file: TableFile, window: int) -> None:
    whole = [(o, at, raw) for o, at, raw, _ in read(file, window=window)]
    seen = 0
    for piece in pieces(file, decoder=MANY, line_decoder=LINE, window=window):
        seen += len(piece)
        rest = read(file, window=window + 7, start=piece.end, ordinal=piece.next_ordinal)
        assert [(o, at, raw) for o, at, raw, _ in rest] == whole[seen:]


def check_segments(file: TableFile, target: int, window: int) -> None:
    cut = list(segments(file, target))
    parts = [read(file, window=window, start=s.start, stop=s.stop, ordinal=s.ordinal) for s in cut]
    assert [(o, at, raw) for part in parts for o, at, raw, _ in part] == [
        (o, at, raw) for o, at, raw, _ in read(file, window=4096)
    ]
    assert [s.start for s in cut] == [0] + [s.stop for s in cut[:-1]]
    assert cut[-1].stop is None


@property_settings
@given(rows=tables, style=st.sampled_from(STYLES), window=windows, target=st.integers(1, 500))
def test_segments_of_an_array_are_the_file(
    tmp_path: Path, rows: list[Any], style: Callable[[list[Any]], bytes], window: int, target: int
) -> None:
    check_segments(written(tmp_path, style(rows)), target, window)


broken_lines = st.sampled_from(
    [b'{"id":1', b'"a":2}', b"oops", b'{"id":1,"a":"\x01"}', b'{"id":1,"a":1}{"id":2,"a":2}', b"]", b'{"a":1,']
)
ndjson_lines = st.one_of(
    good_rows.map(lambda r: json.dumps(r, ensure_ascii=False).encode()),
    good_rows.map(lambda r: json.dumps(r).encode()),
    other_rows.map(lambda r: json.dumps(r).encode()),
    broken_lines,
    st.sampled_from([b"", b"  ", b"\t"]),
)


@property_settings
@given(
    lines=st.lists(ndjson_lines, max_size=14),
    newline=st.sampled_from([b"\n", b"\r\n", b" \n"]),
    last=st.booleans(),
    bom=st.booleans(),
    window=windows,
    target=st.integers(1, 500),
    compression=st.sampled_from(["", "", "", "gz", "zst"]),
)
def test_ndjson_gives_every_line_with_its_number(
    tmp_path: Path,
    lines: list[bytes],
    newline: bytes,
    last: bool,
    bom: bool,
    window: int,
    target: int,
    compression: Compression,
) -> None:
    data = b"\xef\xbb\xbf" * bom + newline.join(lines) + newline * last
    file = written(tmp_path, data, "ndjson", compression)
    found = read(file, window=window)
    expected = [(n, line.strip(b" \t\r")) for n, line in enumerate(lines, 1) if line.strip(b" \t\r")]
    assert [(ordinal, raw) for ordinal, _, raw, _ in found] == expected
    check_places(data, found)
    for _, _, raw, decoded in found:
        if decoded:
            assert set(json.loads(raw)) == {"id", "a"}
    check_resume(file, window)
    check_segments(file, target, window)
    assert count_records(file) == len(expected)


# -- hostile files ---------------------------------------------------------------------------------------------------


def row(n: int, a: bytes = b'"x"') -> bytes:
    return b'{"id":%d,"a":%s}' % (n, a)


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


def test_memory_is_bounded_by_window_and_largest_record(tmp_path: Path) -> None:
    big = row(2, b'"' + b"x" * 30_000_000 + b'"')
    file = written(tmp_path, b"[" + b",".join([row(1)] * 20_000 + [big] + [row(3)] * 20_000) + b"]")
    for limit, peak in ((64_000_000, 3.2 * len(big)), (1_000_000, 8_000_000)):
        tracemalloc.start()
        try:
            assert sum(len(p) for p in pieces(file, decoder=MANY, line_decoder=LINE, max_record=limit)) == 40_001
            assert tracemalloc.get_traced_memory()[1] < peak
        finally:
            tracemalloc.stop()


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


def test_several_gzip_members_and_zstd_frames_are_one_stream(tmp_path: Path) -> None:
    halves = b"[" + row(1) + b",", row(2) + b"]"
    path = tmp_path / "users.json.gz"
    path.write_bytes(b"".join(map(gzip.compress, halves)) + b"\0" * 512)
    assert len(read(table(path, compression="gz"))) == 2
    path.write_bytes(b"".join(map(zstandard.ZstdCompressor().compress, halves)))
    assert len(read(table(path, compression="zst"))) == 2


def test_members_of_a_document_have_offsets_of_the_file(tmp_path: Path) -> None:
    users, posts = [row(n) for n in range(50)], [row(n, b'[{"id":1,"a":"]}"}]') for n in range(70)]
    data = (
        b'\xef\xbb\xbf{"version": 3, "users":['
        + b",".join(users)
        + b'], "data": {"tags": [1, "]"], "posts": [\n'
        + b",\n".join(posts)
        + b'\n], "x": "},{"}, "none":[]}'
    )
    path = tmp_path / "backup.json"
    path.write_bytes(data)
    for member, rows in ((("users",), users), (("data", "posts"), posts), (("none",), [])):
        file = table(path, "document", member=member)
        for window in (64, 300, 100_000):
            found = read(file, window=window)
            assert [raw for _, _, raw, _ in found] == rows
            check_places(data, found)
        check_resume(file, 200)
        check_segments(file, 300, 100)
        assert count_records(file) == len(rows)


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


def test_elements_without_any_boundary_to_guess_come_in_large_pieces(tmp_path: Path) -> None:
    file = written(tmp_path, b"[" + b",".join(b"%d" % n for n in range(50_000)) + b"]")
    found = list(pieces(file, decoder=MANY, line_decoder=LINE))
    assert sum(map(len, found)) == 50_000 and len(found) < 10


def test_look_alikes_at_the_end_of_a_window_cost_a_cheap_second_guess(tmp_path: Path) -> None:
    rows = [row(n, b"[" + b",".join([row(7)] * (n % 5)) + b"]") for n in range(30_000)]
    calls = []

    class Counted:
        def decode(self, data: bytes) -> Any:
            calls.append(len(data))
            return MANY.decode(data)

    data = b"[" + b",".join(rows) + b"]"
    found = pieces(written(tmp_path, data), decoder=Counted(), line_decoder=LINE, window=8192)
    assert sum(map(len, found)) == 30_000
    assert sum(calls) < 2 * len(data) and len(calls) < 5 * len(data) / 8192


def test_split_gives_two_whole_pieces(tmp_path: Path) -> None:
    lines = [row(1), b"", row(2), b"oops", b"", row(3), b'{"id":4}']
    for layout, data in (("ndjson", b"\n".join(lines)), ("array", b"[" + b" ,\n".join(filter(None, lines)) + b"]")):
        file = written(tmp_path, data, layout)
        for options in ({"decoder": MANY, "line_decoder": LINE}, {}):
            for piece in pieces(file, **options):
                for count in range(1, len(piece)):
                    parts = piece.split(count)
                    assert [r for p in parts for r in records(iter([p]))] == list(records(iter([piece])))
                    assert (len(parts[0]), parts[1].end) == (count, piece.end)
                    assert parts[0].next_ordinal <= parts[1].ordinal == parts[1].place(0)[0]
                    assert data[parts[1].offset :].startswith(parts[1].raw(0))
                for count in (0, len(piece)):
                    with pytest.raises(ValueError, match="split"):
                        piece.split(count)


def test_segments_are_about_the_size_asked_for(tmp_path: Path) -> None:
    file = written(tmp_path, b"[" + b",".join(row(n, b'"' + b"x" * 400 + b'"') for n in range(10_000)) + b"]")
    cut = list(segments(file, 500_000))
    assert 7 <= len(cut) <= 10
    assert segments(msgspec.structs.replace(file, compression="gz"), 1).__next__() == Segment(0, None, 1)


def test_one_percent_of_bad_records_keeps_good_neighbours_in_whole_pieces(tmp_path: Path) -> None:
    rows = [row(n) if n % 100 != 37 else row(n, b'"\\ud800"') for n in range(20_000)]
    for layout, data in (("array", b"[" + b",".join(rows) + b"]"), ("ndjson", b"\n".join(rows))):
        found = list(pieces(written(tmp_path, data, layout), decoder=MANY, line_decoder=LINE))
        assert sum(len(p) for p in found if p.records is None) == 200
        assert len(found) < 410


def test_reading_is_linear_in_a_file_of_look_alikes(tmp_path: Path) -> None:
    """Boundaries inside strings and nested objects everywhere, one bad record: no byte is decoded again and again."""
    nested = b"[" + b",".join([row(9)] * 60) + b"]"
    rows = [row(n, b'"' + b'},{\\"id\\":1' * 50 + b'"' if n % 3 else nested) for n in range(3_000)]
    rows[5] = row(5, b"x")
    taken = []

    class Counted:
        def decode(self, data: bytes) -> Any:
            taken.append(len(data))
            return MANY.decode(data)

    data = b"[" + b",".join(rows) + b"]"
    file = written(tmp_path, data)
    assert sum(len(p) for p in pieces(file, decoder=Counted(), line_decoder=LINE)) == 3_000
    assert sum(taken) < 8 * len(data)
