"""Batches: as many whole records as one transaction takes, and what became of them."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import msgspec

from restorer.convert.converter import Rows
from restorer.database.origins import Origin
from restorer.database.tasks import LEVELS
from restorer.database.waiting import Record
from restorer.errors import LoadFailed
from restorer.model import Problem
from restorer.report import Counters
from restorer.source.piece import Piece

Convert = Callable[[Piece], Rows]


class Batch:
    """Pieces that are loaded in one transaction. `index` of a record: its position in the batch, from 0.

    The first pass over it pulls the pieces out of the reader one by one, so that reading and converting overlap with the
    server's work; they are kept, and every later pass goes over the same pieces again.
    """

    def __init__(self, first: Piece, source: PieceSource, rows: int, size: int) -> None:
        self.pieces = [first]
        self.starts = [0]
        self.records = len(first)
        self.bytes = len(first.data)
        self._source: PieceSource | None = source
        self._rows, self._size = rows, size
        self._ready: list[Rows] = []
        self._ready_by: Convert | None = None

    def __iter__(self) -> Iterator[tuple[int, Piece]]:
        """(index of its first record, piece) for each piece. Its decoded records live until the next one is asked for."""
        at = 0
        while at < len(self.pieces) or self._pull():
            yield self.starts[at], self.pieces[at]
            self.pieces[at].release()
            at += 1

    def _pull(self) -> bool:
        if self._source is None or self.records >= self._rows or self.bytes >= self._size:
            return False
        piece = self._source.take(self._rows - self.records, self.records)
        if piece is None:
            self._source = None
            return False
        self.starts.append(self.records)
        self.pieces.append(piece)
        self.records += len(piece)
        self.bytes += len(piece.data)
        return True

    def ahead(self, convert: Convert) -> bool:
        """Reads and converts one more piece before the first pass. False when there is none left."""
        if self._ready_by != convert:
            self._ready, self._ready_by = [], convert
        at = len(self._ready)
        if at == len(self.pieces) and not self._pull():
            return False
        rows = convert(self.pieces[at])
        self.pieces[at].release()
        self.pieces[at].find(rows.problems)
        self._ready.append(rows)
        return True

    @property
    def begun(self) -> bool:
        return self._ready_by is not None

    def converted(self, convert: Convert) -> Iterator[tuple[int, Piece, Rows]]:
        """(index of its first record, piece, what it becomes) for each piece. What was made ahead serves one pass."""
        ready = self._ready[::-1] if self._ready_by == convert else []
        self._ready, self._ready_by = [], None
        for start, piece in self:
            yield start, piece, ready.pop() if ready else convert(piece)

    def fill(self) -> None:
        """Reads what belongs to the batch and was not read yet."""
        while self._pull():
            pass

    def expected(self, stop: int) -> int:
        """How many records it will have, about; `stop`: where the file ends."""
        if self._source is None:
            return self.records
        size = min(self._size, stop - self.pieces[0].offset)
        return min(self._rows, self.records * size // max(self.bytes, 1))

    @property
    def end(self) -> int:
        return self.pieces[-1].end

    @property
    def next_ordinal(self) -> int:
        return self.pieces[-1].next_ordinal

    def record(self, index: int) -> Record:
        """Place and bytes of one record."""
        at = bisect_right(self.starts, index) - 1
        piece, within = self.pieces[at], index - self.starts[at]
        ordinal, offset = piece.place(within)
        return Record(ordinal, offset, piece.raw(within))

    def halves(self) -> tuple[Batch, Batch]:
        """For a server that takes too long over the whole. Only for filled batches of two records or more."""
        half = self.records // 2
        left, right = [], []
        for start, piece in self:
            if start + len(piece) <= half:
                left.append(piece)
            elif start >= half:
                right.append(piece)
            else:
                a, b = piece.split(half - start)
                left.append(a)
                right.append(b)
        return _of(left), _of(right)


class PieceSource:
    """The reader's pieces, cut to the room that a batch has left. A broken file ends the stream; `error` then says why,
    once everything before it is loaded."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = iter(pieces)
        self._rest: Piece | None = None
        self.error: LoadFailed | None = None

    def take(self, room: int, have: int = 0) -> Piece | None:
        """The next piece for a batch that has `have` records and takes `room` more, or None. A batch that is half full
        already ends with the last whole piece: to split one it must be decoded once more."""
        try:
            piece = self._rest or next(self._pieces, None)
        except LoadFailed as error:
            self.error = error
            return None
        self._rest = None
        if piece is not None and len(piece) > room:
            if have >= room:
                self._rest = piece
                return None
            piece, self._rest = piece.split(room)
        return piece


