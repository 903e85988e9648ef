"""One column: whether a piece's values may go to COPY as they stand, and the fields of those that may not."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from restorer.convert.exact import Rule, rule
from restorer.convert.field import MISSING, NULL, NULL_TEXT, QUOTE, RAW_NULL, RAW_NULL_STRING, Unfit, escaped, special
from restorer.model import ColumnPlan
from restorer.source.scanner import always

_SPACES = bytes.maketrans(b"\r\n", b"  ")
_BETWEEN = b"\x02"  # cannot stand in JSON, not even in a string; where it does all the same, the values do not add up
_SUSPICIOUS = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")

_ODD = frozenset([b"{", b"[", MISSING])  # how no plain value begins

JSON_NULL = NULL_TEXT  # a json value that is the word, where NULL may not be

_NULL_STRING = msgspec.Raw(RAW_NULL_STRING)

Check = Callable[[Any], Any]
Run = Callable[..., re.Match[bytes]]


class ColumnWriter:
    """Writes the values of one column. `not_null`: null is refused here. `json_null`: null becomes JSON null.
    `blank`: what stands for a key that a record does not have."""

    def __init__(self, plan: ColumnPlan, enforce_not_null: bool) -> None:
        self.key, self.column = plan.key, plan.column
        self.rule: Rule = rule(plan.column.type)
        self.json_null = self.rule.way == "json" and plan.column.not_null
        self.not_null = plan.column.not_null and enforce_not_null and not self.json_null
        self.blank = MISSING if plan.column.has_default or self.json_null else NULL
        self._text = self.rule.text
        self._sure = _values(self.rule.sure, self.not_null)
        self._loose = _values(self.rule.loose, self.not_null)
        self._zeros = bytes.maketrans(self.rule.alike.encode(), b"0" * len(self.rule.alike))
        self._alike = (self._loose if self.rule.loose else self._sure) if self.rule.alike else None
        self._list_value = self._simple_list()
        self._sure_value = re.compile((self.rule.sure or "(?!)").encode()).fullmatch

    def doubtful(self, values: Sequence[Any], strict: bool) -> Iterable[int]:
        """The indices of the values that may not go as they stand, in order; `strict`: that are not surely of the type."""
        joined = b"\n".join(values) + b"\n"
        if strict and self.rule.free:
            return self._unfree(joined, values)
        run = self._sure if strict else self._loose
        if run is self._alike:
            # Written by one program, all have one shape: then one of them stands for all.
            shapes = joined.translate(self._zeros)
            first = shapes[: shapes.index(b"\n") + 1]
            if first * len(values) == shapes and run(first).end() == len(first):
                return ()
        end, size = run(joined).end(), len(joined)
        if end == size and is_utf8(joined):
            return ()
        if not is_utf8(joined) or joined.count(b"\n") != len(values):  # a raw newline in a string
            return range(len(values))
        found, counted, index = list[int](), 0, 0
        while end < size:
            index += joined.count(b"\n", counted, end)
            found.append(index)
            index, counted = index + 1, joined.index(b"\n", end) + 1
            end = run(joined, counted).end()
        return found

    def _unfree(self, joined: bytes, values: Sequence[Any]) -> Iterable[int]:
        """`doubtful` for a type that takes every plain value."""
        if not is_utf8(joined):
            return range(len(values))
        found = {*_places(_NULL_STRING, values), *(_places(RAW_NULL, values) if self.not_null else ())}
        if self._doubted(joined):
            if joined.count(b"\n") != len(values):  # a raw newline in a string
                return range(len(values))
            found.update(_special_lines(joined))
            if any(odd in joined for odd in _ODD):
                found.update(i for i, line in enumerate(joined.split(b"\n")) if line[:1] in _ODD)
        return sorted(found)

    def may_stand(self, values: bytes) -> bool:
        """Whether one value of a plain column may go as it stands, or several that end in a newline each: no special escape,
        no object or list, none missing, none null where it must not be, nor a string "null". (No may be a false alarm for
        several.)"""
        if (
            self._doubted(values)
            or RAW_NULL_STRING in values
            or (self.not_null and (values.startswith(NULL) or b"\nnull" in values))
        ):
            return False
        return is_utf8(values)

    def _doubted(self, values: bytes) -> bool:
        if special(values) or MISSING in values:
            return True
        return any(  # one byte is found ten times as fast as two
            opener in values and (values.startswith(opener) or b"\n" + opener in values) for opener in (b"{", b"[")
        )

    def field(self, raw: bytes) -> bytes:
        """The field of one raw JSON value, for a line that `unquoted` goes over. Raises Unfit."""
        if raw == NULL:
            if self.json_null:
                return JSON_NULL
            if self.not_null:
                raise Unfit("NullViolation", "23502", "null in a NOT NULL column")
            return NULL
        if self._sure_value(raw) and raw != RAW_NULL_STRING and is_utf8(raw):
            return raw
        if self._list_value is not None and self._list_value(raw) and is_utf8(raw):
            return b"{" + raw[1:-1].replace(b'"', QUOTE) + b"}"
        if raw == MISSING:
            raise Unfit("NullViolation", "23502", "no value for a NOT NULL column")
        return escaped(self._text(raw))

    def _simple_list(self) -> Check | None:
        """A test for lists whose items an array literal spells the same (null too, in any case): most of them."""
        element = self.column.type.element
        if element is None or element.name == "box" or not (source := rule(element).sure):
            return None
        return re.compile(rf"\[ *+(?:(?:{source}|null) *+(?:, *+(?:{source}|null) *+)*+)?\]".encode()).fullmatch

    def json(self, values: Sequence[Any], trusting: bool = False) -> list[bytes] | None:
        """The fields of a json or jsonb column, done for the whole piece at once: newlines become spaces, quotes and backslashes
        are data. None when the values have to be looked at one by one. `trusting`: PostgreSQL sees to it that all is UTF-8."""
        joined = _BETWEEN + _BETWEEN.join(values)
        if MISSING in joined or QUOTE in joined or not (trusting or is_utf8(joined)):
            return None
        if b"\\" in joined:
            if self.column.type.name == "jsonb" and _SUSPICIOUS.search(joined):
                return None
            joined = joined.replace(b"\\", rb"\\")
        if b"\n" in joined or b"\r" in joined:
            joined = joined.translate(_SPACES)
        if b"\t" in joined:
            joined = joined.replace(b"\t", rb"\t")
        fields = joined.replace(b'"', QUOTE).split(_BETWEEN)
        if self.json_null:
            fields = [JSON_NULL if field == NULL else field for field in fields]
        return fields[1:] if len(fields) == len(values) + 1 else None


def _places(value: msgspec.Raw, values: Sequence[Any]) -> Iterator[int]:
    """The indices at which it stands; few, as a rule."""
    at = -1
    with contextlib.suppress(ValueError):
        while True:
            yield (at := values.index(value, at + 1))


def _special_lines(joined: bytes) -> Iterator[int]:
    """The numbers of the lines that have a special escape; few have a backslash, as a rule, and one byte is found quickly."""
    at, index, counted = joined.find(b"\\"), 0, 0
    while at != -1:
        index += joined.count(b"\n", counted, at)
        counted = joined.index(b"\n", at)
        if special(joined[at:counted]):
            yield index
        at = joined.find(b"\\", counted)


def is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _values(source: str, not_null: bool) -> Run:
    """Matches the values of a column, one raw value per line, up to the first that does not match, or that is a string "null";
    every value matches in one way only, so no backtracking."""
    if source and re.fullmatch(source, RAW_NULL_STRING.decode()):
        source = rf'(?!"null"\n)(?:{source})'
    values = (source if not_null else f"{source}|null") if source else "(?!)"
    return always(rf"(?:(?:{values})\n)*+".encode()).match
