"""How often a load waits for a server that may be far away: questions and answers, counted on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from counting_proxy import CountingProxy
from fix_restore import Restore
from restorer.database.message import COMMIT, in_one_message
from restorer.database.session import Session
from restorer.spec import Retry


def trips(at: Restore, proxy: CountingProxy, **options: Any) -> int:
    before = proxy.trips
    at.ok(dsn=proxy.dsn, **options)
    return proxy.trips - before


def for_each(at: Restore, proxy: CountingProxy, few: list[Any], many: list[Any], batch: int, **options: Any) -> float:
    """Round trips of one batch more."""
    found = []
    for records in (few, many):
        at.schema("TRUNCATE t").file("t", records)
        found.append(trips(at, proxy, batch=batch, **options))
    return (found[1] - found[0]) / ((len(many) - len(few)) / batch)


def test_a_batch_takes_three(at: Restore):
    """COPY is asked for, gets its rows, and then all the rest: the ledger, COMMIT, the next BEGIN."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    rows = [{"id": i, "v": f"v{i}"} for i in range(2000)]
    with CountingProxy(at.dsn) as proxy:
        assert for_each(at, proxy, rows[:400], rows, 40) == pytest.approx(3, abs=0.2)


def test_one_without_triggers_takes_five_more(at: Restore):
    """To lock, to look at the catalog (twice), to switch triggers off, and to look for the parents."""
    at.schema("CREATE TABLE p (id int PRIMARY KEY)", "INSERT INTO p VALUES (1)")
    at.schema("CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p)")
    rows = [{"id": i, "p": 1} for i in range(4000)]
    with CountingProxy(at.dsn) as proxy:
        assert for_each(at, proxy, rows[:1000], rows, 250) == pytest.approx(8, abs=0.4)


def test_one_with_bad_rows_takes_a_few_more(at: Restore):
    """To ask for them, to book the batch, COPY of the rejects."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v < 1000), body text)")
    rows = [{"id": i, "v": 5000 if i % 40 == 7 else i % 100} for i in range(2000)]
    with CountingProxy(at.dsn) as proxy:
        assert for_each(at, proxy, rows[:400], rows, 40) == pytest.approx(7, abs=0.4)
        rows = [
            rows[i - 1] if i % 40 == 9 else row for i, row in enumerate(rows)
        ]  # and eleven more to settle who has a key
        assert for_each(at, proxy, rows[:400], rows, 40) == pytest.approx(18, abs=0.4)


def test_a_table_takes_about_eighteen(at: Restore):
    found = []
    with CountingProxy(at.dsn) as proxy:
        for few in (5, 25):
            for i in range(few):
                at.schema(f"DROP TABLE IF EXISTS t{i}", f"CREATE TABLE t{i} (id int PRIMARY KEY)")
                at.file(f"t{i}", [{"id": 1}])
            found.append(trips(at, proxy))
    assert (found[1] - found[0]) / 20 <= 20, found


def test_a_transaction_that_is_begun_ahead_is_the_next_one_if_it_is_of_its_kind(dsn: str):
    session = Session(dsn, Retry(), lambda _: None)
    try:
        session.begin(session.conn)
        commit(session, True)
        assert status(session) == "INTRANS"
        session.begin(session.conn, True)
        assert setting(session, "enable_hashjoin") == "off"  # this very one
        commit(session, True)
        session.begin(session.conn, False)
        assert setting(session, "enable_hashjoin") == "on"  # another one
        commit(session, False)
        session.nothing_ahead()
        assert status(session) == "IDLE"
    finally:
        session.close()


def commit(session: Session, staged: bool) -> None:
    """With the next transaction behind it."""
    in_one_message(session.conn, COMMIT, *session.ahead(session.conn, staged))


def status(session: Session) -> str:
    return session.conn.info.transaction_status.name


def setting(session: Session, name: str) -> Any:
    row = session.conn.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return row[0]
