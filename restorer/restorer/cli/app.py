"""The commands and their words, all in one application."""

from __future__ import annotations

import typer

from .. import __version__
from . import ledger_commands, reject_commands
from .demo_command import demo
from .inspect_commands import plan, report, verify
from .run_command import run

app = typer.Typer(
    name="restorer",
    help="Restores JSON backups into PostgreSQL at the speed of COPY, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
app.command()(run)
app.command()(plan)
app.command()(verify)
app.command()(report)
app.command()(demo)
app.add_typer(reject_commands.app, name="rejects")
app.add_typer(ledger_commands.app, name="ledger")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"restorer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Say the version."),
) -> None:
    pass
