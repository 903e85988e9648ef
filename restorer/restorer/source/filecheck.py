"""Is one table file whole, judged by its head and tail; compressed files are read through once."""

from __future__ import annotations

import codecs
import os
import re
import stat
from functools import lru_cache

import msgspec

from restorer.errors import RestoreError
from restorer.model import Compression, TableFile
from restorer.source.reader import BrokenFile, pieces
from restorer.source.scanner import ScanError, value_end
from restorer.source.stream import READ, Source

HEAD = 64 * 1024  # bytes looked at, at either end
_GARBAGE = re.compile(rb"[}\[]\s*\]\s*[^\s,}\]]")
CUT_LINE = "the last line is cut off"
_AGAIN = "take the backup again"


def check_file(file: TableFile) -> str | None:
    """None when `file` looks fine, else one line: the file, what is wrong with it, what to do. Bounded memory."""
    problem = _problem(file)
    return None if problem is None else f"{file.path}: {problem}"


def tail_problem(file: TableFile) -> str | None:
    """Whether the file is still being written or was cut off: what is wrong with its end, without remedy, or None."""
    try:
        head, tail, problem = ends(file.path, file.compression)
    except PermissionError:
        return None  # nobody knows; `check_file` tells, and no older snapshot is taken for it
    except OSError as e:
        return f"it cannot be read ({e.strerror})"
    if problem or not tail:
        return problem or "it is empty (0 bytes)"
    return None if _foreign(file, head) else _end(file, tail)


def ends(path: str, compression: Compression) -> tuple[bytes, bytes, str]:
    """The first and last HEAD bytes of the decompressed file, and what is wrong with the stream. Raises OSError."""
    told = os.stat(path)
    if not stat.S_ISREG(told.st_mode):
        raise OSError(0, "it is not a regular file")
    if compression:
        return _read_through(path, compression, told.st_size, told.st_mtime_ns)[:3]
    with open(path, "rb") as f:
        head = f.read(HEAD)
        f.seek(max(0, told.st_size - HEAD))
        return head, f.read(HEAD), ""


@lru_cache(maxsize=256)
def _read_through(path: str, compression: Compression, size: int, mtime: int) -> tuple[bytes, bytes, str, int]:
    head = tail = b""
    length = 0
    if size == 0:
        return b"", b"", "", 0
    with Source(path, compression) as source:
        while data := source.read(READ):
            if len(head) < HEAD:
                head += data[: HEAD - len(head)]
            length += len(data)
            tail = (tail + data)[-HEAD:]
        return head, tail, source.problem, length


def unpacked_bytes(file: TableFile) -> int:
    """The length of the decompressed file (which `check_file` has read through by then)."""
    told = os.stat(file.path)
    return _read_through(file.path, file.compression, told.st_size, told.st_mtime_ns)[3]


def _problem(file: TableFile) -> str | None:
    try:
        head, tail, damaged = ends(file.path, file.compression)
    except FileNotFoundError:
        return "it is missing: was the backup moved?"
    except RestoreError as e:
        return e.line()
    except OSError as e:
        return f"it cannot be read ({e.strerror}): check the file's mode and the volume"
    if damaged:
        return f"{damaged}: copy the file or {_AGAIN}"
    if not head:
        return f"it is empty (0 bytes): {_AGAIN}, or write [] for a table without records"
    if problem := _encoding(head):
        return problem
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")
    if file.layout == "document":
        return None if begin.startswith(b"{") else "the top level is not an object of arrays: set format JSON or NDJSON"
    problem = _lines_head(begin) if file.layout == "ndjson" else _array_head(begin)
    if problem:
        return problem
    if problem := _text(file):
        return problem
    if file.layout != "ndjson" and (problem := _end(file, tail)):
        return f"{problem}: {_AGAIN}"
    if len(tail) < HEAD:  # a small file is read exactly
        try:
            for _ in pieces(file):
                pass
        except BrokenFile as e:
            return f"{e.what} at byte {e.offset}, record {e.ordinal}: {_AGAIN}"
    return None


def _foreign(file: TableFile, head: bytes) -> bool:
    """Whether it is something else altogether: then its end tells nothing, and `check_file` says what it is."""
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")
    return _encoding(head) is not None or (file.layout == "array" and not begin.startswith(b"["))


def _encoding(head: bytes) -> str | None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or head[:2].count(0) == 1:
        return "it is UTF-16, not UTF-8: convert it (iconv -f UTF-16 -t UTF-8)"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head.lstrip(b" \t\r\n")[:4])
    except UnicodeDecodeError:
        return "it is not UTF-8 text: a compressed file needs its suffix (.gz, .zst)"
    return None


def _text(file: TableFile) -> str | None:
    """A bad byte in a record costs that record; when most of the first records have some, the file is not UTF-8."""
    try:
        first = next(pieces(file, window=HEAD), None)
    except BrokenFile:
        return None
    if first is None or first.oversized is not None:
        return None
    raws = [first.raw(i) for i in range(min(len(first), 200))]
    bad = sum(not _is_utf8(raw) for raw in raws)
    if bad >= 3 and 2 * bad > len(raws):
        return "it is not UTF-8: convert it (iconv -f LATIN1 -t UTF-8, or what it is)"
    return None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _array_head(begin: bytes) -> str | None:
    if begin.startswith(b"{"):
        return "the top level is an object, not an array: wrap the records in [ ], or set format NDJSON"
    if not begin.startswith(b"["):
        return "it is not JSON: a table file is an array of objects, or one object on each line (.ndjson)"
    first = begin[1:].lstrip(b" \t\r\n")[:1]
    if first not in (b"{", b"]", b""):
        return "the first element is not an object: a table file is an array of objects"
    return None


def _lines_head(begin: bytes) -> str | None:
    """A broken first line is a reject like any other; valid JSON that is no object is another format."""
    line = begin.partition(b"\n")[0]
    if begin.startswith(b"["):
        return "it holds an array, not one object on each line: name it .json, or set format JSON"
    if begin.startswith(b"{") or len(line) == len(begin) == HEAD:
        return None
    try:
        msgspec.json.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return "the first line is not an object: NDJSON is one object on each line"


def _end(file: TableFile, tail: bytes) -> str | None:
    """What is wrong with the last bytes of a file that was begun in the right way."""
    text = tail.rstrip(b" \t\r\n")
    if file.layout == "document":
        return None if text.endswith(b"}") else "the document is cut off"
    if file.layout == "ndjson":
        return _last_line(tail)
    if not text.endswith(b"]"):
        if _GARBAGE.search(tail[-4096:]):
            return "something follows the array's end"
        return "the array is cut off (no closing ])"
    if text[:-1].rstrip(b" \t\r\n").endswith(b","):
        return "the array is cut off (a comma before its end)"
    return None


def _last_line(tail: bytes) -> str | None:
    """A line that is broken *and* has no newline was cut off; with its newline it is a reject like any other."""
    _, newline, line = tail.rpartition(b"\n")
    if not line.strip() or (not newline and len(tail) >= HEAD):
        return None
    try:
        return CUT_LINE if value_end(line.strip().removeprefix(codecs.BOM_UTF8), 0) == -1 else None
    except ScanError:
        return None
