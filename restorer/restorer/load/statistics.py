"""What the planner knows of the tables: ANALYZE, where something changed; early where a load is still under way."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from psycopg import sql

from restorer.database.connection import Connection
from restorer.database.relation import of_table
from restorer.database.session import Session, hurries, unhurried_row
from restorer.model import TablePlan

_LOOK_SECONDS = 0.02
_STOP_SECONDS = 2.5
_TELLS_AT_ONCE = 150000
_TELLING_SECONDS = 0.6  # an older server hears of a session's rows twice a second


def told(conn: Connection) -> None:
    """What this session has written counts from here on. By itself it tells the server once in a second at most, and what it
    tells after an ANALYZE would count as new (PostgreSQL documentation, "The Cumulative Statistics System"; since 15)."""
    if conn.info.server_version >= _TELLS_AT_ONCE:
        conn.execute("SELECT pg_stat_force_next_flush()")


def analyze(conn: Connection, plan: TablePlan, *, untouched: bool) -> None:
    """`untouched`: this run left the table as it was. (Where the role may not, the server does nothing: preflight has told.)"""
    if not (untouched and _has_statistics(conn, plan.table.oid)):
        statement = sql.SQL("ANALYZE {}").format(of_table(plan.table.schema, plan.name).write)
        # By itself it takes a transaction for each partition; in one of ours it would hold the locks of all of them.
        apart = plan.table.partitioned and not hurries(conn)
        if apart:
            conn.execute(statement)
        else:
            unhurried_row(conn, statement)


def _has_statistics(conn: Connection, oid: int) -> bool:
    """Of all rows and columns that it has now. (What this session itself changed a moment ago the server may count only later.)"""
    row = conn.execute(_HAS_STATISTICS, (oid,)).fetchone()
    return row is not None and bool(row[0])


# Of a column that came later there is nothing in pg_stats, nor of one that this role may not read. ALTER TABLE is no change that is
# counted, nor is what happens to a child or partition.
_HAS_STATISTICS = """
SELECT current_setting('track_counts')::bool AND t.n_mod_since_analyze = 0 AND COALESCE(t.last_analyze, t.last_autoanalyze) IS NOT NULL
  AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = t.relid)
  AND NOT EXISTS (SELECT FROM pg_statistic_ext WHERE stxrelid = t.relid)
  AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = t.relid AND indexprs IS NOT NULL)
  AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.relid AND a.attnum > 0 AND NOT a.attisdropped AND NOT EXISTS (
      SELECT FROM pg_stats s WHERE s.schemaname = t.schemaname AND s.tablename = t.relname AND s.attname = a.attname))
FROM pg_stat_all_tables t WHERE t.relid = %s"""


class Early:
    """ANALYZE of one table after the other as soon as it is settled, while its pages are still in the server's memory and the
    others are loaded: in a thread and a session of its own, from the first such table on. What it does not come to is left
    for the end; so is everything once there was an error: there it is told if it comes again (and after a crash of the
    server tables are loaded anew). `analyze`: does it for one table."""

    def __init__(self, session: Session, analyze: Callable[[Connection, TablePlan], None]) -> None:
        self._session, self._analyze = session.another(), analyze
        self._queue: queue.SimpleQueue[TablePlan | None] = queue.SimpleQueue()
        self._done: set[str] = set()
        self._now: set[str] = set()  # the table that is under way
        self._over = threading.Event()
        self._idle = threading.Event()  # of a thread whose join was interrupted Python believes that it has ended
        self._idle.set()
        self._thread = threading.Thread(target=self._work, name="statistics", daemon=True)

    def settled(self, plans: list[TablePlan]) -> None:
        """These tables are complete."""
        if not self._thread.ident and not self._over.is_set():
            self._idle.clear()
            try:
                self._thread.start()
            except RuntimeError:  # the system lets no more threads start
                self._idle.set()
                self._over.set()
        for plan in plans:
            self._done.discard(plan.name)
            self._queue.put(plan)

    def stop(self) -> frozenset[str]:
        """No other table is begun. -> those that are through, and the one that is under way"""
        self._over.set()
        self._queue.put(None)
        return frozenset(self._done | self._now)

    def missed(self, begun: frozenset[str]) -> frozenset[str]:
        """Waits for the one that is under way. -> those of `begun` that are not through after all"""
        self._idle.wait()
        return begun - self._done

    def _work(self) -> None:
        try:
            while (plan := self._queue.get()) is not None:
                conn = self._session.conn
                if conn.info.server_version < _TELLS_AT_ONCE:
                    self._over.wait(_TELLING_SECONDS)
                self._now = {plan.name}
                if self._over.is_set():
                    return
                self._analyze(conn, plan)
                self._done.add(plan.name)
        except Exception:  # whatever it is
            self._done.clear()
        finally:
            self._session.close()
            self._idle.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whatever is still under way is ended."""
        self.stop()
        until = time.monotonic() + _STOP_SECONDS
        while not self._idle.wait(_LOOK_SECONDS) and time.monotonic() < until:
            self._session.cancel()
