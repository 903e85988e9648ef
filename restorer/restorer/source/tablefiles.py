"""Which files of a folder hold tables, and how: by suffix, and by what they begin with."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from restorer.errors import Refused
from restorer.model import Compression, Layout, TableFile
from restorer.source.document import all_members
from restorer.source.filecheck import ends
from restorer.source.manifest import is_manifest
from restorer.source.scanner import ScanError, pairs
from restorer.source.stream import BrokenFile

Format = Literal["Auto", "JSON", "NDJSON"]
_COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst"}
_KINDS = {".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson"}


def dissect(name: str) -> tuple[str, str, Compression] | None:
    """A file's name -> (table, "json" or "ndjson", compression); None for what is no table file by its name."""
    if name.startswith("."):
        return None
    stem, suffix = os.path.splitext(name)
    compression = _COMPRESSIONS.get(suffix.lower(), "")
    if compression:
        stem, suffix = os.path.splitext(stem)
    kind = _KINDS.get(suffix.lower())
    return (stem, kind, compression) if kind and stem else None


def size_on_disk(path: str) -> int:
    """Bytes; 0 when the file is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def candidates(folder: Path) -> list[Path]:
    """The files in `folder` whose names say that they may hold tables, by name; links that lead nowhere and pipes too, so
    that the preflight speaks of them."""
    return sorted(
        p for p in folder.iterdir() if dissect(p.name) and not p.is_dir() and not (p.is_file() and is_manifest(p))
    )


def tables_in(path: Path, root: Path, format: Format) -> Iterator[TableFile]:
    """The tables of one file. Raises Refused when it leads out of `root`."""
    parts = dissect(path.name)
    assert parts is not None
    name, kind, compression = parts
    real = path.resolve()
    if not real.is_relative_to(root):
        raise Refused(f"{path} is a link that leads out of the backup", "copy the file into the backup")
    size = size_on_disk(str(path))
    layout = _layout(str(path), kind, compression, format)
    if layout == "document":
        yield from _members(str(path), compression)
    else:
        yield TableFile(name, str(path), size, layout, compression)


def _layout(path: str, kind: str, compression: Compression, format: Format) -> Layout:
    if kind == "ndjson" or format == "NDJSON":
        return "ndjson"
    try:
        head, _, _ = ends(path, compression)
    except OSError:
        return "array"  # the preflight says what is wrong with it
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")
    if not begin.startswith(b"{"):
        return "array"
    try:
        found, alone = all_members(path, compression)
    except BrokenFile:
        # Newline-delimited with a broken first line, or a document that is cut off.
        line = begin.partition(b"\n")[0].rstrip()
        return "ndjson" if format == "Auto" and len(line) < len(begin) and line.endswith(b"}") else "document"
    if not alone:
        return "ndjson" if format == "Auto" else "array"
    text = begin.rstrip(b" \t\r\n")
    if format == "Auto" and b"\n" not in text and (not found or _is_record(text)):
        return "ndjson"  # a table of one record
    return "document" if found else "array"


def _is_record(text: bytes) -> bool:
    """One object on one line: a record has an id, a document of tables has not."""
    try:
        values = pairs(text)
    except ScanError:
        return False
    return any(values.get(key, b"[")[:1] not in b"[{" for key in ("id", "_id", "uuid"))


def _members(path: str, compression: Compression) -> Iterator[TableFile]:
    try:
        found, _ = all_members(path, compression)
    except BrokenFile:
        # Not whole: named, so that preflight and completeness speak of it, never read.
        yield TableFile(Path(path).name.split(".")[0], path, os.stat(path).st_size, "document", compression)
        return
    tables = [m for m in found if m.first in "{]"]
    last = [m.path[-1] for m in tables]
    for member in tables:
        name = member.path[-1] if last.count(member.path[-1]) == 1 else ".".join(member.path)
        yield TableFile(name, path, member.size, "document", compression, member.path)
