"""Whole records of an array, as one piece: decoded at once, or, where records are bad, in parts."""

from __future__ import annotations

from typing import Any

import msgspec

from restorer.source.decoding import REFUSALS, Decoding
from restorer.source.holes import byte, spans_around
from restorer.source.piece import PartedSpans, Piece, Spans, array_spans

_PART = 16 * 1024  # bytes decoded together where records are bad: each costs no more than that
_CAREFUL = 50  # pieces after one with a bad record
_MISLED = 3  # pieces in which a boundary was none


class Whole:
    """Makes pieces of bytes that seem to be whole records with commas between them."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._boundary = self._gap = b""
        self._careful = self._misled = 0

    def learn(self, boundary: bytes, gap: bytes) -> None:
        """`boundary`: a record's end, the `gap`, and what the next one begins with, as the file seems to have them."""
        self._boundary, self._gap = boundary, gap

    def piece(self, data: bytes, offset: int, ordinal: int) -> Piece:
        """The records of `data`, which stands at `offset`. Raises one of REFUSALS: it may not be whole records."""
        if not self._careful:
            try:
                records = self._decoding.array(data)
                return Piece(offset, offset + len(data), ordinal, data, records, decode=self._decoding.array)
            except REFUSALS as error:
                if not isinstance(error, msgspec.ValidationError) and byte(error, data) is None:
                    raise  # only its end is wrong
        if self._misled < _MISLED:
            try:
                return self._parted(data, offset, ordinal, self._parts(data))
            except _Misled:
                self._misled += 1
        return self._parted(data, offset, ordinal, [(0, len(data))])

    def _parted(self, data: bytes, offset: int, ordinal: int, parts: list[tuple[int, int]]) -> Piece:
        records, spans, mixed = list[Any](), PartedSpans(data), False
        for start, stop in parts:
            try:
                some, where = self._part(data[start:stop])
            except REFUSALS:
                if stop == len(data):
                    raise
                raise _Misled from None
            mixed = mixed or where is not None
            records += some
            spans.add(start, stop, len(some), where)
        self._careful = _CAREFUL if mixed else max(0, self._careful - 1)
        decode = self._decoding.mixed if mixed else self._decoding.array
        return Piece(offset, offset + len(data), ordinal, data, records, spans, decode=decode, mixed=mixed)

    def _parts(self, data: bytes) -> list[tuple[int, int]]:
        """(start, stop) of parts of `data` that seem to be whole records. What stands before a cut is whole records exactly when it
        decodes, so a part that decodes begins a true next one."""
        found, at = list[tuple[int, int]](), 0
        while self._boundary and len(data) - at > 2 * _PART:
            cut = data.rfind(self._boundary, at, at + _PART)
            if cut == -1 and (cut := data.find(self._boundary, at)) == -1:
                break
            found.append((at, cut + 1))
            at = cut + 1 + len(self._gap)
        return [*found, (at, len(data))]

    def _part(self, data: bytes) -> tuple[list[Any], Spans | None]:
        """-> (the records, None for each that does not decode; where they stand, if there is one). Raises one of REFUSALS: `data`
        may not be whole records."""
        try:
            return self._decoding.array(data), None
        except msgspec.ValidationError:  # some records are at fault; the cut perhaps too
            spans = self._spans(data)
        except msgspec.DecodeError as error:
            spans = self._around(data, error)
        return self._decoding.mixed(data, spans), spans

    def _spans(self, data: bytes) -> Spans:
        try:
            return array_spans(data)
        except msgspec.DecodeError as error:
            return self._around(data, error)

    def _around(self, data: bytes, error: msgspec.DecodeError) -> Spans:
        if not self._boundary:
            raise error
        return spans_around(data, error, self._boundary)


class _Misled(Exception):
    """A boundary within a record, and not between two."""
