"""The server that is measured: embedded, but set up as a real one, durability and all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from restorer.demo.embedded import EmbeddedServer

# As for a server of 2 GiB. fsync, full_page_writes and synchronous_commit stay on; checkpoints come when asked for, so
# that none of them falls into one measurement and not into the next.
SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
}


class Server(NamedTuple):
    """`psql`: the program of this very server. `postmaster`: its process."""

    dsn: str
    psql: str
    postmaster: int
    version: str


@contextlib.contextmanager
def serve(data: Path) -> Iterator[Server]:
    """The server in `data`, with SETTINGS in force."""
    with EmbeddedServer(data) as first, psycopg.connect(first.dsn, autocommit=True) as conn:
        for name, value in SETTINGS.items():
            conn.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
    with EmbeddedServer(data) as server:
        with psycopg.connect(server.dsn) as conn:
            version = conn.info.parameter_status("server_version") or ""
            row = conn.execute("SHOW shared_buffers").fetchone()
            assert row == (SETTINGS["shared_buffers"],), row
        postmaster = int((data / "postmaster.pid").read_text().split()[0])
        yield Server(server.dsn, str(server.bin_path / "psql"), postmaster, version)


def create(server: Server, name: str, ddl: str) -> str:
    """A database with the DDL in it. -> its connection string"""
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name)))
    dsn = make_conninfo(server.dsn, dbname=name)
    execute(dsn, ddl)
    return dsn


def drop(server: Server, name: str) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def execute(dsn: str, *statements: str) -> None:
    """Each statement by itself: CHECKPOINT wants no transaction."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())
