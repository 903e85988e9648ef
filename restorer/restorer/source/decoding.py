"""From bytes to decoded records: whole pieces, single records, and runs of good ones between bad ones."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from restorer.source.holes import byte, element
from restorer.source.piece import RAW_LIST, Oversized, Piece, Spans

HEAD = 64 * 1024  # bytes of an oversized record that are kept
# What a decoder raises on a record it does not take: wrong JSON, wrong shape, too deep, not UTF-8.
REFUSALS = (msgspec.MsgspecError, RecursionError, ValueError)

_RAW = msgspec.json.Decoder(msgspec.Raw)


class Decoding:
    """The caller's decoders: `many` of list[T], `line` of T. Without them records come as msgspec.Raw."""

    def __init__(
        self, many: msgspec.json.Decoder[Any] | None = None, line: msgspec.json.Decoder[Any] | None = None
    ) -> None:
        if many is None and line is None:
            many, line = RAW_LIST, _RAW
        self._many, self._line = many, line

    def array(self, data: bytes) -> list[Any]:
        """Records with commas between them. Raises one of REFUSALS."""
        if self._many is None:
            return self.lines(data)
        records: list[Any] = self._many.decode(b"[" + data + b"]")
        return records

    def mixed(self, data: bytes, spans: Spans) -> list[Any]:
        """The records that stand at `spans`, with commas between them; None for each that is none.

        The error tells which one is bad, or they are found by halving: where one of many is, all are decoded twice."""
        records: list[Any] = [None] * len(spans)
        parts = [(0, len(spans))]
        while parts:
            start, stop = parts.pop()
            first, last = spans[start][0], spans[stop - 1][1]
            try:
                records[start:stop] = self.array(data[first:last])
            except REFUSALS as error:
                if stop - start == 1:
                    continue
                at = element(error)
                if at is None and (place := byte(error, data[first:last])) is not None:
                    at = spans.at(first + place) - start
                behind = start
                if at is not None and 0 <= at < stop - start:
                    behind = start + at + 1
                    parts += [(start, start + at), (start + at, behind)]  # what the error names is looked at as well
                middle = (behind + stop) // 2  # many bad ones are no matter of squares
                parts = [part for part in (*parts, (behind, middle), (middle, stop)) if part[0] < part[1]]
        return records

    def lines(self, data: bytes) -> list[Any]:
        """Records with whitespace between them; the caller checks that there is one on each line."""
        if self._line is None:
            return self.array(data.replace(b"\n", b","))
        return self._line.decode_lines(data)

    def together(self, records: Sequence[tuple[int, int, bytes]]) -> Piece:
        """One piece of records from anywhere in a file, in order: (ordinal, offset, bytes) of each. It keeps all ordinals, and
        the first offset."""
        raws = [raw for _, _, raw in records]
        stops = itertools.accumulate(len(raw) + 1 for raw in raws)
        spans = [(stop - 1 - len(raw), stop - 1) for raw, stop in zip(raws, stops, strict=True)]
        data, (ordinal, offset, _) = b",".join(raws), records[0]
        try:
            decoded = self.array(data)
        except REFUSALS:
            decoded = None
        return Piece(offset, offset + len(data), ordinal, data, decoded, spans, [each[0] for each in records])

    def one(self, data: bytes) -> Any:
        """One record. Raises one of REFUSALS."""
        if self._line is None:
            return self.array(data)[0]
        return self._line.decode(data)


def is_value(data: bytes, *, single: bool = False) -> bool:
    """Whether `data`, which begins where a record does, is whole records (one, if `single`) and no part of one."""
    try:
        return len(RAW_LIST.decode(b"[" + data + b"]")) == 1 or not single
    except REFUSALS:
        return False


class _Run:
    """Neighbours that are all good (`records`) or all bad (`spans`)."""

    def __init__(self, start: int, records: list[Any] | None) -> None:
        self.start = self.stop = start
        self.records = records
        self.spans: list[tuple[int, int]] = []
        self.lines: list[int] = []


