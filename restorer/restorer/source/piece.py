"""A piece of a file: the unit that travels from the reader to the converter. Both only know this."""

from __future__ import annotations

import itertools
import operator
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from restorer.source.scanner import always
from restorer.source.scanner import spans as scanned

GAP = always(rb"[ \t\r\n,]*+")
RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])


class Oversized(msgspec.Struct, frozen=True):
    """A record too long to be held in memory: `length` in bytes, `sha256` of all of it (hex), `head`: first 64 KiB."""

    length: int
    sha256: str
    head: bytes


class Spans:
    """(start, stop) of record after record, in an eighth of the memory that a list of pairs takes."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, starts: Iterable[int], stops: Iterable[int]) -> None:
        self._starts, self._stops = array("Q", starts), array("Q", stops)

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Spans:
        starts, stops = zip(*pairs, strict=True) if (pairs := list(pairs)) else ((), ())
        return cls(starts, stops)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self._starts[index], self._stops[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def at(self, place: int) -> int:
        """Which record stands at `place`, or comes next."""
        return bisect_right(self._stops, place)

    def part(self, start: int, stop: int, less: int = 0) -> Spans:
        """Of the records from `start` to `stop`, each `less` bytes further to the front."""
        moved = (-less).__add__
        return Spans(map(moved, self._starts[start:stop]), map(moved, self._stops[start:stop]))


class PartedSpans(Spans):
    """The same of data that was decoded in parts: a part is looked through when one of its records is asked for."""

    __slots__ = ("_data", "_parts", "_firsts", "_places", "_count")

    def __init__(self, data: bytes) -> None:
        self._data, self._count = data, 0
        self._parts: list[Spans | tuple[int, int]] = []  # (start, stop) in `data` where it was not looked through yet
        self._firsts, self._places = list[int](), list[int]()

    def add(self, start: int, stop: int, count: int, spans: Spans | None = None) -> None:
        """data[start:stop] holds the next `count` records; `spans` within it, where they are known."""
        self._firsts.append(self._count)
        self._places.append(start)
        self._parts.append((start, stop) if spans is None else spans)
        self._count += count

    def _of(self, part: int) -> Spans:
        spans = self._parts[part]
        if isinstance(spans, tuple):
            spans = self._parts[part] = find_spans(self._data[slice(*spans)])
        return spans

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[int, int]:
        if index < 0:
            index += self._count
        part = bisect_right(self._firsts, index) - 1
        start, stop = self._of(part)[index - self._firsts[part]]
        return self._places[part] + start, self._places[part] + stop

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for part, place in enumerate(self._places):
            yield from ((place + start, place + stop) for start, stop in self._of(part))

    def at(self, place: int) -> int:
        part = max(0, bisect_right(self._places, place) - 1)
        return self._firsts[part] + self._of(part).at(place - self._places[part])

    def part(self, start: int, stop: int, less: int = 0) -> Spans:
        return Spans.of(self).part(start, stop, less)


class Piece:
    """Some whole records of one file, in order.

    offset    where `data` starts in the (decompressed) stream, in bytes; a record starts there
    end       where the last record ends: the place to go on from (just past its last byte)
    ordinal   number of the first record: element number of an array, line number of NDJSON; both 1-based
    data      the bytes of the records and what separates them
    records   what the given decoder made of each record, or None when it did not take the piece; after `release` made anew
              when asked for
    mixed     some of `records` may be None: the decoder did not take them; `spans` are known
    spans     (start, stop) of each record in `data`; computed only when asked for
    lines     for NDJSON the line number of each record when blank lines make ordinals uneven, else None
    oversized set for one record that is too long to hold; `data` is then its head, `records` None
    """

    __slots__ = (
        "offset", "end", "ordinal", "data", "_records", "_count", "_spans", "lines", "oversized", "mixed", "_decode"
    )  # fmt: skip

    def __init__(
        self,
        offset: int,
        end: int,
        ordinal: int,
        data: bytes,
        records: list[Any] | None = None,
        spans: Iterable[tuple[int, int]] | None = None,
        lines: list[int] | None = None,
        oversized: Oversized | None = None,
        decode: Callable[..., list[Any]] | None = None,
        mixed: bool = False,
    ) -> None:
        """`decode`: what made `records` of `data` (of a mixed piece: and of `spans`), so that they can be released."""
        self.mixed = mixed
        self.offset, self.end, self.ordinal, self.data = offset, end, ordinal, data
        self._records, self.lines, self.oversized = records, lines, oversized
        self._spans = spans if spans is None or isinstance(spans, Spans) else Spans.of(spans)
        self._count, self._decode = None if records is None else len(records), decode

    @classmethod
    def of_one(cls, ordinal: int, offset: int, raw: bytes) -> Piece:
        """One record, not decoded."""
        return cls(offset, offset + len(raw), ordinal, raw, spans=[(0, len(raw))])

    def __len__(self) -> int:
        return len(self.spans) if self._count is None else self._count

    @property
    def records(self) -> list[Any] | None:
        if self._records is None and self._count is not None and self._decode is not None:
            self._records = self._decode(self.data, self.spans) if self.mixed else self._decode(self.data)
        return self._records

    def release(self) -> None:
        """Lets the records go, which take more memory than `data`, if they can be made again."""
        if self._decode is not None:
            self._records = None

    @property
    def spans(self) -> Spans:
        """Where each record stands in `data`."""
        if self._spans is None:
            self._spans = find_spans(self.data)
        return self._spans

    def find(self, indices: Iterable[int]) -> None:
        """Somebody will ask for these records: where they stand is found out now."""
        for index in indices:
            _ = self.spans[index]

    @property
    def next_ordinal(self) -> int:
        """The ordinal to go on with at `end`."""
        return (self.lines[-1] if self.lines is not None else self.ordinal + len(self) - 1) + 1

    def raw(self, index: int) -> bytes:
        """The bytes of record `index`, as they stand in the file."""
        start, stop = self.spans[index]
        return self.data[start:stop]

    def place(self, index: int) -> tuple[int, int]:
        """(ordinal, byte offset) of record `index`."""
        ordinal = self.lines[index] if self.lines is not None else self.ordinal + index
        return ordinal, self.offset + self.spans[index][0]

    def split(self, count: int) -> tuple[Piece, Piece]:
        """The first `count` records and the rest, both whole pieces. 0 < count < len(self), else ValueError."""
        if not 0 < count < len(self):
            raise ValueError(f"cannot split {len(self)} records after {count}")
        spans, records, lines = self.spans, self.records, self.lines
        stop, start = spans[count - 1][1], spans[count][0]
        first = Piece(
            self.offset,
            self.offset + stop,
            self.ordinal,
            self.data[:stop],
            None if records is None else records[:count],
            spans.part(0, count),
            None if lines is None else lines[:count],
            decode=self._decode,
            mixed=self.mixed,
        )
        rest = Piece(
            self.offset + start,
            self.end,
            self.place(count)[0],
            self.data[start:],
            None if records is None else records[count:],
            spans.part(count, len(spans), less=start),
            None if lines is None else lines[count:],
            decode=self._decode,
            mixed=self.mixed,
        )
        return first, rest


def find_spans(data: bytes) -> Spans:
    """Where each record stands in `data` (values with commas or newlines between them)."""
    try:
        return array_spans(data)
    except (msgspec.MsgspecError, RecursionError):
        return Spans.of(scanned(data))  # NDJSON, or a value that the decoder does not take


def array_spans(data: bytes) -> Spans:
    """The same for values with commas between them. Raises msgspec.MsgspecError, RecursionError."""
    raws = RAW_LIST.decode(b"[" + data + b"]")
    if len(raws) > 1:
        lengths = list(map(len, raws))
        gap = GAP.match(data, lengths[0]).group()
        if gap.join(raws) == data:  # the same between all of them, as a program writes it
            starts = list(itertools.accumulate(map(len(gap).__add__, lengths[:-1]), initial=0))
            return Spans(starts, map(operator.add, starts, lengths))
    found, at = [], 0
    for raw in raws:
        at = GAP.match(data, at).end()
        stop = at + memoryview(raw).nbytes
        found.append((at, stop))
        at = stop
    return Spans.of(found)
