"""What reading costs: memory, size of pieces, bytes that are looked at twice."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
from reading import (
    LINE,
    MANY,
    row,
    written,
)
from restorer.source.reader import Segment, pieces, segments


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


def test_segments_are_about_the_size_asked_for(tmp_path: Path) -> None:
    file = written(tmp_path, b"[" + b",".join(row(n, b'"' + b"x" * 400 + b'"') for n in range(10_000)) + b"]")
    cut = list(segments(file, 500_000))
    assert 7 <= len(cut) <= 10
    assert segments(msgspec.structs.replace(file, compression="gz"), 1).__next__() == Segment(0, None, 1)


def test_one_percent_of_bad_records_keeps_good_neighbours_in_whole_pieces(tmp_path: Path) -> None:
    rows = [row(n) if n % 100 != 37 else row(n, b'"\\ud800"') for n in range(20_000)]
    for layout, data, most in (("array", b"[" + b",".join(rows) + b"]", 5), ("ndjson", b"\n".join(rows), 410)):
        found = list(pieces(written(tmp_path, data, layout), decoder=MANY, line_decoder=LINE))
        assert sum(len(p) if p.records is None else p.records.count(None) for p in found) == 200
        assert len(found) < most


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
