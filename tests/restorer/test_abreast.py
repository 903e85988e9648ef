"""Several statements side by side: all of them done, in order, or the first failure and nothing left running."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from restorer.database.abreast import abreast
from restorer.database.connection import Connection
from restorer.database.session import Session
from restorer.errors import LoadFailed
from restorer.events import AnyEvent, Retried
from restorer.spec import Retry


@pytest.fixture
def events() -> list[AnyEvent]:
    return []


@pytest.fixture
def session(dsn: str, events: list[AnyEvent]) -> Iterator[Session]:
    made = Session(dsn, Retry(initial_seconds=1, max_seconds=1, max_elapsed_seconds=20), events.append)
    yield made
    made.close()


def ask(query: str) -> tuple[str, object]:
    return "a step", lambda conn: conn.execute(query).fetchone()[0]


def check_over(dsn: str) -> None:
    """No session is left, not even an idle one. A backend goes a moment after its client."""
    until = time.monotonic() + 10
    query = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(50)%' AND pid <> pg_backend_pid()"
    with psycopg.connect(dsn, autocommit=True) as conn:
        while left := conn.execute(query).fetchall():
            assert time.monotonic() < until, left
            time.sleep(0.02)


@pytest.mark.parametrize("most", [1, 3, 50])
def test_answers_come_in_the_order_of_the_steps(session: Session, most: int):
    assert abreast(session, most, [ask(f"SELECT {n} FROM pg_sleep({(7 - n) / 100})") for n in range(7)]) == list(
        range(7)
    )
    assert abreast(session, most, []) == []


def test_they_run_at_the_same_time_and_each_in_a_session_of_its_own(session: Session):
    together = threading.Barrier(3, timeout=20)

    def step(conn: Connection) -> int:
        together.wait()
        return conn.info.backend_pid

    assert len(set(abreast(session, 3, [("a step", step)] * 3))) == 3


@pytest.mark.parametrize("bad", [0, 1])
def test_the_first_failure_ends_the_others(dsn: str, session: Session, bad: int):
    steps = [ask("SELECT 1 FROM pg_sleep(50)")] * 3
    steps[bad] = ask("SELECT 1 / 0 FROM pg_sleep(0.3)")
    began = time.monotonic()
    with pytest.raises(LoadFailed, match="22012"):
        abreast(session, 3, steps)
    assert time.monotonic() - began < 20
    check_over(dsn)


def test_an_interruption_ends_them_all(dsn: str, session: Session):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            abreast(session, 2, [ask("SELECT 1 FROM pg_sleep(50)")] * 2)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 20
    check_over(dsn)


def test_a_connection_that_breaks_is_opened_again(dsn: str, session: Session, events: list[AnyEvent]):
    left = [1, 2]

    def step(conn: Connection) -> int:
        if left:
            left.pop()
            with psycopg.connect(dsn, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
        row = conn.execute("SELECT 1 FROM pg_sleep(0.2)").fetchone()
        assert row is not None
        return int(row[0])

    assert abreast(session, 2, [("a step", step)] * 2) == [1, 1]
    assert len([e for e in events if isinstance(e, Retried)]) == 2
