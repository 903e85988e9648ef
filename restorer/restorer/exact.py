"""Values by type: for each column type the text that PostgreSQL's input function gets, and which raw JSON is that text.

`rule(type)` gives a Rule. The type decides, never the look of the value: `"123"`, `123`, `123.0` and `"123n"` are the
same bigint. What the rules refuse, PostgreSQL would refuse or store as something else; where only the server can
tell (inet, ranges, tsvector, extensions), a string passes through to it.
"""

from __future__ import annotations

import re
import struct
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Literal, NamedTuple

from restorer.compound import array_text, bytea_text, json_text, vector_text
from restorer.dates import LOOSE, SURE, date_text
from restorer.field import Text, Unfit, invalid, kind, mismatch, out_of_range, plain, string
from restorer.model import ColumnType

#: verbatim   any plain JSON value may go as it stands, PostgreSQL reads it as it is meant or refuses it
#: checked    only values that match `loose` may
#: never      each value is converted
#: json       the whole JSON value is the text; these columns come last
Way = Literal["verbatim", "checked", "never", "json"]


class Rule(NamedTuple):
    """How one type is written. `loose` and `sure` are regular expressions over a raw JSON value other than null
    (ASCII sources, no groups): `loose` is what may go verbatim, `sure` what is certain to be a value of the type and
    to be stored as it stands; "" is nothing. `text` converts any value, or raises Unfit."""

    way: Way
    text: Text
    sure: str = ""
    loose: str = ""


_INTEGERS = {"int2": 1 << 15, "int4": 1 << 31, "int8": 1 << 63}
_STRING = r'"[^"\\\n]*"'
_DECIMAL = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
# Spellings that newer servers read and older ones refuse (0x1F and 1_000 since PostgreSQL 16): the server decides.
_LITERAL = re.compile(r"\s*[+-]?(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9_]+(?:\.[0-9_]*)?)\s*", re.ASCII)
_NOT_FINITE = re.compile(r"\s*[+-]?(?:nan|inf|infinity)\s*", re.IGNORECASE | re.ASCII)
_HEX_FLOAT = re.compile(r"\s*[+-]?0x[0-9a-f.]+(?:p[+-]?[0-9]+)?\s*", re.IGNORECASE | re.ASCII)
_UUID = re.compile(r"\{(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}\}|(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}")
_MONEY = re.compile(r"-?\$?[0-9]{1,3}(?:,?[0-9]{3})*(?:\.[0-9]{1,2})?", re.ASCII)
_BITS = re.compile(r"[bB]?[01]*|[xX][0-9a-fA-F]*")
_BOOLEAN = re.compile(
    r"\s*(?:t|tr|tru|true|y|ye|yes|on|1|f|fa|fal|fals|false|n|no|of|off|0)\s*", re.IGNORECASE | re.ASCII
)
_SPACE = " \t\n\v\f\r"  # what isspace() is to PostgreSQL's input functions


def rule(column_type: ColumnType) -> Rule:
    """The rule of a type. An unknown type takes strings, which the server reads."""
    name = column_type.name
    if column_type.element is not None:
        return Rule("checked", array_text(column_type, rule(column_type.element).text), loose=_STRING)
    if column_type.kind == "e":
        return Rule("verbatim", _enum(column_type), _one_of(column_type.labels))
    if column_type.kind in "crm":
        return Rule("checked", _literal(name), loose=_STRING)
    if name in _INTEGERS:
        digits = len(str(_INTEGERS[name])) - 1
        return Rule("verbatim", _integer(name), rf'-?[0-9]{{1,{digits}}}|"-?[0-9]{{1,{digits}}}"')
    if name in ("text", "varchar", "bpchar", "citext"):
        limit = column_type.length
        sure = rf'"[^"\\\n]{{0,{limit}}}"' if limit is not None else rf"{_STRING}|-?[0-9][0-9.eE+-]*|true|false"
        return Rule("verbatim", _characters(name, limit), sure)
    if name == "numeric":
        return Rule("verbatim", _numeric(column_type), _sure_numeric(column_type))
    if name in ("float4", "float8"):
        digits = 20 if name == "float4" else 100
        return Rule("verbatim", _float(name), rf"-?[0-9]{{1,{digits}}}(?:\.[0-9]{{1,{digits}}})?")
    if name == "bool":
        return Rule("verbatim", _boolean, "true|false")
    if name == "uuid":
        return Rule("verbatim", _uuid, r'"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"')
    if name in SURE:
        return Rule("checked", date_text(name), SURE[name], LOOSE[name])
    if name in ("json", "jsonb"):
        return Rule("json", json_text(name))
    if name in ("inet", "macaddr", "tsvector", "jsonpath"):
        return Rule("verbatim", _scalar(name), _STRING)
    if name == "oid":
        return Rule("checked", _oid, loose=_STRING)
    never = {"bytea": bytea_text, "money": _money, "bit": _bits(column_type), "varbit": _bits(column_type)}
    never |= {"xml": _scalar(name), "char": _single_byte, "name": _name}
    if name in never:
        return Rule("never", never[name])
    if name in ("vector", "halfvec"):
        return Rule("checked", vector_text(name), loose=_STRING)
    return Rule("checked", _literal(name), _STRING, _STRING)


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


