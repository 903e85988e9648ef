"""The records of a newline-delimited file: one on each line, any newline is a boundary, a broken line costs itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from restorer.source.decoding import REFUSALS, Decoding, Hold, Runs
from restorer.source.piece import Piece
from restorer.source.stream import BrokenFile, Window

_SPACE = b" \t\r"
_OPEN, _CLOSE, _CR = b"{}\r"
_CHUNK = 64  # lines decoded together, at most, once a window has a bad one


class LineReader:
    """Reads records until the source ends. The ordinal of a record is the number of its line, blank ones counted.

    `inside`: the window stands just past a record, whose line still has to be left. `limit` as in ArrayReader.
    """

    def __init__(
        self, window: Window, decoding: Decoding, *, size: int, limit: int, ordinal: int, inside: bool, table: str
    ) -> None:
        self._w, self._decoding = window, decoding
        self._size, self._limit = max(1, min(size, limit // 2)), limit
        self._line, self._inside, self._table = ordinal, inside, table

    def pieces(self) -> Iterator[Piece]:
        """Raises BrokenFile when a compressed stream ends early, after what came before was yielded."""
        w = self._w
        if self._inside:
            self._leave_line()
        while True:
            w.fill(self._size)
            if w.pos >= len(w.buf):
                break
            end = w.buf.rfind(b"\n", w.pos)
            if end == -1:
                if not w.eof:
                    yield from self._long_line()
                    continue
                if w.source.problem:
                    break  # half a line, whose other half was lost with the stream
                end = len(w.buf)
            if (piece := self._whole_window(end)) is not None:
                yield piece
            else:
                yield from self._line_by_line(end)
            w.pos = min(end + 1, len(w.buf))
        if w.source.problem:
            raise BrokenFile(w.source.path, w.source.problem, w.offset, self._line, self._table)

    def _leave_line(self) -> None:
        """Steps over what is left of the line on which the last record stood."""
        w = self._w
        while True:
            end = w.buf.find(b"\n", w.pos)
            if w.buf[w.pos : len(w.buf) if end == -1 else end].strip(_SPACE):
                return  # not blank: no record ended here, let the line speak for itself
            if end != -1:
                w.pos = end + 1
                return
            w.pos = len(w.buf)
            if not w.more(self._size):
                return

    def _whole_window(self, end: int) -> Piece | None:
        """All lines up to `end` at once, or None when they must be looked at one by one."""
        w = self._w
        data = w.buf[w.pos : end]
        crlf = data.endswith(b"\r")
        if crlf:
            data = data[:-1]
        # The decoder takes any whitespace for a boundary. Where every newline stands between } and {, none is inside
        # a value, so as many values as lines means one on each.
        if not data.startswith(b"{") or not data.endswith(b"}"):
            return None
        newlines, before, find, at = 0, _CR if crlf else _CLOSE, data.find, data.find(b"\n")
        while at != -1:
            if data[at - 1] != before or data[at + 1] != _OPEN or (crlf and data[at - 2] != _CLOSE):
                return None
            newlines += 1
            at = find(b"\n", at + 1)
        try:
            records = self._decoding.lines(data)
        except REFUSALS:
            return None
        if len(records) != newlines + 1:
            return None
        piece = Piece(w.offset, w.offset + len(data), self._line, data, records, decode=self._decoding.lines)
        self._line += len(records)
        return piece

    def _line_by_line(self, end: int) -> Iterator[Piece]:
        w = self._w
        data = w.buf[w.pos : end]
        runs = Runs(data, w.offset, self._line, self._decoding.lines)
        lines = data.split(b"\n")
        at = index = 0
        chunk = 16
        while index < len(lines):
            some = lines[index : index + chunk]
            if len(some) > 1:
                length = sum(map(len, some)) + len(some)
                if some[0][:1] == b"{" and (records := self._each(some)) is not None:
                    # In a single line the decoder itself checks that there is one value and no more.
                    runs.good(at, at + length - 1 - len(some[-1]) + len(some[-1].rstrip(_SPACE)), records, self._line)
                    at, index, self._line = at + length, index + len(some), self._line + len(some)
                    chunk = min(chunk * 2, _CHUNK)
                else:
                    chunk = max(1, chunk // 4)
                continue
            if record := some[0].strip(_SPACE):
                start = at + some[0].index(record)
                stop = start + len(record)
                try:
                    runs.good(start, stop, [self._decoding.one(record)], self._line)
                    chunk = 2
                except REFUSALS:
                    runs.bad(start, stop, self._line)
            at, index, self._line = at + len(some[0]) + 1, index + 1, self._line + 1
        if runs.count:
            yield from runs.pieces()

    def _each(self, lines: list[bytes]) -> list[Any] | None:
        try:
            return [*map(self._decoding.one, lines)]
        except REFUSALS:
            return None

    def _long_line(self) -> Iterator[Piece]:
        """The line at `pos`, which does not end in the window; nothing when it is blank."""
        w = self._w
        line, self._line = self._line, self._line + 1
        hold: Hold | None = None
        part, base, offset = w.buf[w.pos :], w.offset, w.offset
        while True:
            end = part.find(b"\n")
            text = part if end == -1 else part[:end]
            if hold is None and (begun := text.lstrip(_SPACE)):
                hold, offset = Hold(self._limit), base + len(text) - len(begun)
                text = begun
            if hold is not None:
                hold.take(text)
            base += len(part) if end == -1 else end + 1
            if end != -1:
                w.replace(part[end + 1 :], base)
                break
            part = w.source.read(max(self._size, 4096))
            if not part:
                w.eof = True
                w.replace(b"", base)
                if w.source.problem:
                    self._line = line
                    return
                break
        if hold is not None:
            yield hold.piece(offset, line, self._decoding)
