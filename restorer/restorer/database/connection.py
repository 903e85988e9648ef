"""Connections to the target, what an error of theirs means, and how long to try again.

Every connection is UTF-8, autocommit (transactions are spelled out where they matter) and prepares nothing, so that a
transaction pooler in between does no harm.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from restorer.database.occupied import Occupied
from restorer.errors import LoadFailed, Refused, Unavailable

Connection = psycopg.Connection[tuple[Any, ...]]
Kind = Literal["record", "transient", "refused"]

# 08 connection, 40 rollback (serialization, deadlock), 53 resources (disk full, too many connections), 57P01-57P05 the
# server goes down or comes up, 55P03 lock_timeout, 57014 statement_timeout, 25P04 transaction_timeout, 25006 a failover left us on
# a standby.
# PostgreSQL documentation, appendix A.
_TRANSIENT = ("08", "40", "53", "57P", "55P03", "57014", "25P04", "25006", "58")
# 09, 20, 27, 38, 39: what functions and triggers come to; P0: RAISE, and classes that only RAISE … ERRCODE makes.
_RECORD = ("09", "20", "21", "22", "23", "27", "2F", "38", "39", "44", "45", "54", "P0")
_STANDARD = "0123456789FHPX"  # how the classes of PostgreSQL's own conditions begin
_FIRST_CONNECT_SECONDS = 30.0


def kind_of(error: psycopg.Error) -> Kind:
    """`record`: one record's fault, the ladder isolates it; `transient`: try again; `refused`: stop and tell."""
    state = error.sqlstate
    if state is None:  # the connection broke, or never was
        return "transient" if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) else "refused"
    if state.startswith(_TRANSIENT):
        return "transient"
    if state == "42501" and error.diag.source_function == "ExecWithCheckOptions":
        return "record"  # a policy says no to this row
    if state == "42601" and error.diag.statement_position is None:
        return "record"  # not of our SQL: a jsonpath, a tsvector, a trigger's own query
    return "record" if state.startswith(_RECORD) or state[0] not in _STANDARD else "refused"


def target_label(conninfo: str) -> str:
    """`host/database` as a person types it to confirm; `local/database` for a socket."""
    parts = conninfo_to_dict(conninfo)
    host = str(parts.get("host") or parts.get("hostaddr") or "local")
    return f"{'local' if host.startswith(('/', '@')) else host}/{parts.get('dbname') or parts.get('user') or ''}"


def open_connection(conninfo: str) -> Connection:
    """One attempt. Raises psycopg.OperationalError."""
    return Occupied.connect(
        make_conninfo(
            conninfo,
            client_encoding="UTF8",
            **{k: v for k, v in _DEFAULTS.items() if k not in conninfo_to_dict(conninfo)},
        ),
        autocommit=True,
        prepare_threshold=None,
    )


_NOT_CONNECTED = ("connection failed", "connection is bad")  # how psycopg begins, the latter for a socket
# How libpq tells of an answer that no PostgreSQL gives. Often a proxy's or a gateway's, which speaks HTTP while the server behind
# it is away: it may come back, as one that refuses connections.
_NOT_POSTGRESQL = ("received invalid response to", "expected authentication request from server, but received")
_STRANGER = "what answers there is not PostgreSQL: "
_DEFAULTS = {
    "application_name": "restorer",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}


def first_connection(
    conninfo: str, on_retry: Callable[[str, float, int, str], None], seconds: float | None = None
) -> Connection:
    """The run's first connection. A server that is starting or not reachable gets `seconds`; by default as many as the
    connection string or PGCONNECT_TIMEOUT say, else 30. `on_retry(SQLSTATE, seconds to wait, attempt, why)`.

    Raises Unavailable (host, port, no PostgreSQL there, starting up, too many connections) or Refused (password, database,
    role, TLS).
    """
    label = target_label(conninfo)
    seconds = _patience(conninfo) if seconds is None else seconds
    deadline = time.monotonic() + seconds
    for attempt, wait in enumerate(backoff(0.25, 4.0), 1):
        try:
            return open_connection(conninfo)
        except psycopg.OperationalError as error:
            state, reason = error.sqlstate or "", connect_reason(error)
            if _permanent(state, reason):
                raise Refused(f"cannot connect to {label}", f"{reason}; {_remedy(reason)}") from None
            if time.monotonic() + wait > deadline:
                raise Unavailable(
                    f"cannot reach {label} after {seconds:.0f} s",
                    f"{reason}; check host, port and that the server runs",
                ) from None
            on_retry(state or "08001", wait, attempt, reason)
            time.sleep(wait)
    raise AssertionError("backoff never ends")


