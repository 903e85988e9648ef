"""A plain bracket-and-quote scanner: where a JSON value ends, without building anything and without recursion.

It looks only at quotes, backslashes and brackets, so it delimits what a decoder refuses: nesting of any depth, lone
surrogates, raw control characters, wrong numbers. Regular expressions do the walking; every byte is looked at a
bounded number of times.
"""

from __future__ import annotations

import json
import re
from typing import Protocol, cast

MAX_DEPTH = 16 * 1024 * 1024  # levels; a byte of memory each. Deeper values cannot be delimited.

_PLAIN = rb'[^"\[\]{}]++'
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'


class Always(Protocol):
    """A pattern that matches wherever it is asked: it may match nothing, or the caller has seen its first byte."""

    def match(self, string: bytes, pos: int = ..., endpos: int = ..., /) -> re.Match[bytes]: ...


def always(pattern: bytes, flags: int = 0) -> Always:
    return cast(Always, re.compile(pattern, flags))


def _body(levels: int) -> bytes:
    """What may stand between two brackets when values inside nest at most `levels` deep."""
    inside = rb"\{" + _body(levels - 1) + rb"\}|\[" + _body(levels - 1) + rb"\]" if levels else b""
    return rb"(?:" + _PLAIN + rb"|" + _STRING + (rb"|" + inside if inside else b"") + rb")*+"


