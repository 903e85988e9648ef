"""The files that `restorer rejects export` wrote, when a person has repaired them: a record a line, its reject's id in the index
beside it. A line that was made blank stays rejected."""

from __future__ import annotations

import csv
import os
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from restorer.errors import Refused

INDEX = ".index.csv"  # T.ndjson goes with T.index.csv


class Repaired(Mapping[int, bytes]):
    """Reject id -> repaired bytes, out of the files in `folder`. Only their places are held, as they may be many. Raises Refused when
    a file and its index do not fit, or a file is no longer what it was."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[int, tuple[Path, int, int]] = {}
        self._as_it_was: dict[Path, object] = {}
        indexes = sorted(folder.glob(f"*{INDEX}")) if folder.is_dir() else []
        if not indexes:
            raise Refused(f"{folder} holds no exported rejects", "give the folder that `restorer rejects export` wrote")
        for index in indexes:
            data = index.with_name(index.name.removesuffix(INDEX) + ".ndjson")
            with _readable(data):
                there = data.exists()
            if there:  # else a person left this table out
                self._add(data, index)

    def _add(self, data: Path, index: Path) -> None:
        ids, lines, at = _ids(index), list[tuple[int, int]](), 0
        with _readable(data), data.open("rb") as whole:
            self._as_it_was[data] = _state(whole)
            for line in whole:
                mark = len(BOM_UTF8) if not at and line.startswith(BOM_UTF8) else 0  # some editors write one
                lines.append((at + mark, len(line) - mark if line[mark:].strip() else 0))
                at += len(line)
        if len(lines) == len(ids) + 1 and not lines[-1][1]:
            lines.pop()  # an editor's last line
        if len(ids) != len(lines):
            raise Refused(
                f"{data} has {len(lines)} lines, its index {len(ids)}",
                "keep every line in its place; make one blank to leave it rejected",
            )
        self._places |= {i: (data, at, length) for i, (at, length) in zip(ids, lines, strict=True) if length}

    def __getitem__(self, ident: int) -> bytes:
        path, at, length = self._places[ident]
        with _readable(path), path.open("rb") as file:
            if _state(file) != self._as_it_was[path]:
                raise Refused(f"{path} was changed while it was read", "start the retry again, and leave it alone")
            file.seek(at)
            return file.read(length).strip()

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _ids(index: Path) -> list[int]:
    try:
        with _readable(index), index.open(newline="", encoding="utf-8") as file:
            return [int(row["id"]) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, csv.Error):
        raise Refused(
            f"{index} is not as `restorer rejects export` wrote it", "export again, and change only the records"
        ) from None


def _state(file: BinaryIO) -> object:
    now = os.fstat(file.fileno())
    return now.st_ino, now.st_size, now.st_mtime_ns


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}", "let this user read what was exported") from None
