"""Is this still the backup that the run began with, and is it what its manifest says?"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from restorer.errors import RestoreError, Unavailable
from restorer.model import Compression
from restorer.source.snapshot import Snapshot
from restorer.source.stream import Source

ENDS = 64 * 1024  # bytes hashed at either end of a file
_BLOCK = 256 * 1024


def fingerprint(snapshot: Snapshot) -> dict[str, str]:
    """File name -> "size sha256", the hash over the first and last 64 KiB; the manifest and schema.prisma too.

    Raises Unavailable when a file cannot be read.
    """
    paths = {file.path for file in snapshot.files}
    paths |= {str(p) for p in (snapshot.manifest, snapshot.schema_prisma) if p is not None}
    return {snapshot.relative(path): _print(path) for path in sorted(paths)}


def _print(path: str) -> str:
    try:
        with open(path, "rb") as f:
            size = f.seek(0, 2)
            f.seek(0)
            hashed = hashlib.sha256(f.read(ENDS))
            f.seek(max(0, size - ENDS))
            hashed.update(f.read(ENDS))
    except OSError as e:
        raise Unavailable(f"{path} cannot be read ({e.strerror})", "check the volume") from e
    return f"{size} {hashed.hexdigest()}"


def differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """What changed between two fingerprints, one line per file, in words; [] when nothing did."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            lines.append(f"{name} is gone")
        elif name not in old:
            lines.append(f"{name} is new")
        elif old[name] != new[name]:
            before, after = old[name].split()[0], new[name].split()[0]
            if before != after:
                lines.append(f"{name} has another size: {before} bytes before, {after} now")
            else:
                lines.append(f"{name} has other content (same size)")
    return lines


def verify_checksums(snapshot: Snapshot, at_once: int = 1) -> list[str]:
    """Reads every file that the manifest has a SHA-256 for (of the file as it is on disk, or of what it holds
    decompressed), `at_once` of them at the same time. One line for each that differs; [] when all agree."""
    over, given = threading.Event(), sorted(snapshot.checksums.items())
    check = partial(_checksum_problem, compressions={f.path: f.compression for f in snapshot.files}, over=over)
    if at_once > 1:
        with contextlib.suppress(RuntimeError), ThreadPoolExecutor(at_once) as threads:  # no more threads to be had
            try:
                return [line for line in threads.map(check, given) if line]
            finally:
                over.set()  # an interruption must not wait for the files
        over.clear()
    return [line for line in map(check, given) if line]


def _checksum_problem(
    given: tuple[str, str], compressions: dict[str, Compression], over: threading.Event
) -> str | None:
    path, expected = given
    compression = compressions.get(path, "")
    try:
        found = _sha256(path, "", over)
        if found != expected and compression:
            found = _sha256(path, compression, over)
    except RestoreError as e:
        return e.line()
    if found != expected:
        return f"{Path(path).name}: its SHA-256 is not the manifest's: copy the file or take the backup again"
    return None


def _sha256(path: str, compression: Compression, over: threading.Event) -> str:
    hashed = hashlib.sha256()
    with Source(path, compression) as source:
        while (data := source.read(_BLOCK)) and not over.is_set():
            hashed.update(data)
    return hashed.hexdigest()