_OBJECT = re.compile(rb"\{" + _body(2) + rb"\}", re.DOTALL)
_SKIP = always(_body(1), re.DOTALL)
_IN_STRING = always(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SCALAR = always(rb'[^ \t\r\n,:"\[\]{}]*+')
_SPACE = always(rb"[ \t\r\n]*+")
_COMMA = always(rb"[ \t\r\n]*+(?:,[ \t\r\n]*+)?+")
_VALID = re.compile(
    rb"true|false|null|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+"
    rb'|"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
)
_OPENING, _CLOSING = always(rb"[\[{]++"), always(rb"[\]}]++")  # deep nesting comes in runs
_CLOSERS = bytes.maketrans(b"[{", b"]}")
_QUOTE, _BACKSLASH, _COMMA_CHAR, _COLON = b'"\\,:'
_OPENERS = b"[{"


class ScanError(ValueError):
    """The value cannot be delimited. `offset`: bytes from the start of what was scanned."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(f"{what} (byte {offset})")
        self.what, self.offset = what, offset


class ValueScanner:
    """Finds the end of one value that comes in parts.

    `feed` each part in order; the first begins with the value's first byte. Memory: a byte per level of nesting.
    """

    def __init__(self) -> None:
        self._open = bytearray()  # the closing brackets that are waited for
        self._string = self._escaped = self._scalar = False
        self._seen = 0  # bytes of earlier parts

    def feed(self, data: bytes, start: int = 0, stop: int | None = None) -> int:
        """The position in `data` just past the value, or -1 when it goes on. Raises ScanError."""
        end = len(data) if stop is None else stop
        at = start
        if at < end and not self._seen:
            first = data[at]
            if first not in _OPENERS and first != _QUOTE:
                self._scalar = True
                if _SCALAR.match(data, at, end).end() == at:
                    raise ScanError("a value is missing", 0)
        result = self._scan_scalar(data, at, end) if self._scalar else self._scan(data, at, end, start)
        self._seen += end - start
        return result

    def finish(self) -> bool:
        """Whether the value is complete when nothing follows: only numbers and words end so."""
        return self._scalar

    def _scan_scalar(self, data: bytes, at: int, end: int) -> int:
        stop = _SCALAR.match(data, at, end).end()
        return stop if stop < end else -1

    def _scan(self, data: bytes, at: int, end: int, start: int) -> int:
        waiting = self._open
        if self._escaped and at < end:
            self._escaped = False
            at += 1
        while at < end:
            if self._string:
                at = _IN_STRING.match(data, at, end).end()
                if at == end:
                    return -1
                if data[at] == _BACKSLASH:  # the last byte of this part
                    self._escaped = True
                    return -1
                self._string = False
                at += 1
                if not waiting:
                    return at
                continue
            if waiting:
                at = _SKIP.match(data, at, end).end()
                if at == end:
                    return -1
            char = data[at]
            if char == _QUOTE:
                self._string = True
                at += 1
            elif char in _OPENERS:
                run = _OPENING.match(data, at, end).group()
                if len(waiting) + len(run) > MAX_DEPTH:
                    raise ScanError("the value is nested too deep", self._seen + at - start)
                waiting.extend(run.translate(_CLOSERS))
                at += len(run)
            else:
                run = _CLOSING.match(data, at, end).group()[: len(waiting)]
                if run != waiting[: -len(run) - 1 : -1]:
                    right = next(i for i, closer in enumerate(run) if closer != waiting[-1 - i])
                    raise ScanError("a bracket closes what another opened", self._seen + at + right - start)
                del waiting[-len(run) :]
                at += len(run)
                if not waiting:
                    return at
        return -1


def value_end(data: bytes, start: int, stop: int | None = None) -> int:
    """The position just past the value that begins at `start`, or -1 when it does not end in `data[:stop]`.

    A number or word that touches `stop` counts as not ended. Raises ScanError with an offset from `start`.
    """
    end = len(data) if stop is None else stop
    if match := _OBJECT.match(data, start, end):
        return match.end()
    return ValueScanner().feed(data, start, end)


def spans(data: bytes) -> list[tuple[int, int]]:
    """(start, stop) of each value in `data`: values with commas or whitespace between them. Raises ScanError."""
    found = []
    at, end = _SPACE.match(data).end(), len(data)
    while at < end:
        try:
            stop = value_end(data, at)
        except ScanError as e:
            raise ScanError(e.what, at + e.offset) from None
        if stop == -1:
            if data[at] in _OPENERS or data[at] == _QUOTE:
                raise ScanError("the value does not end", at)
            stop = end
        found.append((at, stop))
        at = _COMMA.match(data, stop).end()
    return found


def pairs(record: bytes) -> dict[str, bytes]:
    """The members of one object, `key -> raw value`; of several with the same key the last one counts.

    Scalars are checked against JSON's grammar, arrays and objects are only delimited: whoever takes them in
    (PostgreSQL's json input) checks the rest. Raises ScanError when `record` is not one object.
    """
    end = len(record)
    at = _space(record, 0)
    if record[at : at + 1] != b"{":
        raise ScanError("not an object", at)
    found: dict[str, bytes] = {}
    at = _space(record, at + 1)
    if record[at : at + 1] == b"}":
        return _closed(record, at, found)
    while at < end:
        key = _VALID.match(record, at)
        if key is None or record[at] != _QUOTE:
            raise ScanError("a key is missing", at)
        at = _space(record, key.end())
        if at >= end or record[at] != _COLON:
            raise ScanError("a colon is missing", at)
        at = _space(record, at + 1)
        value = _value(record, at)
        found[key_text(key.group())] = value
        at = _space(record, at + len(value))
        if record[at : at + 1] == b"}":
            return _closed(record, at, found)
        if at >= end or record[at] != _COMMA_CHAR:
            raise ScanError("a comma is missing", at)
        at = _space(record, at + 1)
    raise ScanError("the object does not end", at)


def key_text(raw: bytes) -> str:
    """The text of a JSON string with its quotes. Bytes that are not UTF-8 become lone surrogates, never an error."""
    text = raw.decode("utf-8", "surrogateescape")
    return str(json.loads(text, strict=False)) if "\\" in text else text[1:-1]


def _value(record: bytes, at: int) -> bytes:
    if at < len(record) and record[at] not in _OPENERS:
        match = _VALID.match(record, at)
        if match is None or (record[at] != _QUOTE and _SCALAR.match(record, at).end() != match.end()):
            raise ScanError("a value is not JSON", at)
        return match.group()
    try:
        stop = value_end(record, at)
    except ScanError as e:
        raise ScanError(e.what, at + e.offset) from None
    if stop == -1:
        raise ScanError("a value does not end", at)
    return record[at:stop]


def _space(data: bytes, at: int) -> int:
    return _SPACE.match(data, at).end()


def _closed(record: bytes, at: int, found: dict[str, bytes]) -> dict[str, bytes]:
    if _space(record, at + 1) != len(record):
        raise ScanError("something follows the object", at + 1)
    return found
