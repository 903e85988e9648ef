"""The command's entry: exit codes, and no traceback for anybody.

Exit codes: 0 done (also AlreadyCompleted); 1 infrastructure, worth another try; 2 permanent (usage, spec, preflight,
reject limit, verification); 3 cancelled; 130 ctrl-C and 143 SIGTERM (the open batch is rolled back, the run can be
resumed).
"""

from __future__ import annotations

import gc
import logging
import os
import sys


def main() -> int:
    """Runs the command line of this process. -> exit code"""
    _hide_password()
    # Only now what takes a while to import: until then a password would stand in the process list. There is no garbage in
    # modules; to look for some takes a twentieth of the time, and as long again when the process ends.
    gc.disable()
    import psycopg
    import typer

    from restorer.database.session import failure_of
    from restorer.errors import RestoreError
    from restorer.watch.log import scrub

    from .app import app

    gc.freeze()
    gc.enable()
    # psycopg tells of rollbacks that an interruption kept from going through; the server does them by itself.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    try:
        code = app(prog_name="restorer", standalone_mode=False)  # click hands an Exit's code back instead of raising it
    except typer.Exit as end:
        return int(end.exit_code)
    except RestoreError as error:
        print(f"restorer: {scrub(error.line())}", file=sys.stderr)
        return error.exit_code
    except psycopg.Error as error:
        failure = failure_of(error)
        print(f"restorer: {scrub(failure.line())}", file=sys.stderr)
        return failure.exit_code
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
            if told := error.format_message():  # without arguments it is the help itself
                print(f"restorer: {told} (see --help)", file=sys.stderr)
            return 2
        if os.environ.get("RESTORER_TRACEBACK"):
            raise
        # The type only: an unforeseen error's text may hold a record's values.
        print(
            f"restorer: a bug, {type(error).__name__}: nothing half done is kept; run again with RESTORER_TRACEBACK=1 "
            "and report it",
            file=sys.stderr,
        )
        return 1
    return code if isinstance(code, int) else 0


def _hide_password() -> None:
    """A password in --dsn would stand in the process list: it goes to the environment, and the command starts anew
    without it."""
    args, password = list(sys.argv[1:]), None
    if not any(arg.startswith("--dsn") for arg in args):
        return
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

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
        os.execv(sys.executable, [sys.executable, "-P", "-m", "restorer", *args])
