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
from restorer.piece import Piece
from restorer.reader import BrokenFile, Segment, count_records, pieces, segments

Row = msgspec.defstruct(
    "Row", [("id", msgspec.Raw), ("a", msgspec.Raw)], gc=False, forbid_unknown_fields=True
)
MANY, LINE = msgspec.json.Decoder(list[Row]), msgspec.json.Decoder(Row)

Record = tuple[int, int, bytes, bool]  # ordinal, offset, raw bytes, decoded


def table(path: Path, layout: Layout = "array", compression: Compression = "", member: tuple[str, ...] = ()) -> TableFile:
    return TableFile(path.name.split(".")[0], str(path), path.stat().st_size, layout, compression, member)


def written(folder: Path, data: bytes, layout: Layout = "array", compression: Compression = "") -> TableFile:
    packed = {"": lambda d: d, "gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}[compression](data)
    path = folder / "users.json"
    path.write_bytes(packed)
    return table(path, layout, compression)


def records(found: Iterator[Piece]) -> Iterator[Record]:
    for piece in found:
        assert piece.records is None or len(piece.records) == len(piece.spans)
        assert piece.offset + piece.spans[0][0] == piece.offset
        for i in range(len(piece)):
            yield *piece.place(i), piece.raw(i), piece.records is not None


def read(file: TableFile, **options: Any) -> list[Record]:
    return list(records(pieces(file, decoder=MANY, line_decoder=LINE, **options)))


def read_until_broken(file: TableFile, **options: Any) -> tuple[list[Record], BrokenFile]:
    found: list[Record] = []
    with pytest.raises(BrokenFile) as broken:
        for record in records(pieces(file, decoder=MANY, line_decoder=LINE, **options)):
            found.append(record)
    return found, broken.value


# -- the same records as an independent reader ---------------------------------------------------------------------

TRICKY = ['},{"id":1', '[{"', "},\n  {", "]", '"', "\\", "\\\\", '\\"', "}\n{", "\n", "\u2028", "é", "😀", "\x00", "x" * 300]
texts = st.lists(st.sampled_from(TRICKY) | st.text(st.characters(exclude_categories=("Cs",)), max_size=4), max_size=4).map(
    "".join
)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | texts
look_alikes = st.recursive(
    scalars,
    lambda inner: st.lists(st.fixed_dictionaries({"id": inner, "a": inner}) | inner, max_size=3)
    | st.fixed_dictionaries({"id": inner}),
    max_leaves=6,
)
good_rows = st.fixed_dictionaries({"id": scalars, "a": look_alikes})
other_rows = (
    st.dictionaries(texts, look_alikes, max_size=3) | scalars | st.lists(look_alikes, max_size=2) | st.just({})
)
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


broken_lines = st.sampled_from([b'{"id":1', b'"a":2}', b"oops", b'{"id":1,"a":"\x01"}', b'{"id":1}{"id":2}', b"]", b'{"a":1,'])
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
