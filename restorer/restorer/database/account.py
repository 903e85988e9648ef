"""The ledger's account of a run: per table, in total, by rung; and the report made of it."""

from __future__ import annotations

import datetime as dt

from restorer.database.connection import Connection
from restorer.database.ledger import Ledger, Run
from restorer.database.session import unhurried
from restorer.database.tasks import LEVELS
from restorer.errors import RestoreError
from restorer.report import Check, Counters, FallbackLevel, RejectSample, Report, SnapshotInfo, TableReport, Totals

SAMPLE = 5


class TableAccount(Counters):
    """One table as the ledger has it. `records_in_file`: how many the reader counted up to the file's end, where it can
    tell (None for NDJSON, whose ordinals are line numbers, and for a file not read to its end)."""

    name: str = ""
    state: str = "Pending"
    deferred: int = 0
    bytes: int = 0
    bytes_done: int = 0
    seconds: float = 0.0
    was_empty: bool = False
    records_in_file: int | None = None
    error: str = ""


_ACCOUNTS = """
SELECT b.name, b.bytes, b.was_empty, b.error, b.settled, COALESCE(bool_and(t.state = 'Done'), false) AND b.split AS done,
       COALESCE(sum(t.read), 0)::bigint, COALESCE(sum(t.inserted), 0)::bigint, COALESCE(sum(t.updated), 0)::bigint,
       COALESCE(sum(t.duplicate), 0)::bigint, COALESCE(sum(t.conflict), 0)::bigint, COALESCE(sum(t.rejected), 0)::bigint,
       COALESCE(sum(t.deferred), 0)::bigint, COALESCE(sum(t.next_offset - t.start_offset), 0)::bigint, COALESCE(sum(t.seconds), 0)::float8,
       COALESCE(max(t.next_ordinal), 1) - 1, COALESCE(bool_or(t.owner IS NOT NULL), false)
FROM {tables} b LEFT JOIN {tasks} t ON t.run = b.run AND t.table_name = b.name
WHERE b.run = %s GROUP BY b.run, b.name ORDER BY b.position"""


def accounts(conn: Connection, ledger: Ledger) -> list[TableAccount]:
    """Every table of the run, in the order of loading."""
    found = []
    for row in conn.execute(ledger.q(_ACCOUNTS), (ledger.run,)):
        name, size, was_empty, error, settled, done, *counts, deferred, bytes_done, seconds, last, claimed = row
        state = (
            "Failed" if error else "Done" if settled else "Deferred" if done else "Loading" if claimed else "Pending"
        )
        whole = last if done else None
        read, inserted, updated, duplicate, conflict, rejected = counts
        found.append(
            TableAccount(
                read, inserted, updated, duplicate, conflict, rejected,
                name, state, deferred, size, bytes_done, seconds, was_empty, whole, error,
            )
        )  # fmt: skip
    return found


def wrote(conn: Connection, ledger: Ledger, table: str) -> bool:
    """Whether the run put rows into the table, or changed some."""
    row = conn.execute(
        ledger.q(
            "SELECT EXISTS (SELECT FROM {tasks} WHERE run = %s AND table_name = %s AND (inserted > 0 OR updated > 0))"
        ),
        (ledger.run, table),
    ).fetchone()
    return row is not None and bool(row[0])


def fallback(conn: Connection, ledger: Ledger) -> list[FallbackLevel]:
    """How much went through each rung, over all attempts."""
    batches: dict[str, int] = {}
    records: dict[str, int] = {}
    for b, r in conn.execute(ledger.q("SELECT batches, records FROM {tasks} WHERE run = %s"), (ledger.run,)):
        for into, more in ((batches, b), (records, r)):
            for level, number in more.items():
                into[level] = into.get(level, 0) + number
    return [
        FallbackLevel(level, batches.get(level, 0), records.get(level, 0))
        for level in LEVELS
        if batches.get(level) or records.get(level)
    ]


def sample(conn: Connection, ledger: Ledger) -> list[RejectSample]:
    """A few rejects by their place, one of each reason first."""
    with unhurried(conn):  # there may be very many
        rows = conn.execute(
            ledger.q(
                "SELECT table_name, ordinal, reason, sqlstate, constraint_name FROM "
                "(SELECT table_name, ordinal, reason, sqlstate, constraint_name, "
                "row_number() OVER (PARTITION BY reason, table_name ORDER BY id) AS nth "
                "FROM {rejects} WHERE run = %s) x ORDER BY nth, table_name, ordinal LIMIT %s"
            ),
            (ledger.run, SAMPLE),
        ).fetchall()
    return [RejectSample(*row) for row in rows]


def make_report(
    conn: Connection,
    ledger: Ledger,
    run: Run,
    *,
    mode: str,
    failure: RestoreError | None,
    checks: list[Check] | None = None,
    final: bool = True,
) -> Report:
    """The report of the run as it stands in the ledger. `failure`: why it is no success, or None."""
    tables = accounts(conn, ledger)
    totals = Totals(tables=len(tables))
    for t in tables:
        # brackets and white space around the records belong to no batch
        totals.bytes += t.bytes if t.state == "Done" else min(t.bytes_done, t.bytes)
        for name in Counters.__struct_fields__:
            setattr(totals, name, getattr(totals, name) + getattr(t, name))
    row = conn.execute(ledger.q("SELECT retries, warnings FROM {runs} WHERE run = %s"), (ledger.run,)).fetchone()
    totals.retries, warnings = (row[0], row[1]) if row else (0, run.warnings)
    seconds = round(run.seconds)
    outcome = failure.outcome if failure else "Succeeded"
    return Report(
        run=ledger.run,
        mode=mode,
        outcome=outcome,
        reason=failure.reason if failure else "",
        message=failure.line() if failure else summary(totals, run.seconds, mode),
        snapshot=SnapshotInfo(run.snapshot, run.bytes, len(tables)),
        start_time=run.created_at,
        completion_time=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if final else "",
        seconds=seconds,
        totals=totals,
        fallback=fallback(conn, ledger),
        tables=[
            TableReport(
                t.name,
                t.state,
                t.read,
                t.inserted,
                t.updated,
                t.duplicate,
                t.conflict,
                t.rejected,
                round(t.seconds),
                t.error,
            )
            for t in tables
        ],
        rejected_sample=sample(conn, ledger),
        verification=checks or [],
        warnings=warnings,
        attempts=run.attempts,
    )


def summary(totals: Totals, seconds: float, mode: str) -> str:
    """`2,345,890 rows into 24 tables in 41 s; 12 rejected`"""
    if mode == "VerifyOnly":
        return f"{totals.duplicate:,} of {totals.read:,} records are in the database with the same content, in {totals.tables} tables"
    rows = totals.inserted + totals.updated
    would = " would go" if mode == "DryRun" else ""
    tables = f"{totals.tables} table{'' if totals.tables == 1 else 's'}"
    extras = [
        f"{n:,} {word}"
        for n, word in ((totals.duplicate, "duplicate"), (totals.conflict, "conflict"), (totals.rejected, "rejected"))
        if n
    ]
    return f"{rows:,} rows{would} into {tables} in {seconds:.0f} s; " + (", ".join(extras) or "0 rejected")
