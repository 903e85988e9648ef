"""The benchmarks: the restorer, as a user runs it, beside `psql \\copy` of the same rows.

    python -m benchmarks [--rows N] [--runs N] [--only NAME …] [--large] [--write docs/benchmarks.md]

What is compared runs in turns (A B A B …), so that what slows the machine down for a while slows down both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from .cases import FEW, Bench, Case
from .database import SETTINGS, Server, serve
from .figures import Figure, markdown, peak, ratio, walls
from .machine import describe
from .spoiled import Spoiler

NAMES = ("copy", "workers", "memory", "bad", "there", "insert", "lms", "stages")
ROOM = {False: 8 << 30, True: 40 << 30}  # bytes of disk that it takes, at most, without and with --large
MIB = 2**20
LONG = 4  # paragraphs of the texts in 24 large tables: 10 M records are 4.7 GB (4.5 are asked for)


class Benchmarks:
    """Measures what was asked for. -> the Markdown"""

    def __init__(self, bench: Bench, only: frozenset[str], runs: int, large: bool) -> None:
        self._bench, self._only, self._runs, self._large = bench, only, runs, large
        self.cases: list[Case] = []
        self.figures: list[Figure] = []
        self.stages: dict[str, float] = {}
        self.wrong: list[str] = []

    def measure(self) -> None:
        """Measures part by part. A part whose load went wrong ends there, and is told in `wrong`."""
        parts = [
            ({"copy", "workers", "there", "insert", "memory"}, self._side_by_side),
            ({"bad"}, self._bad),
            ({"lms"}, self._lms),
            ({"stages"}, self._stages),
        ]
        for names, part in parts:
            if self._only & names:
                try:
                    part()
                except (RuntimeError, subprocess.SubprocessError) as error:
                    say(f"wrong: {error}")
                    self.wrong.append(str(error))

    def _turns(self, cases: list[Case], runs: int) -> None:
        """Runs the cases in turns."""
        self.cases += [case for case in cases if case not in self.cases]
        for turn in range(1, runs + 1):
            for case in cases:
                sample = case.measure(self._bench.server)
                say(f"{turn}/{runs}  {case.name:<28} {sample.wall:7.2f} s  {sample.rss / MIB:4.0f} MiB")

    def _side_by_side(self) -> None:
        bench, only = self._bench, self._only
        psql, one = bench.psql(), bench.restorer("1 worker")
        cases = {"copy": [psql, one]}
        if "workers" in only:
            cases["workers"] = [bench.restorer("2 workers", workers=2)]
        if "there" in only:
            cases["there"] = [bench.again("all there")]
        if only & {"memory", "insert"}:
            cases["few"] = [bench.restorer("few records", records=min(FEW, bench.records))]
        self._turns([case for group in cases.values() for case in group], self._runs)
        rows = f"{bench.records:,} records x 500 B, PK"
        self._add(f"{rows}, 1 worker / `psql \\copy`", ratio(one, psql), "1.25", "1.10", walls(one, psql))
        if "workers" in only:
            two = cases["workers"][0]
            self._add("the same, 2 workers", ratio(two, psql), "0.95", "0.80", walls(two))
        if "there" in only:
            there = cases["there"][0]
            self._add("all rows there, onConflict Skip / clean", ratio(there, one), "1.3", "1.1", walls(there, one))
        if "insert" in only:
            self._insert(cases["few"][0])
        if "memory" in only:
            self._memory([one, *cases.get("workers", [])], one, cases["few"][0])

    def _insert(self, few: Case) -> None:
        insert = self._bench.insert()
        self._turns([insert], min(self._runs, 3))
        times = f"{ratio(insert, few):.1f} x as long"
        what = f"INSERT of 1,000 rows ON CONFLICT DO NOTHING / 1 worker, {min(FEW, self._bench.records):,} records"
        self.figures.append(Figure(what, times, "4 x", "7 x", walls(insert, few)))

    def _memory(self, cases: list[Case], many: Case, few: Case) -> None:
        if not peak(cases):
            say("peak memory is left out: this system has no /proc")
            return
        value = f"{peak(cases) / MIB:.0f} MiB"
        self.figures.append(Figure("peak RSS per process", value, "64 MiB", "48 MiB", "1 and 2 workers"))
        records = self._bench.records
        if self._large:
            records *= 10
            many = self._bench.restorer("many records", records=records)
            self._turns([many], 1)
        what = f"RSS at {records:,} / at {min(FEW, self._bench.records):,} records"
        note = f"{peak([many]) / MIB:.1f} and {peak([few]) / MIB:.1f} MiB"
        self._add(what, peak([many]) / peak([few]), "1.05", "1.00", note)

    def _bad(self) -> None:
        spoiler = Spoiler()
        clean = self._bench.restorer("clean, with a CHECK", check=True)
        bad = self._bench.restorer("1 % bad", check=True, spoil=spoiler)
        self._turns([clean, bad], self._runs)
        self._add("1 % bad rows of 13 kinds / clean", ratio(bad, clean), "1.5", "1.2", walls(bad, clean))
        records = self._bench.records // 2
        if records >= 1000:
            (clean, _), (bad, _) = self._bench.lms(records, 0, 1), self._bench.lms(records, 1, 1)
            self._turns([clean, bad], min(self._runs, 3))
            what = f"the same in 24 tables, {records:,} records"
            self._add(what, ratio(bad, clean), "1.5", "1.2", walls(bad, clean))

    def _lms(self) -> None:
        if not self._large:
            return
        records = self._bench.records * 10
        for bad in (0, 1):
            case, size = self._bench.lms(records, bad, 2, paragraphs=LONG)
            self._turns([case], 1)
            what = f"{records:,} records in 24 tables, {size / 1e9:.2f} GB, 2 workers"
            note = f"{size / records:.0f} bytes a record, some files compressed, {bad} % bad"
            self.figures.append(Figure(what, f"{case.samples[0].wall:.0f} s", "150 s", "100 s", note))

    def _stages(self) -> None:
        say("the stages by themselves")
        made = subprocess.run(self._bench.stages(), check=True, stdout=subprocess.PIPE)
        scale = 1e6 / self._bench.records
        found: dict[str, float] = json.loads(made.stdout)
        self.stages = {name: value * (1 if name == "start" else scale) for name, value in found.items()}

    def _add(self, what: str, value: float, reach: str, aim: str, note: str) -> None:
        self.figures.append(Figure(what, f"{value:.2f}", reach, aim, note))


def heading(server: Server, runs: int) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in SETTINGS.items())
    return [
        f"`make bench` on {datetime.now(UTC):%Y-%m-%d}: medians of {runs} runs in turns, ratios of wall clock from start to "
        "exit of the whole process.",
        "",
        *(f"- {line}" for line in describe()),
        f"- PostgreSQL {server.version}, embedded, over a socket: fsync on, {settings}",
        f"- load average at the end: {os.getloadavg()[0]:.1f}",
    ]


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def main() -> int:
    """`python -m benchmarks`. -> exit code"""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the restorer.")
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="records of the flat table")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs of each case")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--large", action="store_true", help="the loads of ten times as many records too")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there, as Markdown")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="restorer-bench-") as folder:
        room = min(ROOM[given.large], 20_000 * given.rows * (3 if given.large else 1))
        if (free := shutil.disk_usage(folder).free) < room:
            print(
                f"benchmarks: {free >> 30} GiB free in {folder}, {room >> 30} GiB wanted: set TMPDIR", file=sys.stderr
            )
            return 2
        Path(folder).chmod(0o755)  # the embedded server runs as another user when this one is root
        with serve(Path(folder) / "data") as server:
            bench = Bench(server, Path(folder), given.rows, say)
            benchmarks = Benchmarks(bench, frozenset(given.only), given.runs, given.large)
            benchmarks.measure()
            head = [*heading(server, given.runs), *(f"- wrong: {each}" for each in benchmarks.wrong)]
        text = markdown(benchmarks.figures, benchmarks.cases, head, benchmarks.stages)
    print(text, end="")
    if given.write is not None:
        given.write.write_text(text, "utf-8")
    return 1 if benchmarks.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
