"""Where a decoder stopped, and which record of a window that leads to. What a message says is only a hint that saves looking:
whoever follows it decodes what it found."""

from __future__ import annotations

import re

import msgspec

from restorer.source.piece import GAP, RAW_LIST, Spans, array_spans
from restorer.source.scanner import ScanError, value_end

_ELEMENT = re.compile(r" - at `\$\[(\d+)\]")
_BYTE = re.compile(r"\(byte (\d+)\)")
_OPEN = ord("[")


def element(error: Exception) -> int | None:
    """Which element of an array an error of msgspec is about, from 0."""
    found = _ELEMENT.findall(str(error))
    return int(found[-1]) if found else None  # a key that is told may look like that too


def byte(error: Exception, data: bytes) -> int | None:
    """Where in `data`, decoded as `[data]`, the JSON is wrong. None when no byte of it is named: perhaps only its end is not
    where a record ends."""
    at = _named(error)
    return at if at is not None and 0 <= at < len(data) else None


def _named(error: Exception) -> int | None:
    """The byte behind the bracket that was decoded first."""
    found = _BYTE.search(str(error))
    return int(found[1]) - 1 if found else None


def spans_around(data: bytes, error: Exception, boundary: bytes) -> Spans:
    """Where the records of `data` (with commas between them) stand, some of which no decoder takes. `error`: what it said about
    `[data]`. `boundary`: a record's end, the gap, and what the next one begins with. Raises ValueError when that is not to be told
    here."""
    stopped, at = byte(error, data), 0
    if stopped is None:
        raise ValueError("no record to blame")
    holes = list[tuple[int, int]]()
    filled = bytearray(b"[%b]" % data)
    try:
        while stopped is not None:
            start, stop = _blamed(data, at, stopped, boundary)
            holes.append((start, stop))
            filled[start + 1 : stop + 1] = b'"%b"' % (b" " * (stop - start - 2)) if stop - start > 1 else b"0"
            if (at := GAP.match(data, stop).end()) == len(data):
                break
            stopped = _stopped(filled, at)
    except (ScanError, RecursionError, UnicodeDecodeError):
        raise ValueError("no record to blame") from None
    spans = array_spans(bytes(filled[1:-1]))
    if not set(holes) <= set(spans):  # within a record, not one by itself
        raise ValueError("a record that cannot be delimited")
    return spans


def _blamed(data: bytes, at: int, stopped: int, boundary: bytes) -> tuple[int, int]:
    """(start, stop) of the record in which a decoder stopped. One begins at `at`."""
    before = data.rfind(boundary, at, stopped)
    start = at if before == -1 else GAP.match(data, before + 1).end()
    stop = value_end(data, start)
    while start < stop <= stopped:
        start = GAP.match(data, stop).end()
        stop = value_end(data, start)
    if stop <= start:  # it does not end here
        raise ValueError("no record to blame")
    return start, stop


def _stopped(filled: bytearray, at: int) -> int | None:
    """Where a decoder stops that begins with the record at `at` of what is in the brackets; None when it does not."""
    before, filled[at] = filled[at], _OPEN  # in place of the gap's last byte, so that nothing is copied
    try:
        RAW_LIST.decode(memoryview(filled)[at:])
    except msgspec.DecodeError as error:
        named = _named(error)
        if named is None:
            raise ValueError("no record to blame") from None
        return at + named
    finally:
        filled[at] = before
    return None
