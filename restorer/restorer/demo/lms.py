"""Generates the backup of a Vietnamese learning platform: 24 tables as a Prisma script exports them, some records bad.

    python -m restorer.demo.lms DIR --records 60000

DIR becomes the backup volume; the restore's path is `rausachcore`. Everything is computed from the seed, streams, and
is the same on every machine. `Generated` (and `DIR/expected.json`) says what a restore must report, exactly.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import msgspec

from .lms_faults import Kind, file_rows, outcome
from .lms_rows import Record, World
from .lms_tables import TABLES, Table
from .lms_write import write_table

APPLICATION = "rausachcore"
SNAPSHOT = "20241219_103045"
OLDER_SNAPSHOT = "20241201_020000"
MINIMUM = 1_000  # records
Progress = Callable[[int, int], None]


class TableTruth(msgspec.Struct, frozen=True):
    """What one file holds. `records = good + sum(faults.values())`."""

    table: str
    file: str
    good: int
    faults: dict[Kind, int] = {}
    bytes: int = 0
    sha256: str = ""

    @property
    def records(self) -> int:
        return self.good + sum(self.faults.values())

    def expected(self) -> dict[str, int]:
        """What a restore into empty tables under onConflict Skip reports for this table."""
        counts = {
            "read": self.records,
            "inserted": self.good,
            "updated": 0,
            "duplicate": 0,
            "conflict": 0,
            "rejected": 0,
        }
        for kind, number in self.faults.items():
            counts[outcome(kind)] += number
        return counts


class Generated(msgspec.Struct, frozen=True):
    """`root`: the volume; `path`: the application's folder in it; `snapshot`: the folder that Latest means."""

    root: Path
    path: str
    snapshot: str
    seed: int
    tables: dict[str, TableTruth]

    @property
    def folder(self) -> Path:
        return self.root / self.path / self.snapshot

    @property
    def records(self) -> int:
        return sum(t.records for t in self.tables.values())

    @property
    def bytes(self) -> int:
        return sum(t.bytes for t in self.tables.values())

    def expected(self) -> dict[str, dict[str, int]]:
        """What a restore reports per table, under onConflict Skip into empty tables."""
        return {name: truth.expected() for name, truth in self.tables.items()}

    def totals(self) -> dict[str, int]:
        """`expected()` summed over the tables."""
        sums: dict[str, int] = {}
        for counts in self.expected().values():
            for key, number in counts.items():
                sums[key] = sums.get(key, 0) + number
        return sums

    def faults(self) -> dict[str, int]:
        """How many records of each kind of badness the backup holds."""
        sums: dict[str, int] = {}
        for truth in self.tables.values():
            for kind, number in truth.faults.items():
                sums[kind] = sums.get(kind, 0) + number
        return dict(sorted(sums.items()))


def schema_sql() -> str:
    """The DDL of the database that the backup was taken from."""
    return resources.files(__package__).joinpath("lms_schema.sql").read_text("utf-8")


def prisma_schema() -> str:
    """The schema.prisma that lies in each snapshot, beside the table files."""
    return resources.files(__package__).joinpath("schema.prisma").read_text("utf-8")


def generate(
    folder: Path,
    records: int = 60_000,
    seed: int = 7,
    bad_percent: float = 1.0,
    snapshots: tuple[str, ...] = (OLDER_SNAPSHOT, SNAPSHOT),
    progress: Progress | None = None,
    paragraphs: int = 1,
) -> Generated:
    """Writes the volume into `folder`. The last of `snapshots` gets all the records, the others a few tables.

    `records` counts the bad ones too, at least 1,000; `bad_percent` from 0 to 10. `progress(done, total)` is called
    every few hundred records. `paragraphs`: how long the longer texts are (1: 275 bytes a record on the disk, on average;
    each further one adds 64). Raises ValueError for numbers outside these ranges.
    """
    if records < MINIMUM or not 0 <= bad_percent <= 10 or paragraphs < 1:
        raise ValueError(f"records must be at least {MINIMUM}, bad_percent from 0 to 10, paragraphs at least 1")
    sizes = _sizes(records, bad_percent)
    world = World({name: good for name, (good, _) in sizes.items()}, seed, paragraphs)
    application = folder / APPLICATION
    application.mkdir(parents=True, exist_ok=True)
    for name in snapshots[:-1]:
        few = {t.name: sizes[t.name] for t in TABLES if t.fixed}
        _write_snapshot(application / name, world, few, None)
    tables = _write_snapshot(application / snapshots[-1], world, sizes, progress)
    generated = Generated(folder, APPLICATION, snapshots[-1], seed, tables)
    expected = {"totals": generated.totals(), "tables": generated.expected(), "faults": generated.faults()}
    (folder / "expected.json").write_bytes(msgspec.json.format(msgspec.json.encode(expected), indent=2) + b"\n")
    return generated


