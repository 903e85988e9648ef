"""A table file of a few bytes, and what the reader makes of it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from restorer.model import Compression, Layout, TableFile
from restorer.source.piece import Piece
from restorer.source.reader import BrokenFile, pieces, segments

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
        assert piece.mixed or piece.records is None or None not in piece.records
        assert piece.offset + piece.spans[0][0] == piece.offset
        made = piece.records
        piece.release()  # what is let go must come back alike
        assert piece.records == made
        for i in range(len(piece)):
            yield *piece.place(i), piece.raw(i), piece.records is not None and piece.records[i] is not None


def read(file: TableFile, **options: Any) -> list[Record]:
    return list(records(pieces(file, decoder=MANY, line_decoder=LINE, **options)))


def read_until_broken(file: TableFile, **options: Any) -> tuple[list[Record], BrokenFile]:
    found: list[Record] = []
    with pytest.raises(BrokenFile) as broken:
        found.extend(records(pieces(file, decoder=MANY, line_decoder=LINE, **options)))
    return found, broken.value


def row(n: int, a: bytes = b'"x"') -> bytes:
    return b'{"id":%d,"a":%s}' % (n, a)


def check_places(data: bytes, found: list[Record]) -> None:
    assert all(data[offset : offset + len(raw)] == raw for _, offset, raw, _ in found)


def check_resume(file: TableFile, window: int) -> None:
    whole = [(o, at, raw) for o, at, raw, _ in read(file, window=window)]
    seen = 0
    for piece in pieces(file, decoder=MANY, line_decoder=LINE, window=window):
        seen += len(piece)
        rest = read(file, window=window + 7, start=piece.end, ordinal=piece.next_ordinal)
        assert [(o, at, raw) for o, at, raw, _ in rest] == whole[seen:]


def check_segments(file: TableFile, target: int, window: int, least: int = 0, rest: int = 0) -> None:
    cut = list(segments(file, target, least, rest))
    parts = [read(file, window=window, start=s.start, stop=s.stop, ordinal=s.ordinal) for s in cut]
    assert [(o, at, raw) for part in parts for o, at, raw, _ in part] == [
        (o, at, raw) for o, at, raw, _ in read(file, window=4096)
    ]
    assert [s.start for s in cut] == [0] + [s.stop for s in cut[:-1]]
    assert cut[-1].stop is None
