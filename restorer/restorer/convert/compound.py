"""Values that hold values: arrays, json, bytea in its many spellings, vectors."""

from __future__ import annotations

import base64
import binascii
import re

import msgspec

from restorer.convert.field import NULL, Text, Unfit, invalid, lone_surrogate, mismatch, nul_escape, plain, string
from restorer.model import ColumnType

_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw]).decode
_HEX = re.compile(r"\\x(?:[0-9a-fA-F]{2})*")
_SUSPICIOUS = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_SPACES = bytes.maketrans(b"\r\n", b"  ")


def json_text(name: str) -> Text:
    """Any value as it stands. Newlines, which JSON only has between tokens, become spaces. jsonb refuses U+0000 and lone
    surrogates; json keeps their escapes (JSON Types)."""

    def convert(raw: bytes) -> str:
        if name == "jsonb" and _SUSPICIOUS.search(raw):
            if nul_escape(raw):
                raise Unfit("NulCharacter", "22P05", "the character U+0000 cannot be stored in jsonb")
            if lone_surrogate(raw):
                raise Unfit("LoneSurrogate", "22P05", "half of a surrogate pair cannot be stored in jsonb")
        return plain(raw.translate(_SPACES))

    return convert


def array_text(column_type: ColumnType, element: Text) -> Text:
    """A JSON list, nested for more dimensions, as an array literal (Arrays, "Array Input and Output Syntax"); a string
    is taken for a literal. An element that is a list belongs to a json element, otherwise to the next dimension."""
    inner = column_type.element
    assert inner is not None
    name, opaque, delimiter = inner.name, inner.name in ("json", "jsonb"), ";" if inner.name == "box" else ","

    def convert(raw: bytes) -> str:
        if raw[0] == 0x22:
            text = string(raw)
            if text.lstrip()[:1] not in ("{", "["):
                raise Unfit("InvalidValue", "22P02", f"neither a list nor an array literal of {name}")
            return text
        if raw[0] != 0x5B:
            raise mismatch(raw, f"{name}[]")
        return literal(raw)[0]

    def literal(raw: bytes) -> tuple[str, tuple[int, ...]]:
        """(literal, length of each dimension)."""
        parts: list[str] = []
        shapes: set[tuple[int, ...]] = set()
        for item in _elements(raw):
            value = bytes(item)
            if value == NULL:
                parts.append("NULL")
                shapes.add(())
            elif value[0] == 0x5B and not opaque:
                text, shape = literal(value)
                parts.append(text)
                shapes.add(shape)
            else:
                text = element(value)
                parts.append('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
                shapes.add(())
        if len(shapes) > 1 or (shapes and 0 in next(iter(shapes))):
            raise Unfit("InvalidValue", "2202E", f"nested lists of unequal length are no array of {name}")
        return "{" + delimiter.join(parts) + "}", (len(parts), *next(iter(shapes), ()))

    return convert


def vector_text(name: str) -> Text:
    """pgvector: its literal is what JSON calls a list of numbers."""

    def convert(raw: bytes) -> str:
        if raw[0] == 0x22:
            return string(raw)
        if raw[0] != 0x5B:
            raise mismatch(raw, name)
        return plain(raw)

    return convert


def bytea_text(raw: bytes) -> str:
    r"""Base64 as Prisma writes Bytes, `\x` and hex digits, Node's {"type":"Buffer","data":[…]}, or a Uint8Array's
    {"0":222,"1":173}."""
    if raw[0] == 0x22:
        text = string(raw)
        if text.startswith("\\x"):
            if not _HEX.fullmatch(text):
                raise invalid("bytea")
            return text
        try:
            return "\\x" + base64.b64decode(text, validate=True).hex()
        except (binascii.Error, ValueError):
            raise invalid("bytea") from None
    if raw[0] != 0x7B:
        raise mismatch(raw, "bytea")
    try:
        value = msgspec.json.decode(raw)
        if value.get("type") == "Buffer" and value.keys() == {"type", "data"}:
            if isinstance(value["data"], str):
                return "\\x" + base64.b64decode(value["data"], validate=True).hex()
            numbers = value["data"]
        else:
            numbers = [value[str(index)] for index in range(len(value))]
        if any(type(number) is not int for number in numbers):
            raise invalid("bytea")
        return "\\x" + bytes(numbers).hex()
    except (KeyError, TypeError, ValueError, RecursionError, msgspec.DecodeError):
        raise invalid("bytea") from None


def _elements(raw: bytes) -> list[msgspec.Raw]:
    try:
        return _ELEMENTS(raw)
    except RecursionError:
        raise Unfit("InvalidValue", "54001", "a list nested too deeply for an array") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        if lone_surrogate(raw):
            raise Unfit("LoneSurrogate", "22P05", "half of a surrogate pair is not a character") from None
        raise Unfit("InvalidJSON", "22P02", "a list that is not JSON") from None
