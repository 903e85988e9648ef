"""The records of one JSON array, from a window that stands in it.

From a known record start a cut is guessed and everything before it decoded at once. A guess is never trusted: what
stands before it is whole records exactly when it decodes, because a cut inside a record leaves brackets or quotes
open. What does not decode is taken apart record by record, so that a bad one costs only itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from restorer.source.decoding import REFUSALS, Decoding, Hold, Runs, is_value
from restorer.source.piece import Piece
from restorer.source.scanner import ScanError, ValueScanner, value_end
from restorer.source.stream import BrokenFile, Window
from restorer.source.whole import Whole

_COMMA = re.compile(rb"[ \t\r\n]*+,[ \t\r\n]*+")
_FIRST_KEY = re.compile(rb'\{[ \t\r\n]*+"[^"\\]{0,200}"[ \t\r\n]*+:')
_ANY_BOUNDARY = re.compile(rb"\}[ \t\r\n]*+,[ \t\r\n]*+(?=\{)")
_BACK = (
    0,
    1,
    1,
    1,
    2,
    8,
    64,
)  # guesses at one window's end before it is taken apart: boundaries to step back each time
_LARGEST = 4 * 1024 * 1024  # bytes to which a window grows where records are long
_CHUNK = 64  # records decoded together, at most, while a window is taken apart


class ArrayReader:
    """Reads records until the array closes; then `window` stands just past its `]`.

    `inside`: the window stands just past a record, otherwise just past the `[`. `bounded`: the source ends just past
    a record (the end of a segment), so no `]` is due. `limit`: bytes of the longest record that is held in memory.
    `ordinal`: of the next record.
    """

    def __init__(
        self,
        window: Window,
        decoding: Decoding,
        *,
        size: int,
        limit: int,
        ordinal: int,
        inside: bool,
        bounded: bool,
        table: str,
    ) -> None:
        self._w, self._decoding = window, decoding
        self._size, self._limit = max(1, min(size, limit // 2)), limit
        self.ordinal, self._inside, self._bounded, self._table = ordinal, inside, bounded, table
        self._largest = max(1, min(_LARGEST, limit // 2))
        self._closed = False
        self._boundaries: list[bytes] = []  # what a `}`, the gap and a record's beginning look like, best first
        self._whole = Whole(decoding)

    def pieces(self) -> Iterator[Piece]:
        """Raises BrokenFile after everything before the break was yielded."""
        while self._next_record():
            w = self._w
            w.fill(self._size)
            if not self._boundaries:
                self._learn()
            piece = self._whole_window()
            if piece is not None:
                yield piece
                continue
            before = self.ordinal
            try:
                yield from self._taken_apart()
            except ScanError as e:
                raise self._broken(f"a record that cannot be delimited ({e.what})") from None
            if self.ordinal == before:
                yield self._long_record()

    # -- between records ------------------------------------------------------------------------------------------

    def _next_record(self) -> bool:
        """Steps over what separates records. False when there are no more, with the window past the `]`."""
        if self._closed:
            return False
        char = self._w.significant(self._size)
        if char == b"" and self._bounded:
            return False
        if char == b"]":
            self._w.pos += 1
            self._closed = True
            return False
        if self._inside and char == b",":
            self._w.pos += 1
            char = self._w.significant(self._size)
        elif self._inside and char:
            raise self._broken("no comma and no ] after a record")
        if char == b"":
            raise self._broken("the array does not end")
        if char in b",:]}":
            raise self._broken("a record is missing")
        return True

    def _broken(self, what: str) -> BrokenFile:
        source = self._w.source
        return BrokenFile(source.path, source.problem or what, self._w.offset, self.ordinal, self._table)

    # -- a whole window at once -----------------------------------------------------------------------------------

    def _learn(self) -> None:
        """Looks at the first record: how records are separated here and what they begin with."""
        w = self._w
        try:
            end = value_end(w.buf, w.pos)
        except ScanError:
            return
        comma = _COMMA.match(w.buf, end) if end > 0 else None
        if comma is None or w.buf[end - 1 : end] != b"}":
            return
        gap = comma.group()
        self._boundaries = [b"}" + gap + b"{"]
        if key := _FIRST_KEY.match(w.buf, w.pos):
            self._boundaries.insert(0, b"}" + gap + key.group())
        self._whole.learn(self._boundaries[0], gap)

    def _cut(self, stop: int, back: int = 1) -> int:
        """The last position before `stop` where a record seems to end (of `back` steps back the last), or 0."""
        w = self._w
        for boundary in self._boundaries:
            if (at := w.buf.rfind(boundary, w.pos, stop)) > 0:
                while (back := back - 1) > 0 and (before := w.buf.rfind(boundary, w.pos, at)) > 0:
                    at = before
                return at + 1
        return 0

    def _whole_window(self) -> Piece | None:
        """Everything up to a cut, or None when no cut decodes."""
        w = self._w
        cut = self._last_cut() or self._cut(len(w.buf))
        for back in _BACK:
            if back:
                cut = self._cut(cut, back)
            if not cut:
                return None
            data = w.buf[w.pos : cut]
            if back and not is_value(data):  # cheaper than the caller's decoder
                continue
            try:
                piece = self._whole.piece(data, w.offset, self.ordinal)
            except REFUSALS:
                continue
            w.pos = cut
            self.ordinal += len(piece)
            self._inside = True
            return piece
        return None

    def _last_cut(self) -> int:
        """Where the last record ends, when the file ends in this window; else 0."""
        w = self._w
        if not w.eof or len(w.buf) - w.pos > 2 * self._size:
            return 0
        end = len(w.buf)
        if not self._bounded:
            end = w.buf.rfind(b"]", w.pos)
            if end == -1 or w.buf[end + 1 :].strip():
                return 0
        while end > w.pos and w.buf[end - 1] in b" \t\r\n":
            end -= 1
        return end

    # -- record by record -----------------------------------------------------------------------------------------

    def _taken_apart(self) -> Iterator[Piece]:
        """The records that end in this window, bad ones apart from good ones. Raises ScanError after them."""
        w = self._w
        runs = Runs(w.buf, w.base, self.ordinal, self._decoding.array)
        start, error = w.pos, None
        try:
            self._sort_out(runs, start)
        except ScanError as e:
            error = e
        if runs.count:
            yield from runs.pieces()
            self.ordinal += runs.count
            self._inside = True
            w.pos = runs.end
        if error is not None:
            # What a person is told is where the record begins that does not end, not the comma before it.
            w.pos = self._after_gap(runs.end) if runs.count else start
            raise error

    def _sort_out(self, runs: Runs, start: int) -> None:
        """Adds the window's whole records, from `start` on, to `runs`. Raises ScanError.

        Probable cuts lead the way, many records at a time while they decode; where they mislead, or a record is bad,
        the scanner says where it ends. No byte is tried more than a few times.
        """
        cuts = self._all_cuts(start)
        index, chunk = 0, 16
        while index < len(cuts) and start != -1:
            at = min(index + chunk, len(cuts)) - 1
            data = self._w.buf[start : cuts[at]]
            records = self._decoded(data)
            if records is not None:
                runs.good(start, cuts[at], records)
                start, index, chunk = self._after_gap(cuts[at]), at + 1, min(chunk * 2, _CHUNK)
            elif at > index:
                chunk = max(1, chunk // 4)
            elif is_value(data, single=True):
                runs.bad(start, cuts[at])
                start, index = self._after_gap(cuts[at]), at + 1
            else:
                start = self._scan_to(runs, start, cuts[at])
                while index < len(cuts) and cuts[index] <= runs.end:
                    index += 1
        if not runs.count:
            self._scan_to(runs, start, len(self._w.buf))

    def _scan_to(self, runs: Runs, start: int, cut: int) -> int:
        """Adds one record after the other until one ends at or behind `cut`. The next one's start, -1 if none."""
        while start != -1 and start < cut:
            end = value_end(self._w.buf, start)
            if end == -1:
                return -1
            records = self._decoded(self._w.buf[start:end])
            if records is None:
                runs.bad(start, end)
            else:
                runs.good(start, end, records)
            start = self._after_gap(end)
        return start

    def _all_cuts(self, start: int) -> list[int]:
        """Every position in the window where a record seems to end."""
        for boundary in self._boundaries:
            if found := [m.start() + 1 for m in re.compile(re.escape(boundary)).finditer(self._w.buf, start)]:
                return found
        return [m.start() + 1 for m in _ANY_BOUNDARY.finditer(self._w.buf, start)]

    def _after_gap(self, end: int) -> int:
        """Where the record begins that follows the one before `end`; -1 when none does in this window."""
        match = _COMMA.match(self._w.buf, end)
        if match is None or match.end() == len(self._w.buf) or self._w.buf[match.end()] in b",:]}":
            return -1
        return match.end()

    def _decoded(self, data: bytes) -> list[Any] | None:
        try:
            return self._decoding.array(data)
        except REFUSALS:
            return None

    def _long_record(self) -> Piece:
        """The record at `pos`, which does not end in the window: scanned on until it does."""
        w = self._w
        scanner, hold, offset = ValueScanner(), Hold(self._limit), w.offset
        part, base = w.buf[w.pos :], w.offset
        while True:
            try:
                end = scanner.feed(part)
            except ScanError as e:
                raise self._broken(f"a record that cannot be delimited ({e.what})") from None
            if end != -1:
                break
            hold.take(part)
            base += len(part)
            part = w.source.read(max(self._size, 4096))
            if not part:
                w.eof = True
                if not (self._bounded and scanner.finish()):
                    raise self._broken("the record does not end (the file is truncated, or a quote is missing)")
                end = 0
                break
        hold.take(part[:end])
        w.replace(part[end:], base + end)
        # Where one record is long others are: with several in a window the decoder finds their ends, not the scanner.
        self._size = max(self._size, min(2 * hold.length, self._largest))
        piece = hold.piece(offset, self.ordinal, self._decoding)
        self.ordinal += 1
        self._inside = True
        return piece
