"""Promise 4: memory does not grow with the backup, nor with what is rejected of it; what a table needed is let go."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import psycopg
from command import Started
from fix_restore import Restore
from restorer.events import AnyEvent, TableChanged
from restorer.load.batch import Batch


def test_no_batch_is_kept_of_a_table_that_is_done(at: Restore):
    names = [f"t{n}" for n in range(6)]
    for name in names:
        at.schema(f"CREATE TABLE {name} (id int PRIMARY KEY, up int REFERENCES {name})")
        at.file(name, [{"id": i, "up": None if i % 2 else 1} for i in range(1, 50)])
    alive: list[int] = []

    def count(event: AnyEvent) -> None:
        if isinstance(event, TableChanged) and event.state == "Loading":
            alive.append(sum(isinstance(o, Batch) for o in gc.get_objects()))

    at.ok(emit=count)
    assert len(alive) == len(names)
    assert max(alive) <= 1


def test_many_long_records_that_are_rejected_are_never_in_memory_together(dsn: str, tmp_path: Path):
    """Those of a cycle, which wait until their table is read; then, on their way into files, and back from the ledger."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, up int CONSTRAINT up REFERENCES t, body text)")
        (place := tmp_path / "backup" / "20240101_000000").mkdir(parents=True)
        with (place / "t.json").open("w") as out:
            out.write('[{"id": 0, "up": null, "body": ""}')
            for n in range(1, 21):
                out.write("," + json.dumps({"id": n, "up": n + 1, "body": "x" * (4 << 20)}))
            out.write("]")
        peaks = [
            _peak("run", "--backup", place.parent, "--dsn", dsn, "--name", "big", "--max-rejects", "99%"),
            _peak("rejects", "export", tmp_path / "out", "--dsn", dsn),
        ]
        assert (tmp_path / "out" / "t.ndjson").stat().st_size > 80 << 20
        assert conn.execute("SELECT count(*) FROM dbrestore.rejects").fetchone() == (20,)
        conn.execute("ALTER TABLE t DROP CONSTRAINT up")
        peaks.append(_peak("rejects", "retry", "--from", tmp_path / "out", "--dsn", dsn))
        assert conn.execute("SELECT count(*), sum(length(body)) FROM t").fetchone() == (21, 80 << 20)
    print("peak RSS", [f"{peak >> 20} MiB" for peak in peaks])
    assert max(peaks) < 120 << 20


def _peak(*args: object) -> int:
    started = Started(*args)
    peak = started.peak()
    end = started.end()
    assert end.code == 0, end.err
    return peak
