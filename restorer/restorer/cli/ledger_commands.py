"""`restorer ledger`: the ledger's DDL, its runs, and getting rid of them."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import typer

from restorer.database.connection import first_connection
from restorer.database.ledger_schema import DEFAULT, TABLES, exists
from restorer.database.ledger_schema import ddl as ledger_ddl
from restorer.database.runs import list_runs, purge_runs
from restorer.errors import Refused

from . import options

app = typer.Typer(help="The ledger in the target database.", no_args_is_help=True)


@app.command()
def ddl(
    ledger_schema: str = typer.Option(DEFAULT, "--ledger-schema", help="Schema of the ledger."),
    grant_to: str = typer.Option("", "--grant-to", metavar="ROLE", help="Who restores: gets the rights on it as well."),
) -> None:
    """Print the DDL of the ledger, for a DBA to run."""
    sys.stdout.write(ledger_ddl(ledger_schema, grant_to))


@app.command()
def runs(
    file: Path | None = options.MANIFEST,
    dsn: str | None = options.DSN,
    ledger_schema: str | None = options.LEDGER,
    json: bool = typer.Option(False, "--json", help="One line of JSON per run."),
) -> None:
    """List the runs that the ledger knows, newest first."""
    conninfo, manifest = options.ledger_target(dsn, file)
    schema = options.ledger_schema(ledger_schema, manifest)
    with first_connection(conninfo, lambda *_: None) as conn:
        found = list_runs(conn, schema) if exists(conn, schema, tables=("runs",)) else []
    if json:
        sys.stdout.writelines(msgspec.json.encode(row).decode() + "\n" for row in found)
        return
    if not found:
        print("no runs")
    for row in found:
        print(f"{row['started']}  {row['state']:<10} {row['run']}  {row['message']}")


@app.command()
def purge(
    name: list[str] = typer.Argument(None, metavar="RUN…", help="Runs to forget with their rejects; or --older-than."),
    older_than: int | None = typer.Option(
        None, metavar="DAYS", help="Forget finished runs that ended so many days ago."
    ),
    rejects_only: bool = typer.Option(False, help="Forget only the rejected records; keep the runs and their reports."),
    file: Path | None = options.MANIFEST,
    dsn: str | None = options.DSN,
    ledger_schema: str | None = options.LEDGER,
) -> None:
    """Forget finished runs. A forgotten run can be started again: it then loads again."""
    if not name and older_than is None:
        raise Refused("nothing to purge is named", "name runs, or say --older-than DAYS")
    conninfo, manifest = options.ledger_target(dsn, file)
    schema = options.ledger_schema(ledger_schema, manifest)
    with first_connection(conninfo, lambda *_: None) as conn:
        if not exists(conn, schema, ("SELECT", "DELETE"), TABLES):
            raise Refused(f"there is no ledger in schema {schema!r}", "name the schema with --ledger-schema")
        gone = purge_runs(conn, schema, name or [], older_than, rejects_only=rejects_only)
    what = "rejected records of" if rejects_only else ""
    print(
        f"forgot {what} {len(gone)} run{'' if len(gone) == 1 else 's'}".replace("  ", " ")
        + (f": {', '.join(gone)}" if gone else "")
    )
