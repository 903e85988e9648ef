"""A piece of a file: the unit that travels from the reader to the converter. Both only know this."""

from __future__ import annotations

from typing import Any

import msgspec

_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])


class Piece:
    """Some whole records of one file, in order.

    offset   where `data` starts in the (decompressed) stream, in bytes; a record starts there
    end      where the last record ends: the place to go on from (just past its last byte)
    ordinal  number of the first record: element number of an array, line number of NDJSON; both 1-based
    data     the bytes of the records and what separates them
    records  what the given decoder made of each record, or None when the piece did not decode as a whole
    spans    (start, stop) of each record in `data`; computed only when asked for
    lines    for NDJSON the line number of each record when blank lines make ordinals uneven, else None
    """

    __slots__ = ("offset", "end", "ordinal", "data", "records", "_spans", "lines")

    def __init__(
        self,
        offset: int,
        end: int,
        ordinal: int,
        data: bytes,
        records: list[Any] | None = None,
        spans: list[tuple[int, int]] | None = None,
        lines: list[int] | None = None,
    ) -> None:
        self.offset, self.end, self.ordinal, self.data = offset, end, ordinal, data
        self.records, self._spans, self.lines = records, spans, lines

    def __len__(self) -> int:
        return len(self.records) if self.records is not None else len(self.spans)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where each record stands in `data`."""
        if self._spans is None:
            raise NotImplementedError  # the reader's author fills this in
        return self._spans

    def raw(self, index: int) -> bytes:
        """The bytes of record `index`, as they stand in the file."""
        start, stop = self.spans[index]
        return self.data[start:stop]

    def place(self, index: int) -> tuple[int, int]:
        """(ordinal, byte offset) of record `index`."""
        ordinal = self.lines[index] if self.lines is not None else self.ordinal + index
        return ordinal, self.offset + self.spans[index][0]