class Runs:
    """Collects the records of one window and gives them back as pieces: good ones together, bad ones together.

    `data[0]` stands at `base` in the stream. When good and bad alternate so often that the pieces would be tiny,
    all come as one piece without `records`: converting them one by one is cheaper than many small batches.
    """

    def __init__(self, data: bytes, base: int, ordinal: int, decode: Callable[[bytes], list[Any]]) -> None:
        """`decode`: what makes neighbouring good records of their bytes."""
        self._data, self._base, self._ordinal, self._decode = data, base, ordinal, decode
        self._runs: list[_Run] = []
        self.count = 0
        self.end = 0  # in `data`, of the last record

    def good(self, start: int, stop: int, records: list[Any], line: int | None = None) -> None:
        """`records` stand in data[start:stop]; where lines are counted, on `line` and those after it."""
        run = self._run(start, stop, True, len(records), line)
        assert run.records is not None
        run.records.extend(records)

    def bad(self, start: int, stop: int, line: int | None = None) -> None:
        """One record in data[start:stop] that did not decode."""
        self._run(start, stop, False, 1, line).spans.append((start, stop))

    def _run(self, start: int, stop: int, good: bool, count: int, line: int | None) -> _Run:
        self.count += count
        self.end = stop
        if not self._runs or (self._runs[-1].records is not None) is not good:
            self._runs.append(_Run(start, [] if good else None))
        run = self._runs[-1]
        run.stop = stop
        if line is not None:
            run.lines.extend(range(line, line + count))
        return run

    def pieces(self) -> Iterator[Piece]:
        """The runs in order."""
        made = list(self._each())
        if len(made) > 8 + self.count // 8:
            yield _joined(made, self._data, self._base)
        else:
            yield from made

    def _each(self) -> Iterator[Piece]:
        ordinal = self._ordinal
        for run in self._runs:
            spans = None if run.records is not None else [(a - run.start, b - run.start) for a, b in run.spans]
            count = len(run.records if run.records is not None else run.spans)
            lines = run.lines if run.lines and run.lines[-1] - run.lines[0] + 1 != count else None
            if run.lines:
                ordinal = run.lines[0]
            data = self._data[run.start : run.stop]
            begin, end, decode = self._base + run.start, self._base + run.stop, self._decode
            yield Piece(begin, end, ordinal, data, run.records, spans, lines, decode=decode)
            ordinal += count


def _joined(pieces: list[Piece], data: bytes, base: int) -> Piece:
    """One piece of all, without records."""
    first, last = pieces[0].offset, pieces[-1].end
    spans = [(p.offset - first + a, p.offset - first + b) for p in pieces for a, b in p.spans]
    lines = [p.place(i)[0] for p in pieces for i in range(len(p))]
    even = lines[-1] - lines[0] + 1 == len(lines)
    whole = data[first - base : last - base]
    return Piece(first, last, pieces[0].ordinal, whole, None, spans, None if even else lines)


class Hold:
    """Takes in the parts of one long record: keeps them up to `limit` bytes, past that only hash, length and head."""

    def __init__(self, limit: int) -> None:
        self._limit, self._parts, self.length = limit, list[bytes](), 0
        self._hash = hashlib.sha256()
        self._head: bytes | None = None

    def take(self, part: bytes) -> None:
        self.length += len(part)
        if self._head is None:
            self._parts.append(part)
            if self.length <= self._limit:
                return
            self._head = self._first()
            self._let_go(self._parts)
            self._parts = []
        else:
            self._let_go([part])

    def _first(self) -> bytes:
        head = b""
        for part in self._parts:
            head += part[: HEAD - len(head)]
            if len(head) == HEAD:
                break
        return head

    def _let_go(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self._hash.update(part)

    def piece(self, offset: int, ordinal: int, decoding: Decoding) -> Piece:
        """The record as a piece of one, or what is known of it when it was too long."""
        if self._head is not None:
            told = Oversized(self.length, self._hash.hexdigest(), self._head)
            return Piece(
                offset, offset + self.length, ordinal, self._head, None, [(0, len(self._head))], oversized=told
            )
        data = b"".join(self._parts).rstrip(b" \t\r")  # a line's end may have come with it
        self._parts = []
        end = offset + len(data)
        try:
            records = [decoding.one(data)]
        except REFUSALS:
            return Piece(offset, end, ordinal, data, None, [(0, len(data))])
        return Piece(offset, end, ordinal, data, records, [(0, len(data))])
