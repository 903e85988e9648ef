"""Where the restorer's time goes: its stages by themselves over the flat table, then a whole load and its waiting.

    python -m benchmarks.stages BACKUP DSN

Prints {"stage": seconds} as JSON: CPU seconds of each stage, without the server, and the wait in a real load.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from restorer.convert.converter import Converter
from restorer.convert.field import unquoted
from restorer.database.connection import open_connection
from restorer.load.batch import Batches, PieceSource
from restorer.model import TablePlan
from restorer.run import Request, execute
from restorer.source import reader
from restorer.source.stream import READ
from restorer.spec import RestoreSpec

from restorer import preflight

REPEATS = 3


def measure(backup: Path, dsn: str) -> dict[str, float]:
    """Seconds by stage. The table must be empty; it is full afterwards."""
    spec = RestoreSpec()
    with open_connection(dsn) as conn:
        found = preflight.find(spec, backup, None)
        plan = preflight.prepare(conn, spec, found, conninfo=dsn, fresh=True).plan.tables[0]
    stages = {"start": _cpu(lambda: None, 1) + time.process_time()}
    total = 0.0
    for name, step in _steps(plan, spec):
        seconds = _cpu(step, REPEATS)
        stages[name] = max(0.0, seconds - total)
        total = seconds
    return stages | _load(spec, backup, dsn)


def _steps(plan: TablePlan, spec: RestoreSpec) -> list[tuple[str, Callable[[], None]]]:
    """Each step does all that the one before it does, and one thing more."""
    converter = Converter(plan)

    def read() -> None:
        with open(plan.file.path, "rb", buffering=0) as file:
            while file.read(READ):
                pass

    def split() -> None:
        for _ in reader.pieces(plan.file):
            pass

    def all_batches(step: Callable[[Any], object]) -> None:
        pieces = reader.pieces(plan.file, decoder=converter.decoder, line_decoder=converter.line_decoder)
        for batch in Batches(PieceSource(pieces), lambda: spec.load.batch_rows, spec.load.batch_bytes):
            for _, piece in batch:
                step(piece)

    return [
        ("read", read),
        ("split", split),
        ("decode", lambda: all_batches(len)),
        ("convert", lambda: all_batches(lambda piece: unquoted(b"\n".join(converter.trusting(piece).lines)))),
    ]


def _cpu(step: Callable[[], None], repeats: int) -> float:
    """The least CPU time of several runs: what disturbs only adds."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    return min(seconds)


def _load(spec: RestoreSpec, backup: Path, dsn: str) -> dict[str, float]:
    """A real load in this process, with a clock around everything that waits for the server."""
    waited = 0.0
    wait = psycopg.Connection.wait

    def timed(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal waited
        started, cpu = time.monotonic(), time.thread_time()
        try:
            return wait(self, *arguments, **named)
        finally:
            waited += time.monotonic() - started - (time.thread_time() - cpu)

    psycopg.Connection.wait = timed
    started, cpu = time.monotonic(), time.process_time()
    try:
        report, failure = execute(Request(spec, backup, dsn, "stages/1"), lambda _: None)
    finally:
        psycopg.Connection.wait = wait
    if failure is not None or report.totals.rejected:
        raise RuntimeError(f"the load went wrong: {failure}")
    return {
        "whole load": time.monotonic() - started,
        "of it CPU": time.process_time() - cpu,
        "of it waiting": waited,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