def _number_text(raw: bytes, name: str) -> str:
    """The text of a number or of a string that may be one."""
    if raw[0] == 0x22:
        return string(raw)
    if kind(raw) != "a number":
        raise mismatch(raw, name)
    return plain(raw)


def _whole(text: str, name: str) -> int | None:
    """The integer that the text spells (1.0 and 1e3 too); None where only the server can tell."""
    digits = text.strip(_SPACE)
    if digits.endswith("n"):  # how BigInt is often written: "123n"
        digits = digits[:-1]
        if not _INTEGER.fullmatch(digits):
            raise invalid(name)
    if _INTEGER.fullmatch(digits):
        if len(digits) > 1000:
            raise out_of_range(name)
        return int(digits)
    if not _DECIMAL.fullmatch(digits):
        if _LITERAL.fullmatch(digits):
            return None
        raise invalid(name)
    try:
        number = Decimal(digits)
    except InvalidOperation:  # an exponent past what Decimal holds
        raise out_of_range(name) from None
    if number and number.adjusted() > 30:
        raise out_of_range(name)
    if number and (number.adjusted() < 0 or number != number.to_integral_value(context=Context(prec=40))):
        raise invalid(name)
    return int(number) if number else 0


def _integer(name: str) -> Text:
    bound = _INTEGERS[name]

    def convert(raw: bytes) -> str:
        text = _number_text(raw, name)
        value = _whole(text, name)
        if value is None:
            return text
        if not -bound <= value < bound:
            raise out_of_range(name)
        return str(value)

    return convert


def _oid(raw: bytes) -> str:
    text = _number_text(raw, "oid")
    if raw[0] == 0x22 and not text.strip(_SPACE).endswith("n"):
        return text
    value = _whole(text, "oid")
    if value is None or not 0 <= value < 1 << 32:
        raise out_of_range("oid")
    return str(value)


def _sure_numeric(column_type: ColumnType) -> str:
    if column_type.precision is None:
        return r"-?[0-9]{1,1000}(?:\.[0-9]{1,1000})?"
    scale = column_type.scale or 0
    if not 0 <= scale < column_type.precision:
        return ""
    fraction = rf"(?:\.[0-9]{{1,{scale}}})?" if scale else ""
    return rf"-?[0-9]{{1,{column_type.precision - scale}}}{fraction}"


def _numeric(column_type: ColumnType) -> Text:
    """Exact text, never a float. With a precision PostgreSQL rounds half away from zero to the scale and refuses what
    then has too many digits (Numeric Types, "Arbitrary Precision Numbers")."""
    precision, scale = column_type.precision, column_type.scale or 0

    def convert(raw: bytes) -> str:
        text = _number_text(raw, "numeric")
        if not _DECIMAL.fullmatch(text):
            if _NOT_FINITE.fullmatch(text):
                if precision is not None and "a" not in text.lower():
                    raise out_of_range(f"numeric({precision},{scale})")  # only NaN fits any precision
                return text
            if _LITERAL.fullmatch(text):
                return text
            raise invalid("numeric")
        try:
            number = Decimal(text.strip(_SPACE))
        except InvalidOperation:
            raise out_of_range("numeric") from None
        if not number:
            return text
        if number.adjusted() > 131_071:
            raise out_of_range("numeric")
        if precision is not None and number.adjusted() >= precision - scale - 1:
            if number.adjusted() >= precision - scale:
                raise out_of_range(f"numeric({precision},{scale})")
            rounded = number.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, Context(prec=precision + 2))
            if rounded and rounded.adjusted() >= precision - scale:
                raise out_of_range(f"numeric({precision},{scale})")
        return text

    return convert


def _float(name: str) -> Text:
    """Numbers by their text, so that the server rounds, not Python; what would be infinite or vanish is refused, as
    PostgreSQL does (Numeric Types, "Floating-Point Types")."""

    def convert(raw: bytes) -> str:
        text = _number_text(raw, name)
        if not _DECIMAL.fullmatch(text):
            if _NOT_FINITE.fullmatch(text) or _HEX_FLOAT.fullmatch(text):
                return text
            raise invalid(name)
        value = float(text)
        if name == "float4":
            try:
                value = float(struct.unpack("f", struct.pack("f", value))[0])
            except OverflowError:
                raise out_of_range(name) from None
        mantissa = text.lower().partition("e")[0]
        if value in (float("inf"), float("-inf")) or (value == 0 and mantissa.strip(_SPACE + "+-.0")):
            raise out_of_range(name)
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


def _money(raw: bytes) -> str:
    """Money is read by lc_monetary, which sessions set to C: a dot before the cents."""
    text = _number_text(raw, "money")
    if raw[0] == 0x22 and _MONEY.fullmatch(text):
        return text
    if not _DECIMAL.fullmatch(text):
        raise invalid("money")
    try:
        amount = Decimal(text.strip(_SPACE))
    except InvalidOperation:
        raise out_of_range("money") from None
    if amount and not -30 < amount.adjusted() < 18:
        raise out_of_range("money")
    cents = amount.scaleb(2, Context(prec=1000))
    if cents != (whole := cents.to_integral_value(ROUND_HALF_UP, Context(prec=40))):
        raise Unfit("OutOfRange", "22003", "type money has two decimals, no more")
    if not -(1 << 63) <= int(whole) < 1 << 63:
        raise out_of_range("money")
    return f"{whole.scaleb(-2, Context(prec=40)):f}"


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
