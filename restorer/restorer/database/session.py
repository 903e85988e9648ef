"""The connection a worker loads through: transactions with fixed settings, and trying again after transient errors."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from restorer.database.connection import Connection, backoff, connect_reason, kind_of, never_connected, reopen
from restorer.database.message import COMMIT, in_one_message
from restorer.database.pooler import straight
from restorer.database.problems import problem_of
from restorer.errors import LoadFailed, RestoreError, Unavailable
from restorer.events import Emit, Retried
from restorer.spec import Retry

T = TypeVar("T")
_TIMEOUTS = {"statement_timeout": 0, "transaction_timeout": 170000}  # since which version
_CANCEL_SECONDS = 1.0  # for a server that does not answer
AGAIN = "start the same command again when the database is well"

# What a value means must not depend on the role's or the database's settings. Nothing here outlives the transaction, so
# a pooler may hand every transaction to another backend. synchronous_commit: ledger and rows are lost together, or not
# at all; the last commit of a run waits. Deferrable constraints are checked by the statement, where a row can be blamed.
_BEGIN = """BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off; SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD';
SET LOCAL IntervalStyle = 'postgres'; SET LOCAL lc_monetary = 'C'; SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL client_min_messages = 'error'; SET LOCAL array_nulls = on; SET LOCAL xmloption = 'content';
SET LOCAL extra_float_digits = 1; SET CONSTRAINTS ALL IMMEDIATE"""
# A batch is small beside the table it is held against: without these a planner with no statistics reads the whole table
# for every batch instead of asking its index.
_STAGED = """; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL random_page_cost = 1;
SET LOCAL jit = off; SET LOCAL work_mem = '64MB'"""


@contextlib.contextmanager
def unhurried(conn: Connection) -> Iterator[None]:
    """A transaction for what goes through whole tables. The role's or the database's timeouts are there for an application's
    queries; such a statement takes as long as it takes, and would never come to an end by being tried again (pg_restore
    switches them off for the same reason)."""
    conn.execute(f"BEGIN; {_no_timeout(conn)}")
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        rollback(conn)
        raise


def unhurried_row(conn: Connection, statement: sql.Composable) -> tuple[Any, ...] | None:
    """One statement in a transaction as `unhurried` makes it, and one round trip. -> its first row"""
    try:
        rows = in_one_message(conn, sql.SQL(f"BEGIN; {_no_timeout(conn)}"), statement, COMMIT)
    except BaseException:
        rollback(conn)
        raise
    return rows[0] if rows else None


def hurries(conn: Connection) -> bool:
    """Whether any timeout is set that `unhurried` is about."""
    row = conn.execute(
        "SELECT bool_or(setting <> '0') FROM pg_settings WHERE name = ANY (%s)", (list(_TIMEOUTS),)
    ).fetchone()
    return row is None or bool(row[0])


def _begin(staged: bool) -> str:
    return _BEGIN + _STAGED if staged else _BEGIN


def _no_timeout(conn: Connection) -> str:
    version = conn.info.server_version
    return "; ".join(f"SET LOCAL {name} = 0" for name, since in _TIMEOUTS.items() if version >= since)


class Session:
    """A connection that is opened again when it breaks. With `one_connection` it never is: what a run keeps in
    temporary tables is gone with its connection, and the run with it."""

    def __init__(
        self, conninfo: str, retry: Retry, emit: Emit, *, conn: Connection | None = None, one_connection: bool = False
    ) -> None:
        self.conninfo, self.retry, self.emit = conninfo, retry, emit
        self._conn = conn
        self._one = one_connection
        self._ahead: bool | None = None  # a transaction was begun, for a batch that follows; staged or not
        self._cancelled = threading.Event()
        self.on_retry: Callable[[Connection], object] = lambda _: None

    @property
    def conn(self) -> Connection:
        """The open connection; opens it when there is none. Raises psycopg.OperationalError, LoadFailed."""
        if self._conn is None or self._conn.closed:
            if self._one and self._conn is not None:
                raise Unavailable("the connection is lost, and with it this run's temporary tables", "run it again")
            self._conn = reopen(self.conninfo)
        return self._conn

    def another(self) -> Session:
        """A second one to the same server, not open yet."""
        other = Session(self.conninfo, self.retry, self.emit)
        other.on_retry = self.on_retry
        return other

    def cancel(self) -> None:
        """From another thread: ends the statement that is under way; nothing is tried again. One that only just begins may
        escape: call it until that thread is done."""
        self._cancelled.set()
        if self._conn is not None and not self._conn.closed:
            with contextlib.suppress(psycopg.Error):
                self._conn.cancel_safe(timeout=_CANCEL_SECONDS)

    def close(self) -> None:
        if self._conn is not None:
            self._conn.close()

    def begin(self, conn: Connection, staged: bool = False) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
            if ahead == staged:
                return
            conn.execute("ROLLBACK")
        conn.execute(_begin(staged))

    def ahead(self, conn: Connection, staged: bool) -> list[sql.SQL]:
        """What may stand behind the COMMIT of a batch, in the same message, where another batch follows: its `begin` takes no
        round trip then. Behind a pooler nothing: others wait for its process between two transactions. Whoever uses it calls
        `nothing_ahead` in the end."""
        if not straight(conn):
            return []
        self._ahead = staged
        return [sql.SQL(_begin(staged))]

    def nothing_ahead(self) -> None:
        """No batch follows after all."""
        if self._ahead is not None and self._conn is not None:
            rollback(self._conn)
        self._ahead = None

    def begin_unhurried(self, conn: Connection, staged: bool = False, *more: str) -> None:
        """As `begin`, but no timeout ends it (see `unhurried`). `more`: statements behind it."""
        conn.execute("; ".join((_begin(staged), _no_timeout(conn), *more)))

    @contextlib.contextmanager
    def transaction(self, *, staged: bool = False, durable: bool = False) -> Iterator[Connection]:
        """For what is no batch: no timeout ends it (see `unhurried`). `durable`: the commit waits for the disk, for what this
        process goes on to believe without asking again."""
        conn = self.conn
        self.begin_unhurried(conn, staged, *(["SET LOCAL synchronous_commit = on"] if durable else []))
        try:
            yield conn
            conn.execute("COMMIT")
        except BaseException:
            rollback(conn)
            raise

    def retrying(
        self,
        step: Callable[[Connection], T],
        *,
        what: str,
        on_transient: Callable[[psycopg.Error], None] = lambda _: None,
    ) -> T:
        """Runs `step` until it goes through, with exponential backoff and full jitter on transient errors.

        `what` names the step for people. Raises Unavailable once `retry.maxElapsedSeconds` are over, LoadFailed for
        an error that trying again cannot mend.
        """
        started = time.monotonic()
        for attempt, wait in enumerate(backoff(self.retry.initial_seconds, self.retry.max_seconds), 1):
            if self._cancelled.is_set():
                raise Unavailable(f"{what}: cancelled", AGAIN)
            try:
                return step(self.conn)
            except psycopg.Error as error:
                self._give_up_or_wait(error, what, started, attempt, wait)
                on_transient(error)
        raise AssertionError("backoff never ends")

    def _give_up_or_wait(self, error: psycopg.Error, what: str, started: float, attempt: int, wait: float) -> None:
        if self._conn is not None:
            rollback(self._conn)
        state = error.sqlstate or "08006"
        if state == _READ_ONLY and self._conn is not None:  # after a failover this one leads to what is a standby now
            self._conn.close()
        words = f"{what}: {describe(error)} (SQLSTATE {state})"
        if state == _TOO_MUCH:  # of what the next try would need as well; what is loaded stays, and the run can go on
            raise Unavailable(words, remedy_for(error), sqlstate=state) from None
        if kind_of(error) != "transient":
            raise LoadFailed(words, remedy_for(error), sqlstate=state) from None
        if time.monotonic() - started + wait > self.retry.max_elapsed_seconds:
            raise Unavailable(
                f"{words}, still after {time.monotonic() - started:.0f} s",
                AGAIN,
            ) from None
        self.emit(Retried(state, wait, attempt, words))
        self._cancelled.wait(wait)
        with contextlib.suppress(psycopg.Error):
            self.on_retry(self.conn)


def rollback(conn: Connection) -> None:
    """Rolls back, or closes a connection that cannot even do that. In a COPY, closing is the rollback."""
    if conn.closed:
        return
    try:
        if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            conn.execute("ROLLBACK")
    except psycopg.Error:
        conn.close()


_READ_ONLY = "25006"
_TOO_MUCH = "53400"  # temp_file_limit
_WORDS = {
    "42501": "this role may not do that",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "the server has no connection left",
    _TOO_MUCH: "the query needs more temporary files than temp_file_limit allows",
    "57P01": "the server ended the session: it is shutting down, or somebody ended it",
    "57P02": "the server crashed",
    "57P03": "the server is starting up",
    "57014": "a timeout of the server ended the statement",
    "25P04": "a timeout of the server ended the transaction",
    "55P03": "a lock was not to be had in time",
    _READ_ONLY: "the server is read-only now",
    "40P01": "a deadlock",
    "P0001": "a function or trigger raised an exception",
}


# The server's functions that say which right on what is missing: "permission denied for table t", in its own language. What a
# trigger raises comes out of another one.
_NAMES_WHAT_IS_MISSING = ("aclcheck_error", "aclcheck_error_col", "aclcheck_error_type")


def describe(error: psycopg.Error) -> str:
    """What went wrong, in words that hold no value of any record."""
    if error.sqlstate is None:
        return (
            f"cannot connect: {connect_reason(error)}"
            if never_connected(error)
            else "the connection to the database broke"
        )
    if error.diag.source_function in _NAMES_WHAT_IS_MISSING and error.diag.message_primary:
        return error.diag.message_primary
    if error.sqlstate in _WORDS:
        return _WORDS[error.sqlstate]
    if error.sqlstate[:2] in ("42", "28", "3D", "3F", "0A", "55"):  # about names and rights, not about data
        return (error.diag.message_primary or type(error).__name__).strip()
    return problem_of(error).message


def failure_of(error: psycopg.Error) -> RestoreError:
    """What an error that nobody else took care of means for the command."""
    kind = Unavailable if kind_of(error) == "transient" else LoadFailed
    state = error.sqlstate or "08006"
    remedy = AGAIN if kind is Unavailable else remedy_for(error)
    return kind(f"{describe(error)} (SQLSTATE {state})", remedy, sqlstate=error.sqlstate or "")


def remedy_for(error: psycopg.Error) -> str:
    if error.sqlstate == "42501":
        return "give this role what it takes; `restorer plan` lists what a restore needs"
    if error.sqlstate == _TOO_MUCH:
        return "raise temp_file_limit or work_mem for this role, and start the same command again"
    if (error.sqlstate or "").startswith("42"):
        return "the tables changed since the plan was made, or a hook or query is wrong; mend it and start a new run"
    return "see the database's log"
