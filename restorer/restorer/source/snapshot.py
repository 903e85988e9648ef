"""One backup, found and described."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from restorer.model import TableFile


class Snapshot(msgspec.Struct, frozen=True):
    """`path`: the folder, or the one file. `bytes`: on disk, of all table files. `time`: what the name tells (UTC).
    `checksums`: absolute path of a file -> SHA-256 (hex) that the manifest gives. `warnings`: one line each.
    `cut_lines`: NDJSON files that end inside a line."""

    name: str
    path: Path
    files: tuple[TableFile, ...]
    bytes: int
    time: datetime | None = None
    schema_prisma: Path | None = None
    manifest: Path | None = None
    checksums: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    cut_lines: tuple[str, ...] = ()

    def relative(self, path: str) -> str:
        """A file's name as a person knows it: below the snapshot's folder."""
        folder = self.path if self.path != Path(path) else self.path.parent
        return Path(path).relative_to(folder).as_posix()
