"""The runs that a ledger knows, and getting rid of them."""

from __future__ import annotations

from restorer.database.connection import Connection
from restorer.database.ledger import Ledger
from restorer.database.session import unhurried
from restorer.errors import Refused

_NAMED = 5  # runs that a refusal names


def list_runs(conn: Connection, schema: str) -> list[dict[str, str]]:
    """Every run, newest first: run, state, started, message."""
    ledger = Ledger(schema, "")
    rows = conn.execute(
        ledger.q(
            "SELECT run, state, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), "
            "COALESCE(report->>'message', '') FROM {runs} ORDER BY created_at DESC"
        )
    )
    return [dict(zip(("run", "state", "started", "message"), row, strict=True)) for row in rows]


def no_such_run(name: str, runs: list[str]) -> Refused:
    """`runs`: those that there are, newest first."""
    return Refused(f"no run {name!r} in the ledger", f"there are: {', '.join(runs[:_NAMED]) or 'none'}")


def purge_runs(
    conn: Connection, schema: str, names: list[str], older_than_days: int | None, *, rejects_only: bool
) -> list[str]:
    """Forgets the runs named, finished or not, and those that ended so long ago (or only their rejects). -> whose. One that
    somebody works on is never touched. Raises Refused for a name that is none, or is such a run's."""
    ledger = Ledger(schema, "")
    at_work = "EXISTS (SELECT FROM {owners} o WHERE o.run = r.run AND o.lease_until >= clock_timestamp())"
    chosen = (
        "SELECT run FROM {runs} r WHERE (run = ANY (%s) OR finished_at < clock_timestamp() - %s * interval '1 day') AND NOT "
        + at_work
    )
    what = "{rejects}" if rejects_only else "{runs}"
    query = f"WITH gone AS (DELETE FROM {what} WHERE run IN ({chosen}) RETURNING run) SELECT DISTINCT run FROM gone ORDER BY 1"
    with unhurried(conn):
        rows = conn.execute(ledger.q(f"SELECT run, {at_work} FROM {{runs}} r ORDER BY created_at DESC"))
        known: dict[str, bool] = dict(rows.fetchall())
        for name in names:
            if name not in known:
                raise no_such_run(name, list(known))
            if known[name]:
                raise Refused(
                    f"run {name!r} is under way, or was until a moment ago",
                    "stop it first; one that was killed can be forgotten ten seconds later",
                )
        gone = [row[0] for row in conn.execute(ledger.q(query), (names, older_than_days))]
        if not rejects_only:
            # Should somebody be at work on it all the same (a machine that stood still), the fence stops it.
            for what in ("{target}", "{owners}"):
                conn.execute(ledger.q(f"DELETE FROM {what} WHERE run = ANY (%s)"), (gone,))
        ledger.sweep(conn)
    return gone
