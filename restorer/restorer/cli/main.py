"""The command's entry: commands, exit codes, and no traceback for anybody.

Exit codes: 0 done (also AlreadyCompleted); 1 infrastructure, worth another try; 2 permanent (usage, spec, preflight, reject
limit, verification); 3 cancelled; 130 ctrl-C and 143 SIGTERM (the open batch is rolled back, the run can be resumed).
"""

from __future__ import annotations

import os
import sys

import typer
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .. import __version__
from ..errors import RestoreError
from ..log import scrub
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


def main() -> int:
    """Runs the command line of this process. -> exit code"""
    _hide_password()
    try:
        code = app(standalone_mode=False)  # click hands an Exit's code back instead of raising it
    except typer.Exit as end:
        return int(end.exit_code)
    except RestoreError as error:
        print(f"restorer: {scrub(error.line())}", file=sys.stderr)
        return error.exit_code
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        print("restorer: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `restorer … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # click's own: usage
            print(f"restorer: {error.format_message()} (see --help)", file=sys.stderr)
            return 2
        if os.environ.get("RESTORER_TRACEBACK"):
            raise
        # The type only: an unforeseen error's text may hold a record's values.
        print(
            f"restorer: a bug, {type(error).__name__}: nothing half done is kept; run again with RESTORER_TRACEBACK=1 and report it",
            file=sys.stderr,
        )
        return 1
    return code if isinstance(code, int) else 0


def _hide_password() -> None:
    """A password in --dsn would stand in the process list: it goes to the environment, and the command starts anew without."""
    args, password = list(sys.argv[1:]), None
    for i, arg in enumerate(args):
        head, flag, value = arg.partition("--dsn=") if arg.startswith("--dsn=") else ("", "", arg)
        if not (flag or (i and args[i - 1] == "--dsn")):
            continue
        try:
            parts = conninfo_to_dict(value)
        except ProgrammingError:
            continue  # the command itself will say so
        if parts.get("password"):
            password = str(parts.pop("password"))
            args[i] = head + flag + make_conninfo("", **parts)
    if password is not None:
        os.environ["PGPASSWORD"] = password
        os.execv(sys.executable, [sys.executable, "-m", "restorer", *args])