def _patience(conninfo: str) -> float:
    asked = conninfo_to_dict(conninfo).get("connect_timeout") or os.environ.get("PGCONNECT_TIMEOUT") or ""
    return float(asked) if str(asked).isdigit() and int(asked) > 0 else _FIRST_CONNECT_SECONDS


def reopen(conninfo: str) -> Connection:
    """A connection in place of a broken one. Raises psycopg.OperationalError when trying again may help, else LoadFailed:
    the database or the role is gone, or the password is another one now."""
    try:
        return open_connection(conninfo)
    except psycopg.OperationalError as error:
        reason = connect_reason(error)
        if _permanent(error.sqlstate or "", reason, again=True):
            raise LoadFailed(
                f"cannot connect to {target_label(conninfo)} any more", f"{reason}; {_remedy(reason)}"
            ) from None
        raise


def _permanent(state: str, reason: str, *, again: bool = False) -> bool:
    """libpq gives connection errors no SQLSTATE in some versions, so the words of the server decide as well. `again`: it went
    through before; then a handshake that a dying server broke off, or was too slow for, is no reason to give up."""
    if state:
        return state.startswith(("28", "3D", "42", "08P"))
    if reason.startswith(_STRANGER):
        return False
    refused = (
        "authentication failed",
        "does not exist",
        "not permitted to log in",
        "no pg_hba.conf entry",
        "no password supplied",
        "certificate verify",
    )
    words = refused if again else (*refused, "certificate", "SSL", "authentication")
    return any(w in reason for w in words) and "starting up" not in reason and "No such file" not in reason


def _remedy(reason: str) -> str:
    if "password" in reason or "authentication" in reason:
        return "check user and password (PGUSER, PGPASSWORD, or the secret)"
    if "database" in reason and "does not exist" in reason:
        return "check the database name, or create the database"
    if "log in" in reason:
        return "let the role log in (ALTER ROLE … LOGIN)"
    if "role" in reason:
        return "check the user name"
    if "SSL" in reason or "certificate" in reason:
        return "check tls.mode (sslmode) and the CA certificate"
    return "check pg_hba.conf on the server"


def connect_reason(error: Exception) -> str:
    """libpq puts one line per address tried, and a question after some; the last answer counts. Holds no password."""
    told = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in told if line and not line.startswith("Is the server running")]
    fatal = [line for line in lines if "FATAL" in line]
    reason = (fatal or lines or [type(error).__name__])[-1]
    for opening in _NOT_CONNECTED:
        reason = reason.removeprefix(f"{opening}: ")
    return _STRANGER + reason if any(words in reason for words in _NOT_POSTGRESQL) else reason


def never_connected(error: Exception) -> bool:
    """There was no connection yet that could have broken."""
    return str(error).startswith(_NOT_CONNECTED)


def backoff(initial: float, longest: float) -> Iterator[float]:
    """Seconds to wait: exponential with full jitter (uniform between 0 and the step), for ever."""
    step = initial
    while True:
        yield random.uniform(0, step)
        step = min(step * 2, longest)


class Backend(msgspec.Struct, frozen=True):
    """Who we are to the server: an owner can be told dead when its backend is gone. `pid` 0: a pooler's, which stays when we are
    gone and may go while we are there; only the lease tells then."""

    pid: int
    start: str


def backend_of(conn: Connection) -> Backend:
    row = conn.execute(
        "SELECT pid, COALESCE(backend_start::text, '') FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    ).fetchone()
    return Backend(*row) if row and row[0] == conn.info.backend_pid else Backend(0, "")


def host_name() -> str:
    return socket.gethostname()
