"""Values by type: for each column type the text that PostgreSQL's input function gets, and which raw JSON is that text.

`rule(type)` gives a Rule. The type decides, never the look of the value: `"123"`, `123`, `123.0` and `"123n"` are the
same bigint. What the rules refuse, PostgreSQL would refuse or store as something else; where only the server can
tell (inet, ranges, tsvector, extensions), a string passes through to it.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from restorer.convert.compound import array_text, bytea_text, json_text, vector_text
from restorer.convert.dates import LOOSE, SURE, date_text
from restorer.convert.field import Text, Unfit, invalid, mismatch, plain, string
from restorer.convert.numeric import (
    INTEGERS,
    float_text,
    integer_text,
    money_text,
    numeric_text,
    oid_text,
    sure_numeric,
)
from restorer.model import ColumnType

#: verbatim   any plain JSON value may go as it stands, PostgreSQL reads it as it is meant or refuses it
#: checked    only values that match `loose` may
#: never      each value is converted
#: json       the whole JSON value is the text; these columns come last
Way = Literal["verbatim", "checked", "never", "json"]


class Rule(NamedTuple):
    """How one type is written. `loose` and `sure` are regular expressions over a raw JSON value other than null
    (ASCII sources, no groups): `loose` is what may go verbatim, `sure` what is certain to be a value of the type and
    to be stored as it stands; "" is nothing. `free`: whatever may go verbatim is a value of the type, no need to look.
    `server`: only the server can tell whether a string is a value of the type (of an array its element's rule says so).
    `alike`: characters (of a checked type in `loose`, else in `sure`) of which one is as good as 0 wherever it stands.
    `text` converts any value, or raises Unfit."""

    way: Way
    text: Text
    sure: str = ""
    loose: str = ""
    free: bool = False
    alike: str = ""
    server: bool = False


_DIGITS = "123456789"
_STRING = r'"[^"\\\n]*"'
_UUID = re.compile(r"\{(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}\}|(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}")
_BITS = re.compile(r"[bB]?[01]*|[xX][0-9a-fA-F]*")
_BOOLEAN = re.compile(
    r"\s*(?:t|tr|tru|true|y|ye|yes|on|1|f|fa|fal|fals|false|n|no|of|off|0)\s*", re.IGNORECASE | re.ASCII
)


def rule(column_type: ColumnType) -> Rule:
    """The rule of a type. An unknown type takes strings, which the server reads."""
    name = column_type.name
    if column_type.element is not None:
        return Rule("checked", array_text(column_type, rule(column_type.element).text), loose=_STRING)
    if column_type.kind == "e":
        return Rule("verbatim", _enum(column_type), _one_of(column_type.labels))
    if column_type.kind in "crm":
        return Rule("checked", _literal(name), loose=_STRING, server=True)
    if name in INTEGERS:
        digits = len(str(INTEGERS[name])) - 1
        return Rule("verbatim", integer_text(name), rf'-?[0-9]{{1,{digits}}}|"-?[0-9]{{1,{digits}}}"')
    if name in ("text", "varchar", "bpchar", "citext"):
        limit = column_type.length
        sure = rf'"[^"\\\n]{{0,{limit}}}"' if limit is not None else rf"{_STRING}|-?[0-9][0-9.eE+-]*|true|false"
        return Rule("verbatim", _characters(name, limit), sure, free=limit is None)
    if name == "numeric":
        return Rule("verbatim", numeric_text(column_type), sure_numeric(column_type))
    if name in ("float4", "float8"):
        digits = 20 if name == "float4" else 100
        return Rule("verbatim", float_text(name), rf"-?[0-9]{{1,{digits}}}(?:\.[0-9]{{1,{digits}}})?")
    if name == "bool":
        return Rule("verbatim", _boolean, "true|false")
    if name == "uuid":
        sure = r'"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"'
        return Rule("verbatim", _uuid, sure, alike=f"{_DIGITS}abcdefABCDEF")
    if name in SURE:
        return Rule("checked", date_text(name), SURE[name], LOOSE[name], alike=_DIGITS if name != "date" else "")
    if name in ("json", "jsonb"):
        return Rule("json", json_text(name))
    if name in ("inet", "macaddr", "tsvector", "jsonpath"):
        return Rule("verbatim", _scalar(name), _STRING, server=True)
    if name == "oid":
        return Rule("checked", oid_text, loose=_STRING)
    never = {"bytea": bytea_text, "money": money_text, "bit": _bits(column_type), "varbit": _bits(column_type)}
    never |= {"xml": _scalar(name), "char": _single_byte, "name": _name}
    if name in never:
        return Rule("never", never[name], server=name == "xml")
    if name in ("vector", "halfvec"):
        return Rule("checked", vector_text(name), loose=_STRING, server=True)
    return Rule("checked", _literal(name), _STRING, _STRING, server=True)


def only_the_server_can_read(column_type: ColumnType) -> bool:
    """Whether a string may turn out not to be a value of the type although nothing here says so: its syntax is the server's
    own, or a domain may have a CHECK. Of an array, whether its elements may."""
    if column_type.domain:
        return True
    return only_the_server_can_read(column_type.element) if column_type.element else rule(column_type).server


def _one_of(labels: tuple[str, ...]) -> str:
    """Labels as raw JSON, those that JSON spells without an escape."""
    return "|".join(
        f'"{re.escape(label)}"' for label in labels if label.isascii() and label.replace("_", "a").isalnum()
    )


def _literal(name: str) -> Text:
    """Only strings, in the type's own spelling."""

    def convert(raw: bytes) -> str:
        if raw[0] != 0x22:
            raise mismatch(raw, name)
        return string(raw)

    return convert


def _scalar(name: str) -> Text:
    """Strings, and numbers and booleans by their JSON text; the server reads them."""

    def convert(raw: bytes) -> str:
        if raw[0] == 0x22:
            return string(raw)
        if raw[0] in b"{[":
            raise mismatch(raw, name)
        return plain(raw)

    return convert


def _characters(name: str, limit: int | None) -> Text:
    """Any JSON value: a string is its characters, anything else its JSON text. Blanks past the limit are cut by
    PostgreSQL, other characters are refused (Character Types)."""

    def convert(raw: bytes) -> str:
        text = string(raw) if raw[0] == 0x22 else plain(raw)
        if limit is not None and len(text) > limit and text[limit:].strip(" "):
            raise Unfit("TooLong", "22001", f"too long for type {name}({limit})")
        return text

    return convert


def _enum(column_type: ColumnType) -> Text:
    labels, name = frozenset(column_type.labels), column_type.name

    def convert(raw: bytes) -> str:
        if raw[0] in b"{[":
            raise mismatch(raw, name)
        text = string(raw) if raw[0] == 0x22 else plain(raw)
        if text not in labels:
            raise Unfit("InvalidEnum", "22P02", f"not a label of enum {name}")
        return text

    return convert


def _boolean(raw: bytes) -> str:
    if raw[0] in b"{[":
        raise mismatch(raw, "boolean")
    text = string(raw) if raw[0] == 0x22 else plain(raw)
    if not _BOOLEAN.fullmatch(text):
        raise invalid("boolean")
    return text


def _uuid(raw: bytes) -> str:
    if raw[0] != 0x22:
        raise mismatch(raw, "uuid")
    text = string(raw)
    if not _UUID.fullmatch(text):
        raise invalid("uuid")
    return text


def _bits(column_type: ColumnType) -> Text:
    name, limit = column_type.name, column_type.length

    def convert(raw: bytes) -> str:
        if raw[0] != 0x22:
            raise mismatch(raw, name)
        text = string(raw)
        if not _BITS.fullmatch(text):
            raise invalid(name)
        bits = 4 * (len(text) - 1) if text[:1] in ("x", "X") else len(text.lstrip("bB"))
        if limit is not None and (bits > limit or (name == "bit" and bits != limit)):
            raise Unfit("TooLong", "22026" if name == "bit" else "22001", f"not the length of type {name}({limit})")
        return text

    return convert


def _single_byte(raw: bytes) -> str:
    """The type "char": PostgreSQL would cut a longer text to its first byte without a word."""
    text = _scalar('"char"')(raw)
    if len(text.encode()) > 1:
        raise Unfit("TooLong", "22001", 'more than the one byte of type "char"')
    return text


def _name(raw: bytes) -> str:
    """The type name: PostgreSQL would cut a longer text to 63 bytes without a word."""
    text = _scalar("name")(raw)
    if len(text.encode()) > 63:
        raise Unfit("TooLong", "22001", "more than the 63 bytes of type name")
    return text
