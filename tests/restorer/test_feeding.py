"""While the server is at one batch, the next one is made ready, and nothing of either is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from fix_restore import Restore
from restorer.convert.converter import Rows
from restorer.database import occupied as waits
from restorer.database.connection import Connection, open_connection
from restorer.database.occupied import occupied
from restorer.errors import LoadFailed, Unavailable
from restorer.load.batch import Batch, Batches, PieceSource
from restorer.load.feeding import Feeder
from restorer.source.piece import Piece

LINE = b"x" * 1000 + b"\n"


def _piece(ordinal: int) -> Piece:
    return Piece.of_one(ordinal, 100 * ordinal, b"{}")


def _convert(piece: Piece) -> Rows:
    return Rows([b"line"] * len(piece))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may keep us from our work for longer than 20 ms."""
    monkeypatch.setattr(waits, "_LONGEST", 0.15)


@pytest.fixture
def slow(dsn: str) -> Iterator[Connection]:
    """A table into which the server copies more slowly than we send."""
    with open_connection(dsn) as conn:
        conn.execute("CREATE TABLE t (v text CHECK (md5(repeat(v, 20)) <> ''))")
        yield conn


def _send(conn: Connection, meanwhile: Callable[[], bool], lines: bytes) -> int:
    with conn.cursor() as cur:
        with occupied(conn, meanwhile), cur.copy("COPY t FROM STDIN", writer=Feeder(cur)) as out:
            for _ in range(30):
                out.write(lines)
        return cur.rowcount


@pytest.mark.parametrize("work", [0, 3, 1 << 60])
def test_other_work_is_done_while_the_server_is_behind_and_all_rows_arrive(slow: Connection, work: int):
    asked: list[int] = []

    def meanwhile() -> bool:
        asked.append(1)
        return len(asked) < work

    assert _send(slow, meanwhile, LINE * 100) == 3000
    # the socket holds some hundred KB of the 3 MB; who has nothing left is not asked again
    assert len(asked) == max(1, work) if work < 10 else len(asked) > 10


def test_work_that_takes_long_does_not_keep_the_server_waiting(slow: Connection):
    asked: list[int] = []

    def reading_a_slow_volume() -> bool:
        asked.append(1)
        time.sleep(0.2)
        return True

    slow.execute("SET statement_timeout = '2s'")
    assert _send(slow, reading_a_slow_volume, LINE * 100) == 3000 and len(asked) == 1


def test_what_the_socket_takes_at_once_leaves_the_time_until_the_answer(slow: Connection):
    asked: list[int] = []

    def meanwhile() -> bool:
        asked.append(1)
        return len(asked) < 5

    slow.execute("ALTER TABLE t ADD CHECK (pg_sleep(0.001) IS NOT NULL)")  # it has not answered yet when all is sent
    assert _send(slow, meanwhile, LINE * 5) == 150
    assert len(asked) == 5


def _interrupted() -> bool:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("meanwhile", "lines", "error"),
    [
        (_interrupted, LINE * 100, KeyboardInterrupt),
        (lambda: True, b"one\ttoo many\n" + LINE * 100, psycopg.errors.BadCopyFileFormat),
        (lambda: False, LINE * 100 + b"one\ttoo many\n", psycopg.errors.BadCopyFileFormat),
    ],
)
def test_an_error_of_either_ends_the_copy(
    slow: Connection, meanwhile: Callable[[], bool], lines: bytes, error: type[BaseException]
):
    with pytest.raises(error):
        _send(slow, meanwhile, lines)
    assert slow.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pytest.mark.parametrize("error", [Unavailable("the volume", "again"), MemoryError()])
def test_an_error_ahead_is_told_when_its_batch_is_asked_for(error: Exception):
    def pieces() -> Iterator[Piece]:
        yield from map(_piece, range(1, 6))
        raise error

    batches = Batches(PieceSource(pieces()), lambda: 3, 1 << 20)
    each = iter(batches)
    first = next(each)
    first.fill()
    while batches.ahead(_convert):
        pass
    assert first.records == 3
    with pytest.raises(type(error)):
        next(each)


def test_a_broken_file_ends_behind_what_was_made_ready():
    def pieces() -> Iterator[Piece]:
        yield from map(_piece, range(1, 6))
        raise LoadFailed("t.json: the array does not end", "take it again")

    source = PieceSource(pieces())
    batches, seen = Batches(source, lambda: 3, 1 << 20), list[int]()
    for batch in batches:
        batch.fill()
        while batches.ahead(_convert):
            pass
        seen.append(batch.records)
    assert seen == [3, 2] and source.error is not None


def test_what_was_made_ready_is_not_converted_again():
    converted: list[int] = []

    def convert(piece: Piece) -> Rows:
        converted.append(piece.ordinal)
        return _convert(piece)

    batches, lines = Batches(PieceSource(map(_piece, range(1, 10))), lambda: 3, 1 << 20), 0
    for number, batch in enumerate(batches):
        lines += sum(len(rows.lines) for _, _, rows in batch.converted(convert))
        for _ in range(number):  # nothing, a part, all of the next one
            batches.ahead(convert)
    assert lines == 9 and converted == list(range(1, 10))


def test_a_dirty_batch_is_loaded_with_the_next_one_ready(at: Restore, monkeypatch: pytest.MonkeyPatch):
    """The real thing: where the server is slow, no piece is left to be read when its batch has its turn."""
    ready: list[tuple[int, int]] = []
    plain = Batch.converted

    def converted(batch: Batch, convert: Any) -> Any:
        ready.append((len(batch._ready), batch.records))
        return plain(batch, convert)

    monkeypatch.setattr(Batch, "converted", converted)
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, n int CHECK (n < 90), v text, w text GENERATED ALWAYS AS (md5(repeat(v, 50))) STORED)",
    )
    records = [{"id": i, "n": 1 if i % 50 else 95, "v": "x" * 500} for i in range(8000)]
    result = at.file("t", records).ok(batch=2000)
    assert result.counts() == {"inserted": 7840, "rejected": 160}
    assert [pieces for pieces, _ in ready[2:5]] == [8, 8, 8], "of 128 KiB each"
