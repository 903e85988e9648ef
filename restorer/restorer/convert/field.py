"""One JSON value on its way to one field of COPY: why it cannot go, how its text is read, how a field is spelled.

The reasons for which a record cannot be converted (`Problem.reason`), all of them:

    InvalidJSON       the record is not JSON
    NotAnObject       the record is JSON, but not an object of columns
    UnknownColumn     it has a key that was not there at preflight and that no column has (42703)
    RecordTooLarge    it is larger than the reader takes (54000)
    InvalidEncoding   it holds bytes that are not UTF-8 (22021)
    NulCharacter      a string holds U+0000, which PostgreSQL cannot store (22P05 in jsonb, 22021 elsewhere)
    LoneSurrogate     a string holds half of a surrogate pair, which is no character (22P05)
    NullViolation     null, or no value, for a NOT NULL column (23502)
    TypeMismatch      a JSON value of a kind that the column's type does not take, as an object for an integer (42804)
    InvalidValue      the right kind, but not a value of the type (22P02)
    InvalidEnum       not a label of the enum (22P02)
    InvalidDate       not a date, time or timestamp (22007), or one that no calendar has (22008)
    OutOfRange        a number that the type cannot hold (22003)
    TooLong           more characters or bits than the column holds (22001)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import msgspec

from restorer.model import Problem

NULL = b"null"  # what COPY is told NULL looks like
NULL_TEXT = rb"nul\l"  # the four letters themselves: COPY looks for NULL before it looks at backslashes
RAW_NULL = msgspec.Raw(NULL)
RAW_NULL_STRING = b'"null"'  # the one string that may not go as it stands once its quotes are taken out
MISSING = b"\0"  # stands for a key that the record does not have; no JSON value looks like it
# The quotes of JSON's strings are taken out of all lines at once (`unquoted`); a quote that is data is this until then. A character
# that JSON has in no string.
QUOTE = b"\x01"
_PAIR = b"\x02"  # another one

#: The text that PostgreSQL's input function gets for a raw JSON value other than null. Raises Unfit.
Text = Callable[[bytes], str]

_DECODE_STRING = msgspec.json.Decoder(str).decode
_SPECIAL = re.compile(rb'\\["\\u]').search
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


class Unfit(Exception):
    """A value that does not fit its column, or a record that fits no row. `message` names the type, never the value."""

    def __init__(self, reason: str, sqlstate: str, message: str, column: str = "") -> None:
        super().__init__(message)
        self.reason, self.sqlstate, self.message, self.column = reason, sqlstate, message, column

    def problem(self, column: str = "") -> Problem:
        """The same as a problem of the record."""
        message = f'column "{column}": {self.message}' if column else self.message
        return Problem(self.reason, self.sqlstate, column or self.column, message=message)


def mismatch(raw: bytes, type_name: str) -> Unfit:
    """The refusal of a value whose JSON kind the type does not take."""
    return Unfit("TypeMismatch", "42804", f"{kind(raw)} is not taken for type {type_name}")


def invalid(type_name: str) -> Unfit:
    return Unfit("InvalidValue", "22P02", f"not a valid value of type {type_name}")


def out_of_range(type_name: str) -> Unfit:
    return Unfit("OutOfRange", "22003", f"out of range for type {type_name}")


def kind(raw: bytes) -> str:
    """What a person calls the JSON value."""
    return {0x22: "a string", 0x7B: "an object", 0x5B: "an array", 0x74: "a boolean", 0x66: "a boolean"}.get(
        raw[0], "a number"
    )


def plain(raw: bytes) -> str:
    """The JSON text itself, as for a number in a text column. Raises Unfit when it is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Unfit("InvalidEncoding", "22021", "bytes that are not UTF-8") from None


def string(raw: bytes) -> str:
    """The characters of a JSON string. Raises Unfit for what PostgreSQL's text cannot hold."""
    if b"\\" not in raw:
        return plain(raw[1:-1])
    try:
        text: str = _DECODE_STRING(raw)
    except UnicodeDecodeError:
        raise Unfit("InvalidEncoding", "22021", "bytes that are not UTF-8") from None
    except msgspec.DecodeError:
        plain(raw)
        if lone_surrogate(raw):
            raise Unfit("LoneSurrogate", "22P05", "half of a surrogate pair is not a character") from None
        raise Unfit("InvalidJSON", "22P02", "a string that is not JSON") from None
    if "\0" in text:
        raise Unfit("NulCharacter", "22021", "the character U+0000 cannot be stored")
    return text


def lone_surrogate(raw: bytes) -> bool:
    """Whether an escape in the raw JSON is half of a surrogate pair without the other half beside it."""
    high_ends = -1
    for match in _ESCAPE.finditer(raw):
        code = int(match[1], 16) if match[1] else 0
        if 0xDC00 <= code <= 0xDFFF:
            if high_ends != match.start():
                return True
            high_ends = -1
            continue
        if high_ends >= 0:
            return True
        high_ends = match.end() if 0xD800 <= code <= 0xDBFF else -1
    return high_ends >= 0


def nul_escape(raw: bytes) -> bool:
    """Whether a string in the raw JSON holds U+0000."""
    return any(match[1] == b"0000" for match in _ESCAPE.finditer(raw))


def well_formed(raw: bytes) -> bool:
    """Whether the bytes are one JSON value (RFC 8259). Lone surrogates are allowed; nesting too deep to tell is
    believed, because PostgreSQL will look at it anyway."""
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except RecursionError:
        return True
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            json.loads(raw.decode(errors="replace"), parse_constant=_not_json)
        except RecursionError:
            return True
        except ValueError:
            return False
    return True


def escaped(text: str) -> bytes:
    """The text as a field in UTF-8 (COPY, "Text Format"), for a line that `unquoted` goes over."""
    data = text.encode()
    for character, spelled in _SPELLED:
        if character in data:
            data = data.replace(character, spelled)
    return NULL_TEXT if data == NULL else data


_SPELLED = (
    (b"\\", b"\\\\"), (b"\t", b"\\t"), (b"\n", b"\\n"), (b"\r", b"\\r"), (QUOTE, b"\\001"), (b'"', QUOTE)
)  # fmt: skip


def special(raw: bytes) -> bool:
    """Whether raw JSON values have an escape that is `hard`, or wants to be made `easy`. All others mean the same to COPY."""
    return b"\\" in raw and _SPECIAL(raw) is not None  # most have none at all, and one byte is found ten times as fast


def hard(raw: bytes) -> bool:
    r"""Whether raw JSON values have an escape that COPY reads otherwise: \u."""
    return special(raw) and b"\\u" in raw.replace(rb"\\", b"")


def easy(raw: bytes) -> bytes:
    r"""Raw JSON strings, none of them `hard`, for a line that `unquoted` goes over: \" must not be taken for a string's end."""
    return raw.replace(rb"\\", _PAIR).replace(b'\\"', QUOTE).replace(_PAIR, rb"\\")


def unquoted(lines: bytes) -> bytes:
    """The same without the quotes of JSON's strings."""
    plain = lines.replace(b'"', b"")
    return plain.replace(QUOTE, b'"') if QUOTE in plain else plain


def _not_json(name: str) -> None:
    raise ValueError(name)