class Batches:
    """Cuts the stream of pieces into batches of `rows()` records or `size` bytes, whichever comes first. A batch is read to
    its end before the next one is begun."""

    def __init__(self, source: PieceSource, rows: Callable[[], int], size: int) -> None:
        self._source, self._limit, self._size = source, rows, size
        self._now: Batch | None = None
        self._next: Batch | None = None
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Batch]:
        while True:
            if self._now is not None:
                self._now.fill()
            if self._error is not None:
                raise self._error
            self._now, self._next = self._following(), None
            if self._now is None:
                return
            yield self._now

    def begin_next(self, convert: Convert) -> None:
        """The first piece of the next batch, so that the server has something to do as soon as it is through with this one.
        This one must be read whole."""
        following = self._following()
        if following is not None and not following.begun:
            following.ahead(convert)

    def ahead(self, convert: Convert) -> bool:
        """One more piece of the next batch is made ready. This one must be read whole. -> False: there is none left"""
        try:
            following = self._following()
            return following is not None and following.ahead(convert)
        except Exception as error:  # told when the next batch is asked for
            self._error = error
            return False

    def more(self) -> bool:
        """Whether another batch comes. This one must be read whole."""
        try:
            return self._following() is not None
        except Exception as error:  # told when the next batch is asked for
            self._error = error
            return False

    def _following(self) -> Batch | None:
        self._next = self._next or self._begin()
        return self._next

    def _begin(self) -> Batch | None:
        first = self._source.take(limit := self._limit())
        return None if first is None else Batch(first, self._source, limit, self._size)


def _of(pieces: list[Piece]) -> Batch:
    batch = Batch(pieces[0], PieceSource(pieces[1:]), sum(map(len, pieces)), 1 << 62)
    batch.fill()
    return batch


class Outcome(msgspec.Struct):
    """What one batch came to. `level`: the deepest rung it needed; `levels`: records by the rung that settled them;
    `reasons`: rejects by reason, once it is closed; `held`: hashes of the keys that the deferred records have; `json_nulls`:
    nulls stored as JSON null, as their columns are NOT NULL; `origin`: of rows that went in, where the ledger must still be
    told."""

    counters: Counters = msgspec.field(default_factory=Counters)
    level: str = "Copy"
    levels: Counter[str] = msgspec.field(default_factory=Counter)
    rejects: dict[int, Problem] = {}
    reasons: Counter[str] = msgspec.field(default_factory=Counter)
    deferred: list[int] = []
    held: set[int] = set()
    json_nulls: int = 0
    converted_badly: bool = False
    origin: Origin | None = None

    def needed(self, level: str) -> None:
        if LEVELS.index(level) > LEVELS.index(self.level):
            self.level = level

    def close(self, records: int) -> None:
        """Completes the sums; every record must be accounted for, or nothing may be committed."""
        c = self.counters
        c.read, c.rejected = records, len(self.rejects)
        rest = records - len(self.rejects) - len(self.deferred) - self.levels["Copy"] - self.levels["Exact"]
        self.levels["Merge"] += rest - self.levels["Row"]
        self.levels["Reject"] += len(self.rejects)
        self.reasons.update(p.reason for p in self.rejects.values())
        self.levels = +self.levels
        if c.read != c.inserted + c.updated + c.duplicate + c.conflict + c.rejected + len(self.deferred):
            raise AssertionError(f"a batch of {records} records does not add up: {c}, {len(self.deferred)} deferred")

    def absorb(self, part: Outcome, at: int = 0) -> None:
        """Adds what a part of the batch came to; `at`: index of the part's first record."""
        for name in Counters.__struct_fields__:
            setattr(self.counters, name, getattr(self.counters, name) + getattr(part.counters, name))
        self.needed(part.level)
        self.levels.update(part.levels)
        self.reasons.update(part.reasons)
        self.rejects |= {at + i: p for i, p in part.rejects.items()}
        self.deferred += [at + i for i in part.deferred]
        self.held |= part.held
        self.json_nulls += part.json_nulls
        self.converted_badly = self.converted_badly or part.converted_badly

    @property
    def clean(self) -> bool:
        """Nothing in it asked for more than a plain COPY."""
        c = self.counters
        return c.inserted == c.read
