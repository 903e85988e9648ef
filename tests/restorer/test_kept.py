"""Stages that stay from batch to batch, and that a pooler in between is noticed."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import psycopg
import pytest
from fix_restore import Restore
from psycopg.conninfo import make_conninfo
from restorer.database import pooler
from restorer.database.connection import open_connection
from restorer.database.pooler import pooled
from restorer.load import merging
from restorer.load.task_loader import TaskLoader

T = "CREATE TABLE t (id int PRIMARY KEY, n int CHECK (n < 90), body text)"
STAGES = (
    "SELECT relname::text, relfilenode::bigint FROM pg_class WHERE relname LIKE 'dbrestore_stage%' AND relkind = 'r'"
)


def records(count: int = 400) -> list[dict[str, Any]]:
    """Every 20th breaks the CHECK, every 50th has the key of the one before."""
    return [{"id": i - (i % 50 == 1), "n": 95 if i % 20 == 7 else 1, "body": "é"} for i in range(count)]


@pytest.fixture
def stages(at: Restore, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[Any, ...]]]:
    """The stages that are there after each batch."""
    found: list[list[tuple[Any, ...]]] = []
    commit = TaskLoader._commit

    def seen(self: TaskLoader, conn: psycopg.Connection[Any], *args: Any) -> Any:
        done = commit(self, conn, *args)
        found.append(at.rows(STAGES))
        return done

    monkeypatch.setattr(TaskLoader, "_commit", seen)
    return found


def test_a_stage_is_made_once_and_emptied_by_each_commit(at: Restore, stages: list[Any]):
    at.schema(T, "CREATE TABLE u (id int PRIMARY KEY)")
    result = at.file("t", records()).file("u", [{"id": i // 2} for i in range(40)]).ok(batch=50)
    assert result.counts("t") == {"inserted": 372, "duplicate": 8, "rejected": 20}
    assert result.counts("u") == {"inserted": 20, "duplicate": 20}
    assert len(stages) == 9
    first = dict(stages[0])
    assert first and all(first.items() <= dict(s).items() for s in stages[:8]), stages  # the very same files
    assert not first.keys() & dict(stages[8]).keys()  # let go when it was the other table's turn
    for _ in range(100):  # the server is not through with a session when the client is
        if not at.rows(STAGES):
            return
        time.sleep(0.05)
    raise AssertionError(at.rows(STAGES))


def test_behind_a_pooler_nothing_stays(at: Restore, stages: list[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pooler, "pooled", lambda _: True)
    at.schema(T)
    result = at.file("t", records()).ok(batch=50)
    assert result.counts() == {"inserted": 372, "duplicate": 8, "rejected": 20}
    assert stages == [[]] * 8


def test_a_batch_that_is_undone_leaves_no_rows_in_a_stage(at: Restore, monkeypatch: pytest.MonkeyPatch):
    """Its transaction fails when the stage is full, and goes again."""
    at.schema(T)
    merge, left = merging.Merger.merge, [1]

    def fails(self: merging.Merger, conn: psycopg.Connection[Any], stage: Any, *args: Any, **options: Any) -> None:
        if left and stage.size:
            left.pop()
            raise psycopg.errors.DeadlockDetected("a deadlock")
        merge(self, conn, stage, *args, **options)

    monkeypatch.setattr(merging.Merger, "merge", fails)
    at.schema("INSERT INTO t VALUES (3, 1, 'é')")
    result = at.file("t", records()).ok(batch=400)
    assert not left and result.report.totals.retries == 1
    assert result.counts() == {"inserted": 371, "duplicate": 9, "rejected": 20}


def test_a_stage_is_made_anew_when_the_table_is_another_one(at: Restore):
    """A type that changes in mid-run must not go through what it was before."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v numeric(10, 2))", "INSERT INTO t VALUES (0, 7)")
    seen = list[int]()

    def change(event: Any) -> None:
        if type(event).__name__ == "BatchLoaded":
            seen.append(1)
            if len(seen) == 2:
                at.schema("ALTER TABLE t ALTER v TYPE numeric(10, 5)")

    result = at.file("t", [{"id": i, "v": 1.23456} for i in range(40)]).ok(batch=10, emit=change)
    assert result.counts() == {"inserted": 39, "conflict": 1}
    assert at.rows("SELECT v::text, count(*) FROM t WHERE id > 0 GROUP BY 1 ORDER BY 1") == [
        ("1.23000", 19),
        ("1.23456", 20),
    ]


class Masking:
    """Between a client and the server: the process that the server names (BackendKeyData) is told as another one, as every
    pooler does that gives a client's transactions to whichever session is free."""

    def __init__(self, address: str, mask: int) -> None:
        self.port = 0
        self._address, self._mask = address, mask

    def __enter__(self) -> Masking:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _serve(self) -> None:
        try:
            client, _ = self._listening.accept()
        except OSError:
            return
        host, _, port = self._address.rpartition(":")
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
        else:
            server = socket.create_connection((host, int(port)))
        threading.Thread(target=self._pump, args=(client, server, 0), daemon=True).start()
        self._pump(server, client, self._mask)

    def _pump(self, source: socket.socket, sink: socket.socket, mask: int) -> None:
        try:
            while data := source.recv(65536):
                at = data.find(b"K\0\0\0\x0c") if mask else -1
                if at >= 0:
                    told = int.from_bytes(data[at + 5 : at + 9], "big") ^ mask
                    data, mask = data[: at + 5] + told.to_bytes(4, "big") + data[at + 9 :], 0
                sink.sendall(data)
        except OSError:
            pass


@pytest.mark.parametrize("mask", [0, 0x5A5A])
def test_a_pooler_is_told_by_the_process_that_answers(dsn: str, mask: int):
    with psycopg.connect(dsn) as conn:
        address = f"{conn.info.host}:{conn.info.port}"
    with Masking(address, mask) as proxy:
        through = make_conninfo(dsn, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")
        with open_connection(through) as conn:
            assert pooled(conn) is bool(mask)
