"""Says every few seconds, on a connection of its own, that this process is alive and still holds what it holds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import psycopg

from restorer.database.connection import Connection, open_connection
from restorer.database.ledger import LEASE_SECONDS, Ledger


class Heartbeat:
    """A daemon thread with its own connection, whose backend the ledger knows this process by: killed with the process,
    it tells the next one at once that this one is gone.

    `taken` is set when the target (for a leader) belongs to another process: the caller should stop; its batches could
    not commit any more anyway.
    """

    def __init__(self, conninfo: str, ledger: Ledger, *, leader: bool) -> None:
        self._conninfo, self._ledger, self.leader = conninfo, ledger, leader
        self.on_beat: Callable[[Connection], None] = lambda _: None
        self._stop = threading.Event()
        self.taken = threading.Event()
        self._conn: Connection | None = None
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Registers the owner; raises psycopg.OperationalError when that is not possible."""
        self._register()
        self._thread.start()

    def stop(self) -> None:
        """No beat any more. The connection stays: without it this process would count as dead."""
        self._stop.set()
        if self._thread.ident is not None:  # it was started
            self._thread.join(timeout=2)

    def close(self) -> None:
        self.stop()
        if self._conn is not None:
            self._conn.close()

    def _register(self) -> None:
        conn = open_connection(self._conninfo)
        try:
            self._ledger.register(conn)
        except psycopg.Error:
            conn.close()
            raise
        self._conn = conn

    def _beat(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / 4):
            with contextlib.suppress(psycopg.Error):  # the database is away: the next beat tries again
                self._once()

    def _once(self) -> None:
        if self._conn is None or self._conn.closed:
            self._register()
            return
        try:
            if not self._ledger.renew(self._conn):
                self._ledger.register(self._conn)
            if self.leader and not self._ledger.holds_target(self._conn):
                self.taken.set()
            elif self.leader:
                self._ledger.sample(self._conn)
            self.on_beat(self._conn)
        except psycopg.OperationalError:
            self._conn.close()
            raise