def _sizes(records: int, bad_percent: float) -> dict[str, tuple[int, int]]:
    """(good, bad) of each table; `progress` takes what the others leave."""
    shared = records - sum(t.fixed for t in TABLES)
    totals = {t.name: t.fixed or max(shared * t.share // 1000, 10) for t in TABLES}
    totals["progress"] = records - sum(n for name, n in totals.items() if name != "progress")
    faulty = {t.name for t in TABLES if t.faults}
    sizes = {}
    for name, total in totals.items():
        bad = round(total * bad_percent / 100) if name in faulty and total >= 40 else 0
        sizes[name] = (total - bad, bad)
    return sizes


def _write_snapshot(
    folder: Path, world: World, sizes: dict[str, tuple[int, int]], progress: Progress | None
) -> dict[str, TableTruth]:
    folder.mkdir(exist_ok=True)
    (folder / "schema.prisma").write_text(prisma_schema(), "utf-8")
    total = sum(good + bad for good, bad in sizes.values())
    truths: dict[str, TableTruth] = {}
    for table in TABLES:
        if table.name not in sizes:
            continue
        before = sum(t.records for t in truths.values())
        faults: dict[Kind, int] = {}
        chunks = _chunks(table, world, sizes[table.name], faults)
        if progress:
            chunks = _told(chunks, before, total, progress)
        size, sha256 = write_table(folder / table.file, table.form, chunks)
        truths[table.name] = TableTruth(table.name, table.file, sizes[table.name][0], faults, size, sha256)
    manifest = {
        "tables": {
            t.file.split(".")[0]: {"file": t.file, "records": t.records, "sha256": t.sha256} for t in truths.values()
        }
    }
    (folder / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    return truths


def _chunks(
    table: Table, world: World, size: tuple[int, int], faults: dict[Kind, int]
) -> Iterator[list[Record] | bytes]:
    """The table's records for the writer; counts the bad ones by kind into `faults`."""
    for chunk in file_rows(world, table.maker(world), table.faults, *size):
        if isinstance(chunk, list):
            yield chunk
        else:
            kind, raw = chunk
            faults[kind] = faults.get(kind, 0) + 1
            yield raw


def _told(
    chunks: Iterator[list[Record] | bytes], done: int, total: int, progress: Progress
) -> Iterator[list[Record] | bytes]:
    """The same chunks; tells the listener after each."""
    for chunk in chunks:
        yield chunk
        done += len(chunk) if isinstance(chunk, list) else 1
        progress(done, total)


def main() -> None:
    """`python -m restorer.demo.lms DIR`."""
    parser = argparse.ArgumentParser(prog="python -m restorer.demo.lms", description="Generate an LMS backup.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="becomes the backup volume")
    parser.add_argument("--records", type=int, default=60_000, metavar="N")
    parser.add_argument("--seed", type=int, default=7, metavar="N")
    parser.add_argument("--bad-percent", type=float, default=1.0, metavar="P")
    parser.add_argument("--schema", action="store_true", help="write DIR/schema.sql too")
    arguments = parser.parse_args()
    try:
        made = generate(arguments.folder, arguments.records, arguments.seed, arguments.bad_percent)
    except ValueError as error:
        sys.exit(f"{parser.prog}: {error}")
    if arguments.schema:
        (arguments.folder / "schema.sql").write_text(schema_sql(), "utf-8")
    totals = ", ".join(f"{number:,} {key}" for key, number in made.totals().items())
    print(f"{made.folder}: {made.bytes / 1e6:,.1f} MB in {len(made.tables)} tables; a restore must report: {totals}")


if __name__ == "__main__":
    main()
