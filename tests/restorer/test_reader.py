"""The reader against an independent one (ijson)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import ijson.backends.python as ijson
import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import (
    LINE,
    MANY,
    check_places,
    check_resume,
    check_segments,
    read,
    records,
    row,
    table,
    written,
)
from restorer.model import Compression, Layout
from restorer.source.piece import PartedSpans, array_spans
from restorer.source.reader import count_records, pieces, segments
from restorer.source.stream import Source

pytestmark = pytest.mark.usefixtures("parts")

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


@property_settings
@given(
    rows=tables,
    style=st.sampled_from(STYLES),
    window=windows,
    target=st.integers(1, 500),
    least=st.sampled_from([0, 1, 50, 600]),
    rest=st.sampled_from([0, 1, 50, 600]),
)
def test_segments_of_an_array_are_the_file(
    tmp_path: Path, rows: list[Any], style: Callable[[list[Any]], bytes], window: int, target: int, least: int, rest: int
) -> None:  # fmt: skip
    check_segments(written(tmp_path, style(rows)), target, window, least, rest)


@pytest.mark.parametrize("layout", ["array", "ndjson"])
def test_the_first_and_the_last_segments_are_short(tmp_path: Path, layout: Layout) -> None:
    rows = [row(n) for n in range(60_000)]
    data = b"\n".join(rows) if layout == "ndjson" else b"[" + b",".join(rows) + b"]"
    file = written(tmp_path, data, layout)
    cut = list(segments(file, 64_000, 8_000))
    sizes = [(s.stop or file.size) - s.start for s in cut]
    assert cut[0].start == 0 and cut[-1].stop is None
    assert sizes[0] < 9_500 and sizes[-1] < 12_000 and all(size > 7_000 for size in sizes[:-1])
    rising, falling = sizes[:5], sizes[5:]
    assert all(size < cut[i].start + 9_500 for i, size in enumerate(rising))
    assert all(60_000 < size < 68_000 for size in falling[: file.size // 64_000 - 6])
    assert all(b < a + 1_500 for a, b in pairwise(falling))
    assert len(sizes) < file.size // 64_000 + 20


@pytest.mark.parametrize("layout", ["array", "ndjson"])
def test_the_last_segment_is_as_long_as_it_is_asked_to_be_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    rows = [row(n) for n in range(60_000)]
    file = written(tmp_path, b"\n".join(rows) if layout == "ndjson" else b"[" + b",".join(rows) + b"]", layout)
    read, asked = Source.read, list[int]()

    def counted(self: Source, size: int) -> bytes:
        asked.append(len(data := read(self, size)))
        return data

    monkeypatch.setattr(Source, "read", counted)
    cut = list(segments(file, 64_000, 8_000, file.size // 2))
    sizes = [(s.stop or file.size) - s.start for s in cut]
    assert file.size // 2 <= sizes[-1] < file.size // 2 + 9_500
    assert sum(asked) < file.size // 2 + 20_000
    assert sizes[-2] < 12_000 and max(sizes[:-1]) > 60_000


def test_an_array_within_a_document_is_cut_as_if_it_were_a_file(tmp_path: Path) -> None:
    array = b"[" + b",".join(row(n) for n in range(30_000)) + b"]"
    data = b'{"posts":[' + b",".join([row(1)] * 20_000) + b'],"users":' + array + b"}"
    path = tmp_path / "backup.json"
    path.write_bytes(data)
    within = msgspec.structs.replace(table(path, "document", member=("users",)), size=len(array))
    alone, at = written(tmp_path, array), data.index(array)
    for rest in (0, len(array) // 2):
        cuts, others = ([s.stop for s in segments(f, 64_000, 8_000, rest)][:-1] for f in (alone, within))
        assert len(cuts) == len(others) > 5
        assert all(abs((other or 0) - at - (cut or 0)) < 3_000 for cut, other in zip(cuts, others, strict=True))


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


_delimitable = st.sampled_from(
    [
        rb'{"id":1,"a":"\ud800"}',
        b'{"id":1,"a":nul}',
        b'{"id":1,"a":"\x01"}',
        b'{"id":1,"a":01}',
        rb'{"id":1,"a":[{"id":2,"a":"\udc00"},{"id":3,"a":1}]}',
        rb'{"id":1,"a":[{"id":2,"a":1},{"id":3,"a":"\x"}]}',
        rb'{"id":1,"a":[{"id":2,"a":1},{"id":"\ud800","a":1}]}',
        rb'{"id":"},{\"id\":\ud800","a":1}',
        rb'{"\ud800":1,"id":2}',
        b"nul",
        b'{"id":1,"a":1,"b":2}',
        b'{"id":1,"x - at `$[0]`":2}',
        b'{"id":tru}',
        b"7",
    ]
)


@property_settings
@given(
    rows=st.lists(
        st.tuples(st.just(True), good_rows.map(lambda r: json.dumps(r, separators=(",", ":")).encode()))
        | st.tuples(st.just(False), _delimitable),
        max_size=30,
    ),
    gap=st.sampled_from([b",", b", ", b",\n  ", b" , "]),
    window=windows,
)
def test_records_that_are_no_json_cost_none_of_their_neighbours(
    tmp_path: Path, rows: list[tuple[bool, bytes]], gap: bytes, window: int
) -> None:
    data = b"[" + gap.join(raw for _, raw in rows) + b"]"
    file = written(tmp_path, data)
    found = read(file, window=window)
    assert [(n, raw) for n, _, raw, _ in found] == [(n, raw) for n, (_, raw) in enumerate(rows, 1)]
    assert not any(decoded for (good, _), (*_, decoded) in zip(rows, found, strict=True) if not good)
    check_places(data, found)
    check_resume(file, window)


@property_settings
@given(parts=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=5), min_size=1, max_size=5))
def test_where_records_stand_is_the_same_part_by_part(parts: list[list[int]]) -> None:
    """Each number: bytes of a text in a record."""
    rows = [[row(n, b'"%s"' % (b"x" * n)) for n in part] for part in parts]
    data = b",".join(b",".join(part) for part in rows)
    parted, at = PartedSpans(data), 0
    for part in rows:
        stop = at + len(b",".join(part))
        parted.add(at, stop, len(part))
        at = stop + 1
    whole = array_spans(data)
    assert len(parted) == len(whole) and list(parted) == list(whole)
    assert [parted[i] for i in range(-1, len(whole))] == [whole[-1], *whole]
    assert [parted.at(place) for place in range(len(data))] == [whole.at(place) for place in range(len(data))]
    half = len(whole) // 2
    rest = (half, len(whole), whole[half][0])
    assert list(parted.part(*rest)) == list(whole.part(*rest))
