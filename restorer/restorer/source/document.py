"""Several tables in one document: `{"users": […], "data": {"posts": […]}}` -> where each array stands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from restorer.errors import LoadFailed
from restorer.model import Compression, TableFile
from restorer.source.arrays import ArrayReader
from restorer.source.decoding import Decoding
from restorer.source.scanner import ScanError, ValueScanner, key_text, value_end
from restorer.source.stream import READ, BrokenFile, Source, Window

_LONGEST_KEY = 1024 * 1024  # bytes
_MAX_RECORD = 64 * 1024 * 1024


class Member(msgspec.Struct, frozen=True):
    """An array in a document. `path`: the keys that lead to it; `offset` of its `[` and `size` up to its `]`, in bytes
    of the decompressed stream; `first`: the first byte of its first element, `]` when it is empty."""

    path: tuple[str, ...]
    offset: int
    size: int
    first: str


def members(window: Window) -> Iterator[Member]:
    """The arrays of the object that begins at the window, in its order, those in nested objects too.

    Memory is bounded by the window and the largest element. Then the window stands just past the object.
    Raises BrokenFile when the object cannot be followed to its end.
    """
    path: list[str] = []
    if window.significant() != b"{":
        raise _broken(window, "no object")
    window.pos += 1
    fresh = True  # just past a `{`
    while True:
        char = window.significant()
        if char == b"}":
            window.pos += 1
            if not path:
                return
            path.pop()
            fresh = False
            continue
        if not fresh:
            if char != b",":
                raise _broken(window, "no comma and no } after a member" if char else "the document does not end")
            window.pos += 1
            window.significant()
        key = _key(window)
        if window.significant() != b":":
            raise _broken(window, "no colon after a key")
        window.pos += 1
        char = window.significant()
        fresh = char == b"{"
        if fresh:
            window.pos += 1
            path.append(key)
        elif char == b"[":
            yield _array(window, (*path, key))
        else:
            _skip(window)


def _key(window: Window) -> str:
    while window.buf[window.pos : window.pos + 1] == b'"':
        end = value_end(window.buf, window.pos)
        if end != -1:
            raw = window.buf[window.pos : end]
            window.pos = end
            try:
                return key_text(raw)
            except ValueError:
                break
        if len(window.buf) - window.pos > _LONGEST_KEY or not window.more(READ):
            break
    raise _broken(window, "no key")


def _array(window: Window, path: tuple[str, ...]) -> Member:
    offset = window.offset
    window.pos += 1
    first = window.significant()
    reader = ArrayReader(
        window, Decoding(), size=4 * READ, limit=_MAX_RECORD, ordinal=1, inside=False, bounded=False, table=path[-1]
    )
    for _ in reader.pieces():
        pass
    return Member(path, offset, window.offset - offset, first.decode("latin-1"))


def _skip(window: Window) -> None:
    scanner = ValueScanner()
    try:
        while (end := scanner.feed(window.buf, window.pos)) == -1:
            window.pos = len(window.buf)
            if not window.more(READ):
                raise _broken(window, "the document does not end")
    except ScanError as e:
        raise _broken(window, e.what) from None
    window.pos = end


def _broken(window: Window, what: str) -> BrokenFile:
    return BrokenFile(window.source.path, window.source.problem or what, window.offset, 0, "")


def all_members(path: str, compression: Compression) -> tuple[tuple[Member, ...], bool]:
    """The arrays of the file's first object, and whether nothing follows it (more would make it NDJSON).

    The last few answers are kept while size and time of the file stay the same. Raises BrokenFile.
    """
    try:
        told = os.stat(path)
    except OSError as e:
        raise LoadFailed(f"{path} is gone", "was the backup moved while it was being read?") from e
    return _all_members(path, compression, told.st_size, told.st_mtime_ns)


@lru_cache(maxsize=64)
def _all_members(path: str, compression: Compression, size: int, mtime: int) -> tuple[tuple[Member, ...], bool]:
    with Source(path, compression) as source:
        window = Window(source)
        window.skip_bom()
        found = tuple(members(window))
        return found, window.significant() == b""


def array_start(file: TableFile) -> int:
    """Where the `[` of a member's array stands. Raises LoadFailed when the document no longer has it."""
    found, _ = all_members(file.path, file.compression)
    for member in found:
        if member.path == file.member:
            return member.offset
    raise LoadFailed(f"{file.path} has no array {'.'.join(file.member)}", "was the backup changed?", table=file.name)
