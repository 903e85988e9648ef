"""Bytes of a table file to pieces of whole records, each with ordinal and byte offset.

Offsets count bytes of the decompressed stream of the file, also for an array inside a document. Memory is bounded by
the window and the largest record, up to MAX_RECORD; what is longer is told, not held.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from restorer.model import TableFile
from restorer.source.arrays import ArrayReader
from restorer.source.decoding import Decoding
from restorer.source.document import array_start
from restorer.source.lines import LineReader
from restorer.source.piece import Oversized, Piece
from restorer.source.stream import READ, BrokenFile, Source, Window

__all__ = ["MAX_RECORD", "BrokenFile", "Oversized", "Piece", "Segment", "count_records", "pieces", "segments"]

MAX_RECORD = 64 * 1024 * 1024  # bytes of the longest record that is held in memory
_PARTS_LEFT = 4  # of what is left of a file one segment is at most a fourth
_SPLIT_WINDOW = 128 * 1024  # bytes: what fits into the cache is split fastest


class Segment(msgspec.Struct, frozen=True):
    """A part of a table file for one worker: hand all three to `pieces`. `start` 0 is the beginning, else just past
    a record; `stop` is just past a record, None for the last segment (it also finds what is wrong with the end)."""

    start: int
    stop: int | None
    ordinal: int


def pieces(
    file: TableFile,
    *,
    decoder: msgspec.json.Decoder[Any] | None = None,
    line_decoder: msgspec.json.Decoder[Any] | None = None,
    start: int = 0,
    ordinal: int = 1,
    stop: int | None = None,
    window: int = READ,
    max_record: int = MAX_RECORD,
) -> Iterator[Piece]:
    """The records of `file` in order, in pieces of about `window` bytes.

    `decoder` is of list[T], `line_decoder` of T; without both, records are msgspec.Raw. `start` is 0 or the `end` of
    an earlier piece, `ordinal` then its `next_ordinal`; `stop` is the end of a segment. A record that does not decode
    is None among the `records` of its piece, or comes in a piece whose `records` is None; its neighbours come decoded.

    Raises BrokenFile where the file cannot be read on, after everything before was yielded; LoadFailed when the file
    is gone; Unavailable when the volume fails.
    """
    decoding = Decoding(decoder, line_decoder)
    inside = start > 0
    if stop is not None and stop <= start:
        return
    if file.layout == "document" and not inside:
        start = array_start(file) + 1
    with Source(file.path, file.compression, start, stop) as source:
        w = Window(source)
        if not inside and file.layout != "document":
            w.skip_bom()
        if file.layout == "ndjson":
            lines = LineReader(
                w, decoding, size=window, limit=max_record, ordinal=ordinal, inside=inside, table=file.name
            )
            yield from lines.pieces()
            return
        if not inside and file.layout == "array":
            _open_array(w, file, ordinal)
        arrays = ArrayReader(
            w,
            decoding,
            size=window,
            limit=max_record,
            ordinal=ordinal,
            inside=inside,
            bounded=stop is not None,
            table=file.name,
        )
        yield from arrays.pieces()
        if file.layout == "array" and stop is None and (w.significant() or source.problem):
            what = source.problem or "something follows the array's end"
            raise BrokenFile(file.path, what, w.offset, arrays.ordinal, file.name)


def _open_array(w: Window, file: TableFile, ordinal: int) -> None:
    if w.significant() != b"[":
        what = w.source.problem or ("the top level is not an array" if w.buf else "the file is empty")
        raise BrokenFile(file.path, what, w.offset, ordinal, file.name)
    w.pos += 1


def segments(file: TableFile, most: int, least: int = 0, rest: int = 0) -> Iterator[Segment]:
    """Cuts a file into parts of about `most` bytes for parallel loading; together they are exactly the file. At its beginning
    and its end they are shorter, down to about `least` (0: they are not), so that who loads them all begin and end at about
    the same time. The last one has about `rest` bytes (0: as many as the others), which are not read.

    Read in order from the beginning (some GB/s), as a boundary in the middle of an array cannot be guessed. A
    compressed file is one segment. Never raises BrokenFile: the last segment runs into the break and tells of it.
    """
    start, ordinal = 0, 1
    first = begun = -1  # offsets of the first records, of the file and of the segment at hand
    least, target = min(most, least or most), most
    if not file.compression:
        try:
            for piece in pieces(file, window=max(1, min(_SPLIT_WINDOW, least // 8))):
                if first == -1:
                    first = piece.offset if file.member else 0  # an array that stands somewhere in a document
                if begun == -1:
                    begun = piece.offset
                    before, left = begun - first, file.size - rest - (begun - first)
                    if rest and left < least:
                        break
                    target = min(most, max(least, min(before, left // _PARTS_LEFT)))
                if piece.end - begun >= target:
                    yield Segment(start, piece.end, ordinal)
                    start, begun = piece.end, -1
                    ordinal = piece.next_ordinal
        except BrokenFile:
            pass
    yield Segment(start, None, ordinal)


def count_records(file: TableFile) -> int:
    """How many records `pieces` yields, good and bad. Raises BrokenFile (its `ordinal` - 1: the count so far)."""
    return sum(len(piece) for piece in pieces(file, window=_SPLIT_WINDOW))
