"""Statements that are planned once for each connection."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from fix_restore import Restore
from restorer.database.connection import Connection, open_connection
from restorer.database.message import in_one_message
from restorer.database.occupied import Occupied
from restorer.database.planned import planned
from restorer.database.tasks import Tasks

QUERY = "SELECT %s::int + x, %s::text || '$1', %s::jsonb FROM generate_series(1, 1) x WHERE x = %s"


def ask(conn: Connection, number: int) -> Any:
    values = (number, "a'b", None, 1)
    return in_one_message(conn, planned(conn, QUERY), values=values)


def prepared(conn: Connection) -> int:
    return int(conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchall()[0][0])


def test_one_that_is_run_often_is_planned_once_and_says_the_same(at: Restore):
    with closing(open_connection(at.dsn)) as conn:
        for number in range(8):
            assert ask(conn, number) == [(number + 1, "a'b$1", None)]
            assert prepared(conn) == (number >= 2)
        assert in_one_message(conn, planned(conn, "SELECT 1")) == [(1,)]
        with closing(open_connection(at.dsn)) as other:  # knows nothing of it
            assert ask(other, 1) == [(2, "a'b$1", None)]


def test_one_whose_transaction_fails_is_known_all_the_same(at: Restore):
    with closing(open_connection(at.dsn)) as conn:
        for number in range(3):
            conn.execute("BEGIN")
            ask(conn, number)
            conn.execute("ROLLBACK")
        assert prepared(conn) == 1
        assert ask(conn, 5) == [(6, "a'b$1", None)]


def test_none_stays_behind_in_a_session_that_others_get(at: Restore, monkeypatch: pytest.MonkeyPatch):
    with closing(open_connection(at.dsn)) as conn:
        monkeypatch.setattr(type(conn.info), "backend_pid", 1)  # as a pooler tells it
        for number in range(5):
            assert ask(conn, number) == [(number + 1, "a'b$1", None)]
        assert prepared(conn) == 0


def test_the_batches_of_a_load_move_their_task_on_by_one(at: Restore, monkeypatch: pytest.MonkeyPatch):
    at.schema("CREATE TABLE t (id int PRIMARY KEY)").file("t", [{"id": i} for i in range(50)])
    commit, last = Tasks.commit, list[int | str]()

    def noted(self: Tasks, conn: Occupied, *args: Any) -> bool:
        done = commit(self, conn, *args)
        last[:] = conn.planned.values()
        return done

    monkeypatch.setattr(Tasks, "commit", noted)
    assert at.ok(batch=5).counts() == {"inserted": 50}
    assert [isinstance(known, str) for known in last] == [True]
