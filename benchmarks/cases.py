"""What is run: each case prepares the database, runs one program as a user runs it, and checks what it loaded."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import flat
from .database import Server, create, drop, execute
from .measure import Sample, run
from .spoiled import CHECK, Spoiler

RESTORER = str(Path(sys.executable).with_name("restorer"))
FEW = 200_000  # records of the small load: memory of a large one is held against it, and the slow way takes no more


@dataclass
class Case:
    """`once`: what to do before each run, outside the measurement. `command`: what is measured; made anew each time,
    because a finished run would only be told again. `check`: looks at what came of it; raises RuntimeError."""

    name: str
    command: Callable[[], list[str]]
    once: Callable[[], None] = lambda: None
    check: Callable[[], None] = lambda: None
    samples: list[Sample] = field(default_factory=list)

    def measure(self, server: Server) -> Sample:
        self.once()
        sample = run(self.command(), server.postmaster)
        try:
            self.check()
        except RuntimeError as error:
            raise RuntimeError(f"{self.name}: {error}") from None
        self.samples.append(sample)
        return sample


class Bench:
    """The data and databases of the cases, in `folder`."""

    def __init__(self, server: Server, folder: Path, records: int, say: Callable[[str], None]) -> None:
        self.server, self.folder, self.records, self._say = server, folder, records, say
        self._runs = 0
        self._report = folder / "report.json"
        self._flats: dict[tuple[int, bool], flat.Flat] = {}

    # -- the data ------------------------------------------------------------------------------------------------------

    def flat(self, records: int, spoil: Spoiler | None = None) -> flat.Flat:
        """The flat table's files, made when first asked for."""
        key = (records, spoil is not None)
        if key not in self._flats:
            self._say(f"writing {records:,} records of {flat.RECORD_BYTES} bytes{' with bad ones' if spoil else ''}")
            folder = self.folder / f"{'spoiled' if spoil else 'flat'}-{records}"
            self._flats[key] = flat.build(folder, records, spoil)
        return self._flats[key]

    # -- the cases -----------------------------------------------------------------------------------------------------

    def psql(self) -> Case:
        made, dsn = self.flat(self.records), create(self.server, "psql", flat.DDL)
        copy = f"\\copy flat FROM '{made.csv}' (FORMAT csv, HEADER)"
        command = [self.server.psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", dsn, "-c", copy]
        return Case("psql \\copy", lambda: command, lambda: _empty(dsn))

    def insert(self) -> Case:
        made, dsn = self.flat(min(FEW, self.records)), create(self.server, "insert", flat.DDL)
        command = [sys.executable, "-m", "benchmarks.insert", str(made.json), dsn]
        return Case("INSERT of 1,000 rows", lambda: command, lambda: _empty(dsn))

    def restorer(
        self, name: str, *, records: int = 0, workers: int = 1, check: bool = False, spoil: Spoiler | None = None
    ) -> Case:
        """Into an empty table. `check`: the table has a CHECK constraint, which the spoiled records violate."""
        records = records or self.records
        made = self.flat(records, spoil)
        dsn = create(self.server, name, flat.DDL + (CHECK if check else ""))
        counters: Mapping[str, int] = spoil.expected if spoil else {"read": records, "inserted": records}
        return Case(
            name,
            lambda: self._command(made.backup, dsn, workers),
            lambda: _empty(dsn),
            lambda: self._compare(counters),
        )

    def again(self, name: str) -> Case:
        """All rows are there already, under onConflict Skip."""
        made, dsn = self.flat(self.records), create(self.server, name, flat.DDL)
        run(self._command(made.backup, dsn, 1), self.server.postmaster)
        execute(dsn, "VACUUM (ANALYZE) flat")
        counters = {"read": self.records, "inserted": 0, "duplicate": self.records}
        return Case(
            name,
            lambda: self._command(made.backup, dsn, 1),
            lambda: execute(dsn, "CHECKPOINT"),
            lambda: self._compare(counters),
        )

    def lms(self, records: int, bad_percent: float, workers: int, *, paragraphs: int = 1) -> tuple[Case, int]:
        """The learning platform's 24 tables, with texts of so many paragraphs. -> (case, bytes of the backup)"""
        from restorer.demo import lms

        self._say(f"writing {records:,} records in 24 tables, {bad_percent:g} % bad")
        name = f"lms-{records}-{bad_percent:g}"
        made = lms.generate(
            self.folder / name, records, bad_percent=bad_percent, snapshots=(lms.SNAPSHOT,), paragraphs=paragraphs
        )

        def anew() -> None:
            if self._has(name):
                drop(self.server, name)
            dsn.append(create(self.server, name, lms.schema_sql()))
            execute(dsn[-1], "CHECKPOINT")

        dsn: list[str] = []
        return Case(
            name,
            lambda: self._command(made.root / made.path, dsn[-1], workers),
            anew,
            lambda: self._compare(made.totals()),
        ), made.bytes

    def stages(self) -> list[str]:
        """The command that measures where the time goes."""
        made, dsn = self.flat(self.records), create(self.server, "stages", flat.DDL)
        return [sys.executable, "-m", "benchmarks.stages", str(made.backup), dsn]

    # -- running -------------------------------------------------------------------------------------------------------

    def _command(self, backup: Path, dsn: str, workers: int) -> list[str]:
        self._runs += 1
        self._report.unlink(missing_ok=True)
        return [
            RESTORER, "run", "--backup", str(backup), "--dsn", dsn, "--name", f"bench-{self._runs}",
            "--workers", str(workers), "--max-rejects", "5%", "--report", str(self._report),
        ]  # fmt: skip

    def _compare(self, expected: Mapping[str, int]) -> None:
        """A benchmark of wrong results would be worth nothing."""
        totals = json.loads(self._report.read_bytes())["totals"]
        found = {key: totals.get(key, 0) for key in expected}
        if found != dict(expected):
            raise RuntimeError(f"the report says {found}, not {dict(expected)}")

    def _has(self, name: str) -> bool:
        import psycopg

        with psycopg.connect(self.server.dsn) as conn:
            return conn.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).rowcount == 1


def _empty(dsn: str) -> None:
    """Every run starts from the same: an empty table, no dirty page to write."""
    execute(dsn, "TRUNCATE flat", "CHECKPOINT")
    time.sleep(0.2)
