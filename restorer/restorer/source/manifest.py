"""What a backup says about itself: counts and checksums in manifest.json, _manifest.json or metadata.json.

Shapes: {"tables": {"users": {"count": 3, "sha256": "…"}}}, {"tables": {"users": 3}}, {"users": 3},
{"tables": [{"name": "users", "count": 3, "sha256": "…", "file": "users.json"}]} ("files" for "tables" too).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

NAMES = ("manifest.json", "_manifest.json", "metadata.json", "_metadata.json")
_LONGEST = 16 * 1024 * 1024  # bytes; a longer file is no manifest
_COUNTS = ("count", "records", "recordCount", "record_count", "rows", "rowCount", "row_count")
_SUMS = ("sha256", "SHA256", "checksum", "hash")
_NAMES = ("name", "table", "tableName", "table_name", "model")
_FILES = ("file", "filename", "fileName", "path")
_HEX = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")


class Entry(msgspec.Struct, frozen=True):
    """One table's line: what is not said is None or ""."""

    name: str
    count: int | None = None
    sha256: str = ""
    file: str = ""


def is_manifest(path: Path) -> bool:
    """By its name, and because it is an object: a table called `metadata` is an array."""
    if path.name not in NAMES:
        return False
    try:
        with path.open("rb") as f:
            return f.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
    except OSError:
        return True


def find_manifest(folder: Path) -> Path | None:
    """The folder's manifest, if it has one."""
    return next((p for name in NAMES if (p := folder / name).is_file() and is_manifest(p)), None)


def read_manifest(path: Path) -> tuple[list[Entry], bool]:
    """The manifest's tables, and whether they stand under a key that says so (else they may be anything).

    Raises ValueError with what is wrong (no value of the file in it).
    """
    if path.stat().st_size > _LONGEST:
        raise ValueError("it is too long for a manifest")
    try:
        told = msgspec.json.decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise ValueError("it is not JSON") from None
    if not isinstance(told, dict):
        raise ValueError("it is not an object")
    for key in ("tables", "files", "models", "counts"):
        if isinstance(told.get(key), dict | list):
            return _entries(told[key]), True
    return _entries(told), False


def _entries(told: dict[str, Any] | list[Any]) -> list[Entry]:
    if isinstance(told, dict):
        return [e for name, value in told.items() if (e := _entry(name, value)) is not None]
    named = ((_first(v, _NAMES + _FILES, str), v) for v in told if isinstance(v, dict))
    return [_entry(name, value) or Entry(name) for name, value in named if name]


def _entry(name: str, value: Any) -> Entry | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Entry(name, value)
    if isinstance(value, str):
        match = _HEX.fullmatch(value)
        return Entry(name, None, match[1].lower()) if match else None
    if not isinstance(value, dict):
        return None
    count = _first(value, _COUNTS, int)
    sum_ = _HEX.fullmatch(_first(value, _SUMS, str) or "")
    file = _first(value, _FILES, str) or ""
    if count is None and sum_ is None and not file:
        return None
    return Entry(name, count, sum_[1].lower() if sum_ else "", file)


def _first(value: dict[str, Any], keys: tuple[str, ...], kind: type) -> Any:
    return next((value[k] for k in keys if isinstance(value.get(k), kind) and not isinstance(value[k], bool)), None)
