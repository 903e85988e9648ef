"""The target, which one run of a database has at a time: waited for, taken, kept by a heartbeat, and let go of."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import psycopg

from restorer.database.connection import Connection, target_label
from restorer.database.ledger import LEASE_SECONDS, Ledger, refuse_holder, taken_over
from restorer.database.ledger_schema import ensure
from restorer.database.session import Session
from restorer.errors import RestoreError
from restorer.events import Emit, Warned
from restorer.load.heartbeat import Heartbeat

_DYING_SECONDS = 3.0  # until the server has noticed that a client was killed


class Holding:
    """`wait`: seconds to wait for a target that another run holds. `shared`: another process of the same run may have it, and this one
    is to follow (`load.pods`). `scratch`: of a run whose ledger is its own session's, and which needs no heartbeat."""

    def __init__(self, conninfo: str, ledger: Ledger, emit: Emit, *, wait: float, shared: bool, scratch: bool) -> None:
        self._conninfo, self._ledger, self._emit = conninfo, ledger, emit
        self._wait, self._shared, self._scratch = wait, shared, scratch
        self._heartbeat: Heartbeat | None = None

    def take(self, session: Session) -> bool:
        """-> False when another process of the same run has it. Raises Unavailable that names the holder."""
        if self._scratch:
            self._ledger.register(session.conn)
            return self._ledger.take_target(session.conn) is None
        ensure(session.conn, self._ledger.schema)
        if self._heartbeat is None:
            # It leads once the target is ours, not before.
            self._heartbeat = heartbeat = Heartbeat(self._conninfo, self._ledger, leader=False)
            session.retrying(lambda _: heartbeat.start(), what="registering this process")
        if not self._waited(session.conn):
            return False
        self._heartbeat.leader = True
        return True

    def _waited(self, conn: Connection) -> bool:
        began, said = time.monotonic(), False
        while (holder := self._ledger.take_target(conn)) is not None:
            ours = holder == self._ledger.run
            if ours and self._shared:
                return False
            busy = refuse_holder(holder, target_label(self._conninfo), self._ledger.run)
            # The same run's: a process that was just killed, more often than not; its backend is about to notice, or its lease to
            # end where a pooler keeps the backend.
            dying = LEASE_SECONDS + 1.0 if self._ledger.holder_is_behind_a_pooler(conn) else _DYING_SECONDS
            left = began + max(self._wait, dying if ours else 0.0) - time.monotonic()
            if left <= 0:
                raise busy
            if not said and self._wait:
                self._emit(Warned(f"waiting: {busy.message}"))
                said = True
            time.sleep(min(1.0 if self._wait else 0.1, left))
        return True

    def follow(self) -> None:
        """Another process of the run has it."""
        assert self._heartbeat is not None
        self._heartbeat.leader = False

    def taken_on(self, session: Session) -> bool:
        """Whether nobody has it any more, and so this process does now."""
        assert self._heartbeat is not None
        self._heartbeat.leader = session.retrying(self._ledger.take_target, what="ledger") is None
        return self._heartbeat.leader

    def still_ours(self) -> None:
        """Raises Unavailable when another process has taken it."""
        if self._heartbeat is not None and self._heartbeat.taken.is_set():
            raise taken_over(self._ledger.run)

    def on_beat(self, tell: Callable[[Connection], None]) -> None:
        """`tell` is called every few seconds, in the heartbeat's own connection."""
        if self._heartbeat is not None:
            self._heartbeat.on_beat = tell

    def stop(self) -> None:
        """No beat any more; the target is held still."""
        if self._heartbeat is not None:
            self._heartbeat.stop()

    def let_go(self, session: Session) -> None:
        """Of the target, as far as the database can be told so."""
        with contextlib.suppress(psycopg.Error, RestoreError):
            if self._heartbeat is not None:
                self._ledger.release_target(session.conn)
                self._ledger.unregister(session.conn)
        if self._heartbeat is not None:
            self._heartbeat.close()
