"""`restorer rejects`: what was not loaded and why, out into files, and back in once repaired.

Export writes one NDJSON file per table, a record a line, and beside it `TABLE.index.csv`, which says for each line
where the record came from and why it was rejected. A repaired file keeps its lines where they are; a line made blank
stays rejected.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import msgspec
import typer

from restorer.database.connection import Connection, first_connection, target_label
from restorer.database.ledger import Ledger, refuse_holder
from restorer.database.ledger_schema import RIGHTS, TABLES
from restorer.database.paging import PAGE_BYTES
from restorer.database.session import Session, unhurried
from restorer.errors import Refused
from restorer.load.heartbeat import Heartbeat
from restorer.load.retry import retry as retry_rejects
from restorer.spec import Retry

from . import options
from .inspect_commands import open_ledger, run_key
from .repaired import INDEX, Repaired

app = typer.Typer(help="Records that were not loaded: list, export, repair, retry.", no_args_is_help=True)
_RUN = typer.Option(None, "--name", metavar="RUN", help="The run.", show_default="the newest")
_TABLE = typer.Option(None, "--table", help="Only this table.")
_AT_ONCE = 200  # records that are fetched together, where they are short
_KINDS = 12  # lines of the summary; --limit 0 shows all
_HEADER = ("line", "id", "record", "reason", "sqlstate", "constraint", "column", "message")


@app.command("list")
def list_(
    file: Path | None = options.MANIFEST,
    dsn: str | None = options.DSN,
    name: str | None = _RUN,
    table: str | None = _TABLE,
    limit: int = typer.Option(50, help="So many at the most; 0 for all."),
    ledger_schema: str | None = options.LEDGER,
    json: bool = typer.Option(False, "--json", help="One line of JSON per reject."),
) -> None:
    """List rejected records by place and reason. Their values are not shown: export them."""
    conninfo, manifest = options.ledger_target(dsn, file)
    with first_connection(conninfo, lambda *_: None) as conn:
        ledger = open_ledger(conn, options.ledger_schema(ledger_schema, manifest), run_key(name, manifest))
        by_reason = conn.execute(
            ledger.q(
                "SELECT table_name, reason, count(*) FROM {rejects} "
                "WHERE run = %s AND (%s::text IS NULL OR table_name = %s) GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
            ),
            (ledger.run, table, table),
        ).fetchall()
        rows = _rows(conn, ledger, table, limit)
    if json:
        sys.stdout.writelines(msgspec.json.encode(row).decode() + "\n" for row in rows)
        return
    total = sum(n for *_, n in by_reason)
    print(f"run {ledger.run}: {total:,} rejected")
    shown = by_reason if limit == 0 else by_reason[:_KINDS]
    for of_table, reason, number in shown:
        print(f"{number:>10,}  {of_table}  {reason}")
    if len(shown) < len(by_reason):
        print(f"{sum(n for *_, n in by_reason[_KINDS:]):>10,}  of {len(by_reason) - _KINDS} more kinds")
    if rows:
        print()
    for row in rows:
        print(f"{row['table']} record {row['record']}: {row['reason']} {row['sqlState']} {row['message']}".rstrip())
    if len(rows) < total:
        print(f"… and {total - len(rows):,} more (--limit 0 shows all)")


def _rows(conn: Connection, ledger: Ledger, table: str | None, limit: int) -> list[dict[str, Any]]:
    rows = conn.execute(
        ledger.q(
            "SELECT id, table_name, ordinal, byte_offset, reason, sqlstate, constraint_name, column_name, message, "
            "attempts FROM {rejects} WHERE run = %s AND (%s::text IS NULL OR table_name = %s) "
            "ORDER BY table_name, ordinal, id LIMIT %s"
        ),
        (ledger.run, table, table, limit or None),
    )
    names = ("id", "table", "record", "offset", "reason", "sqlState", "constraint", "column", "message", "attempts")
    return [dict(zip(names, row, strict=True)) for row in rows]


@app.command()
def export(
    folder: Path = typer.Argument(..., metavar="DIR", help="Where the files go; made if it is not there."),
    file: Path | None = options.MANIFEST,
    dsn: str | None = options.DSN,
    name: str | None = _RUN,
    table: str | None = _TABLE,
    ledger_schema: str | None = options.LEDGER,
) -> None:
    """Write rejected records to files that can be repaired and retried. They may hold personal data."""
    conninfo, manifest = options.ledger_target(dsn, file)
    with first_connection(conninfo, lambda *_: None) as conn:
        ledger = open_ledger(conn, options.ledger_schema(ledger_schema, manifest), run_key(name, manifest))
        tables = conn.execute(
            ledger.q(
                "SELECT DISTINCT x.table_name, t.file FROM {rejects} x "
                "JOIN {tables} t ON t.run = x.run AND t.name = x.table_name "
                "WHERE x.run = %s AND (%s::text IS NULL OR x.table_name = %s) ORDER BY 1"
            ),
            (ledger.run, table, table),
        ).fetchall()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for of_table, source in tables:
                number = _export_table(conn, ledger, of_table, folder / f"{source}.ndjson")
                print(f"{folder / source}.ndjson: {number:,} records of {of_table}")
        except OSError as error:
            raise Refused(f"{error.filename}: {error.strerror}", "choose a folder that can be written") from None
    if not tables:
        print(f"run {ledger.run} has no rejected records")


def _longest(conn: Connection, ledger: Ledger, table: str) -> int:
    """-> bytes of the longest record that was rejected"""
    query = ledger.q("SELECT max(octet_length(record)) FROM {rejects} WHERE run = %s AND table_name = %s")
    row = conn.execute(query, (ledger.run, table)).fetchone()
    return int(row[0] or 0) if row else 0


def _export_table(conn: Connection, ledger: Ledger, table: str, target: Path) -> int:
    """Newlines between a record's tokens become spaces: one record is one line. -> records written"""
    number = 0
    with (
        target.open("wb") as out,
        target.with_suffix(INDEX).open("w", newline="", encoding="utf-8") as index,
        unhurried(conn),
    ):
        writer = csv.writer(index)
        writer.writerow(_HEADER)
        with conn.cursor(name="rejects_export") as cursor:
            cursor.itersize = max(1, min(_AT_ONCE, PAGE_BYTES // max(1, _longest(conn, ledger, table))))
            cursor.execute(
                ledger.q(
                    "SELECT id, ordinal, reason, sqlstate, constraint_name, column_name, message, record "
                    "FROM {rejects} WHERE run = %s AND table_name = %s AND reason <> 'RecordTooLarge' "
                    "ORDER BY ordinal, id"
                ),
                (ledger.run, table),
                binary=True,
            )
            for *told, record in cursor:
                number += 1
                out.write(record.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n")
                writer.writerow((number, *told))
    return number


@app.command()
def retry(
    repaired: Path | None = typer.Option(
        None, "--from", metavar="DIR", help="A folder that export wrote, repaired; else the records as they are."
    ),
    file: Path | None = options.MANIFEST,
    dsn: str | None = options.DSN,
    name: str | None = _RUN,
    ledger_schema: str | None = options.LEDGER,
) -> None:
    """Load rejected records again, under the same run; the run's report moves with them."""
    conninfo, manifest = options.ledger_target(dsn, file)
    records = Repaired(repaired) if repaired else None
    with first_connection(conninfo, lambda *_: None) as conn:
        ledger = open_ledger(
            conn, options.ledger_schema(ledger_schema, manifest), run_key(name, manifest), RIGHTS, TABLES
        )
        run = ledger.find(conn)
        if run is None or not run.finished:
            raise Refused(f"run {ledger.run!r} is not finished", "finish it first: the same `restorer run` goes on")
        heartbeat = Heartbeat(conninfo, ledger, leader=True)
        heartbeat.start()
        try:
            if (holder := ledger.take_target(conn)) is not None:
                raise refuse_holder(holder, target_label(conninfo), ledger.run)
            session = Session(conninfo, Retry(), lambda _: None, conn=conn)
            done = retry_rejects(session, ledger, records)
        finally:
            heartbeat.stop()
            ledger.release_target(conn)
            ledger.unregister(conn)
            heartbeat.close()
    print(f"run {ledger.run}: {done.tried:,} tried, {done.settled:,} settled, {done.left:,} rejected again")
    raise typer.Exit(2 if done.left else 0)
