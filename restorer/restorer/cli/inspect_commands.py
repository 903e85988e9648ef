"""`restorer plan`, `verify` and `report`: looking without writing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import typer

from restorer.database.connection import Connection, first_connection, target_label
from restorer.database.ledger import Ledger
from restorer.database.ledger_schema import LOOKED_AT, exists
from restorer.database.runs import no_such_run
from restorer.errors import Refused
from restorer.model import TablePlan
from restorer.preflight import Prepared, find, prepare
from restorer.report import Report
from restorer.spec import Manifest
from restorer.watch import publish
from restorer.watch.words import counted, size

from . import options
from .run_command import Wiring


def plan(
    file: Path | None = options.MANIFEST,
    backup: Path | None = options.BACKUP,
    dsn: str | None = options.DSN,
    snapshot: str | None = options.SNAPSHOT,
    tables: str | None = options.TABLES,
    schema: str | None = options.SCHEMA,
    json: bool = options.JSON,
) -> None:
    """Show what a run would do: snapshot, tables and their order, columns, warnings. Nothing is written."""
    overrides = options.selection(snapshot, tables, schema)
    choice = options.choose(file=file, backup=backup, dsn=dsn, name="plan", run_id=None, overrides=overrides)
    found = find(choice.spec, choice.root, None)
    with first_connection(choice.conninfo, lambda *_: None) as conn:
        try:
            prepared = prepare(conn, choice.spec, found, conninfo=choice.conninfo, fresh=True)
        except Refused as refused:
            for problem in refused.problems:
                print(f"restorer: {problem}", file=sys.stderr)
            raise typer.Exit(2) from None
    if json:
        sys.stdout.write(msgspec.json.encode(_plan_json(prepared)).decode() + "\n")
    else:
        sys.stdout.write(_plan_text(prepared, target_label(choice.conninfo)))


def _plan_json(prepared: Prepared) -> dict[str, object]:
    made = prepared.plan
    return {
        "snapshot": {"name": prepared.snapshot.name, "bytes": made.bytes, "tables": len(made.tables)},
        "tables": [
            {
                "name": p.name,
                "file": p.file.name,
                "bytes": p.file.size,
                "group": p.group,
                "after": p.after,
                "cyclic": p.cyclic,
                "columns": {c.key: c.column.name for c in p.columns},
                "defaults": [c.column.name for c in p.late],
                "ignored": p.ignored,
            }
            for p in made.tables
        ],
        "warnings": prepared.warnings,
    }


def _plan_text(prepared: Prepared, label: str) -> str:
    made = prepared.plan
    lines = [
        f"snapshot {prepared.snapshot.name} ({size(made.bytes)}) into {label}: "
        f"{counted(len(made.tables), 'table')}, in this order",
        "",
    ]
    for p in made.tables:
        cycle = ", in a cycle of foreign keys" if p.cyclic else ""
        form = " ".join(filter(None, (p.file.layout, p.file.compression)))
        lines.append(f"{p.name}  from {p.file.name} ({form}, {size(p.file.size)}){cycle}")
        lines += [f"    {line}" for line in _columns(p)]
    if prepared.warnings:
        lines += ["", *(f"warning: {w}" for w in prepared.warnings)]
    return "\n".join(lines) + "\n"


def _columns(p: TablePlan) -> list[str]:
    lines = [
        f"{c.key} -> {c.column.name} {c.column.type.sql}" if c.key != c.column.name else f"{c.key} {c.column.type.sql}"
        for c in p.columns
    ]
    lines += [f"{c.column.name} {c.column.type.sql}: no key seen, its default applies" for c in p.late]
    lines += [f"{key}: left out, the database generates it" for key in p.ignored]
    return lines


def verify(
    file: Path | None = options.MANIFEST,
    backup: Path | None = options.BACKUP,
    dsn: str | None = options.DSN,
    snapshot: str | None = options.SNAPSHOT,
    tables: str | None = options.TABLES,
    schema: str | None = options.SCHEMA,
    report: Path | None = typer.Option(None, metavar="FILE", help="Write the report there, as JSON."),
    verbose: bool = typer.Option(False, "--verbose", "-v"),
    json: bool = options.JSON,
) -> None:
    """Hold every record of the backup against the row in the database, and run the checks. Nothing is written."""
    overrides = {
        **options.selection(snapshot, tables, schema),
        "mode": "VerifyOnly",
        "rejects.limitPercent": 100,
    }
    wiring = Wiring(json=json, verbose=verbose, report=report)
    raise typer.Exit(
        wiring.go(
            lambda: options.choose(file=file, backup=backup, dsn=dsn, name="verify", run_id=None, overrides=overrides)
        )
    )


def report(
    file: Path | None = options.MANIFEST,
    dsn: str | None = options.DSN,
    name: str | None = typer.Option(None, "--name", metavar="RUN", help="The run.", show_default="the newest"),
    ledger_schema: str | None = options.LEDGER,
    json: bool = options.JSON,
    html: Path | None = typer.Option(None, metavar="FILE", help="Write it there as a page, with charts."),
) -> None:
    """Show the report of a run again, out of the ledger."""
    conninfo, manifest = options.ledger_target(dsn, file)
    schema = options.ledger_schema(ledger_schema, manifest)
    if html is not None:
        _write_page(html, conninfo, schema, run_key(name, manifest))
        return
    found = stored_report(conninfo, schema, run_key(name, manifest))
    if json:
        sys.stdout.write(publish.line(found).decode() + "\n")
    elif sys.stdout.isatty():
        from rich.console import Console

        from restorer.watch.report_view import render_report

        render_report(found, Console(highlight=False))
    else:
        from restorer.watch.report_view import plain_report

        sys.stdout.write(plain_report(found))


def run_key(name: str | None, manifest: Manifest | None) -> str | None:
    if name is None and manifest is not None:
        return f"{manifest.metadata.namespace}/{manifest.metadata.name}/{manifest.spec.run_id}"
    return name


def stored_report(conninfo: str, schema: str, name: str | None) -> Report:
    """The stored report of run `name` (or of the newest), or the state so far of one that is not finished."""
    with first_connection(conninfo, lambda *_: None) as conn:
        return _report_of(conn, open_ledger(conn, schema, name))


def _report_of(conn: Connection, ledger: Ledger) -> Report:
    from restorer.database.account import make_report
    from restorer.errors import Interrupted

    found = ledger.find(conn)
    assert found is not None
    if found.report is not None:
        return found.report
    failure = Interrupted("not finished", "the same command goes on")
    return make_report(conn, ledger, found, mode="Apply", failure=failure, final=False)


def _write_page(file: Path, conninfo: str, schema: str, name: str | None) -> None:
    from restorer.database.history import history
    from restorer.watch.page import page

    with first_connection(conninfo, lambda *_: None) as conn:
        ledger = open_ledger(conn, schema, name)
        made = page(_report_of(conn, ledger), history(conn, ledger))
    try:
        file.write_text(made, "utf-8")
    except OSError as error:
        raise Refused(f"cannot write {file}: {error.strerror}", "name a file in a folder that is there") from None


def open_ledger(
    conn: Connection,
    schema: str,
    name: str | None,
    rights: Sequence[str] = ("SELECT",),
    tables: Sequence[str] = LOOKED_AT,
) -> Ledger:
    """The ledger of one run: by its key, its name without the run ID, or the newest. Raises Refused, naming those there
    are. `rights` on `tables`: what is to be done in it."""
    if not exists(conn, schema, rights, tables):
        raise Refused(
            f"there is no ledger in schema {schema!r}",
            "nothing was restored here, or name the schema with --ledger-schema",
        )
    ledger = Ledger(schema, name or "")
    rows = conn.execute(ledger.q("SELECT run FROM {runs} ORDER BY created_at DESC")).fetchall()
    runs = [row[0] for row in rows]
    fits = [r for r in runs if name is None or r == name or r.rpartition("/")[0] == name]
    if not fits:
        raise no_such_run(name, runs) if name else Refused("the ledger has no runs", "nothing was restored here")
    ledger.run = fits[0]
    return ledger
