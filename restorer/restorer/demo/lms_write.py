"""Writes one table's file: records into a JSON array (compact, by lines or indented) or lines, plain or compressed."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import zstandard

from .lms_rows import Record
from .lms_tables import Form

FLUSH = 256 * 1024  # bytes

_OPEN: dict[Form, bytes] = {"compact": b"[", "lines": b"[\n", "pretty": b"[\n", "ascii": b"[\n", "ndjson": b""}
_BETWEEN: dict[Form, bytes] = {"compact": b",", "lines": b",\n", "pretty": b",\n", "ascii": b",\n", "ndjson": b"\n"}
_CLOSE: dict[Form, bytes] = {"compact": b"]", "lines": b"\n]\n", "pretty": b"\n]\n", "ascii": b"\n]", "ndjson": b"\n"}

_encoder = msgspec.json.Encoder()


class _Hashing:
    """A file that knows the SHA-256 of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def write_table(path: Path, form: Form, chunks: Iterable[list[Record] | bytes]) -> tuple[int, str]:
    """Writes lists of records and single raw ones in order. Returns size and SHA-256 of the file on disk."""
    with path.open("wb") as file:
        hashing = _Hashing(file)
        with ExitStack() as stack:
            sink = stack.enter_context(_compressed(path, hashing)) if path.suffix in (".gz", ".zst") else hashing
            buffer = bytearray(_OPEN[form])
            first = True
            for chunk in chunks:
                if not chunk:
                    continue
                if not first:
                    buffer += _BETWEEN[form]
                first = False
                buffer += chunk if isinstance(chunk, bytes) else _encode(form, chunk)
                if len(buffer) >= FLUSH:
                    sink.write(bytes(buffer))
                    buffer.clear()
            buffer += _CLOSE[form]
            sink.write(bytes(buffer))
        return hashing.size, hashing.sha256.hexdigest()


def _encode(form: Form, records: list[Record]) -> bytes:
    match form:
        case "compact":
            return _encoder.encode(records)[1:-1]
        case "pretty":
            return msgspec.json.format(_encoder.encode(records), indent=2)[2:-2]
        case "ascii":
            return json.dumps(records, indent=2)[2:-2].encode()
        case "lines" | "ndjson":  # a record in JSON holds no line break of its own
            return _encoder.encode_lines(records)[:-1].replace(b"\n", _BETWEEN[form])


def _compressed(path: Path, sink: _Hashing) -> Any:
    target = cast("IO[bytes]", sink)
    if path.suffix == ".gz":
        return gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=target, mtime=0)
    return zstandard.ZstdCompressor(level=1).stream_writer(target, closefd=False)
