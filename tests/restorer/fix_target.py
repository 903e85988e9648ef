"""A target that must not be touched, a good backup, a server of one's own: for what goes wrong around a restore."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from command import write_backup
from fix_cli import SECRET
from own_server import OwnServer

GOOD = [{"id": i, "name": SECRET} for i in range(1, 4)]
BEFORE = [(1000, "was here before")]


@pytest.fixture
def target(dsn: str) -> str:
    """A database with one table that holds one row already."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
        conn.execute("INSERT INTO t VALUES (1000, 'was here before')")
    return dsn


def check_untouched(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert conn.execute("SELECT * FROM t").fetchall() == BEFORE
        assert conn.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'dbrestore'").fetchone() == (0,)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_backup(tmp_path / "good", t=GOOD)


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    with OwnServer() as server:
        yield server


def prepared(own: OwnServer, name: str, ddl: str = "CREATE TABLE t (id int PRIMARY KEY, name text)") -> str:
    dsn = own.database(name)
    with own.connect(name) as conn:
        conn.execute(ddl)
    return dsn
