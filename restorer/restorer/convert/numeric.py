"""Numbers: integers in all their spellings, numeric without a float in between, floats, oid, money."""

from __future__ import annotations

import re
import struct
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation

from restorer.convert.field import Text, Unfit, invalid, kind, mismatch, out_of_range, plain, string
from restorer.model import ColumnType

INTEGERS = {"int2": 1 << 15, "int4": 1 << 31, "int8": 1 << 63}
_DECIMAL = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
# Spellings that newer servers read and older ones refuse (0x1F and 1_000 since PostgreSQL 16): the server decides.
_LITERAL = re.compile(r"\s*[+-]?(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9_]+(?:\.[0-9_]*)?)\s*", re.ASCII)
_NOT_FINITE = re.compile(r"\s*[+-]?(?:nan|inf|infinity)\s*", re.IGNORECASE | re.ASCII)
_HEX_FLOAT = re.compile(r"\s*[+-]?0x[0-9a-f.]+(?:p[+-]?[0-9]+)?\s*", re.IGNORECASE | re.ASCII)
_MONEY = re.compile(r"-?\$?[0-9]{1,3}(?:,?[0-9]{3})*(?:\.[0-9]{1,2})?", re.ASCII)
_SPACE = " \t\n\v\f\r"  # what isspace() is to PostgreSQL's input functions


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


def integer_text(name: str) -> Text:
    bound = INTEGERS[name]

    def convert(raw: bytes) -> str:
        text = _number_text(raw, name)
        value = _whole(text, name)
        if value is None:
            return text
        if not -bound <= value < bound:
            raise out_of_range(name)
        return str(value)

    return convert


def oid_text(raw: bytes) -> str:
    text = _number_text(raw, "oid")
    if raw[0] == 0x22 and not text.strip(_SPACE).endswith("n"):
        return text
    value = _whole(text, "oid")
    if value is None or not 0 <= value < 1 << 32:
        raise out_of_range("oid")
    return str(value)


def sure_numeric(column_type: ColumnType) -> str:
    """Digits enough and not too many, as a number or (as Prisma writes it) as a string."""
    digits, scale = 1000, 1000
    if column_type.precision is not None:
        scale = column_type.scale or 0
        digits = column_type.precision - scale
        if scale < 0 or digits <= 0:
            return ""
    number = rf"-?[0-9]{{1,{digits}}}" + (rf"(?:\.[0-9]{{1,{scale}}})?" if scale else "")
    return f'{number}|"{number}"'


def numeric_text(column_type: ColumnType) -> Text:
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


def float_text(name: str) -> Text:
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


def money_text(raw: bytes) -> str:
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
