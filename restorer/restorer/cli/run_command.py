"""`restorer run`, and what `verify` shares with it: wiring listeners, signals and the report around one execution."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from .. import publish
from ..errors import Refused, RestoreError
from ..events import Emit, fan_out
from ..log import EventLog
from ..progress import Progress
from ..report import Report
from ..run import Request, execute
from . import options
from .options import Choice

_TERMINATION_LOG = Path("/dev/termination-log")  # the kubelet mounts it into every container


def run(
    file: Path | None = options.MANIFEST,
    backup: Path | None = options.BACKUP,
    dsn: str | None = options.DSN,
    snapshot: str | None = options.SNAPSHOT,
    tables: str | None = options.TABLES,
    schema: str | None = options.SCHEMA,
    name: str | None = options.NAME,
    run_id: str | None = options.RUN_ID,
    cleanup: str | None = typer.Option(
        None,
        metavar="none|truncate|delete|require-empty",
        help="What happens to rows that are there before [default: none].",
    ),
    confirm: str | None = typer.Option(
        None, metavar="HOST/DATABASE", help="Typed out, for truncate and delete; local/… for a socket."
    ),
    on_conflict: str | None = typer.Option(
        None, metavar="skip|update|reject", help="Same key, other content [default: skip]."
    ),
    batch_size: int | None = typer.Option(None, metavar="N", help="Records in one transaction [default: 5000]."),
    workers: int | None = typer.Option(None, metavar="N", help="Processes that load side by side [default: 1]."),
    max_rejects: str | None = typer.Option(None, metavar="N|P%", help="Fail past so many rejects [default: 1%]."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Copy every record into temporary tables; keep nothing."),
    restart: bool = typer.Option(False, "--restart", help="Forget this run's ledger rows and begin anew."),
    resume: bool = typer.Option(
        False, "--resume", help="Go on with the unfinished run of this name (that is what happens anyway)."
    ),
    wait: float = typer.Option(0.0, metavar="SECONDS", help="Wait so long for a target that another run holds."),
    ledger_schema: str | None = options.LEDGER,
    report: Path | None = typer.Option(
        None, metavar="FILE", help="Write the report there, as JSON, whatever the outcome."
    ),
    metrics_port: int | None = typer.Option(None, metavar="P", help="Serve /metrics, /progress and /healthz there."),
    termination_log: Path | None = typer.Option(
        None, metavar="FILE", help="Keep a short report there [default: the pod's own, if there is one]."
    ),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Say why each decision was made."),
    json: bool = options.JSON,
    profile: Path | None = typer.Option(None, metavar="FILE", help="Write a cProfile of this process there."),
) -> None:
    """Restore a backup into PostgreSQL. Kill it at any moment: the same command goes on, exactly once."""
    if resume and restart:
        raise Refused("--resume and --restart contradict each other", "say one of them")
    include, exclude = options.split_tables(tables)
    overrides = {
        "source.snapshot": {"policy": "Exact", "name": snapshot} if snapshot else None,
        "tables.include": include,
        "tables.exclude": exclude,
        "target.schema": schema,
        "cleanup": _word(
            cleanup,
            "--cleanup",
            {"none": "None", "truncate": "Truncate", "delete": "Delete", "require-empty": "RequireEmpty"},
        ),
        "confirm": confirm,
        "onConflict": _word(on_conflict, "--on-conflict", {"skip": "Skip", "update": "Update", "reject": "Reject"}),
        "load.batchRows": batch_size,
        "load.workers": workers,
        "ledger.schema": ledger_schema,
        "mode": "DryRun" if dry_run else None,
        **_limit(max_rejects),
    }
    wiring = Wiring(
        json=json, verbose=verbose, report=report, metrics_port=metrics_port, termination_log=termination_log
    )
    with _profiled(profile):
        code = wiring.go(
            lambda: options.choose(file=file, backup=backup, dsn=dsn, name=name, run_id=run_id, overrides=overrides),
            restart,
            wait,
        )
    raise typer.Exit(code)


def _word(value: str | None, flag: str, words: dict[str, str]) -> str | None:
    if value is None:
        return None
    if value.lower() not in words:
        raise Refused(f"{flag} {value} is not known", f"choose one of {', '.join(words)}")
    return words[value.lower()]


def _limit(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    number = text.removesuffix("%").strip()
    if not number.isdigit():
        raise Refused(f"--max-rejects {text} is not a number", "say 100, or 2%")
    return {"rejects.limitPercent" if text.endswith("%") else "rejects.limit": int(number)}


@contextlib.contextmanager
def _profiled(target: Path | None) -> Iterator[None]:
    if target is None:
        yield
        return
    import cProfile

    profile = cProfile.Profile()
    try:
        with profile:
            yield
    finally:
        profile.dump_stats(target)


class Wiring:
    """Who listens to a run, and where its report goes."""

    def __init__(
        self,
        *,
        json: bool,
        verbose: bool = False,
        report: Path | None = None,
        metrics_port: int | None = None,
        termination_log: Path | None = None,
    ) -> None:
        self.json, self.verbose, self.report_file, self.metrics_port = json, verbose, report, metrics_port
        if termination_log is None and os.environ.get("KUBERNETES_SERVICE_HOST") and _TERMINATION_LOG.exists():
            termination_log = _TERMINATION_LOG
        self.termination_log = termination_log
        self.signal = 0

    def go(self, choose: Any, restart: bool = False, wait: float = 0.0) -> int:
        """Chooses, runs, reports. -> exit code"""
        try:
            choice: Choice = choose()
        except RestoreError as error:
            self._publish(
                Report("", outcome="Failed", reason=error.reason, message=error.line()), error, EventLog(Progress())
            )
            return error.exit_code
        progress = Progress(stall_timeout=choice.spec.stall_timeout_seconds)
        with contextlib.ExitStack() as stack:
            try:
                log, emit = self._listeners(stack, progress, choice)
            except RestoreError as error:
                log = EventLog(progress)
                self._publish(
                    Report(choice.run, outcome="Failed", reason=error.reason, message=error.line()), error, log
                )
                return error.exit_code
            stack.enter_context(self._signals())
            request = Request(choice.spec, choice.root, choice.conninfo, choice.run, restart, wait)
            report, failure = execute(request, emit)
        self._publish(report, failure, log)
        if failure is None:
            return 0
        return 130 if failure.exit_code == 143 and self.signal == signal.SIGINT else failure.exit_code

    def _listeners(
        self, stack: contextlib.ExitStack, progress: Progress, choice: Choice
    ) -> tuple[EventLog | None, Emit]:
        listeners: list[Emit] = [progress]
        log: EventLog | None = None
        if not self.json and sys.stderr.isatty():
            from ..view import View, suits

            if suits(sys.stderr):
                listeners.append(
                    stack.enter_context(View(progress, verbose=self.verbose, keep=not sys.stdout.isatty()))
                )
        if len(listeners) == 1:
            log = EventLog(progress, verbose=self.verbose)
            listeners.append(log)
        if self.metrics_port is not None:
            from ..metrics import Metrics
            from ..server import MetricsServer

            metrics = Metrics(progress, namespace=choice.namespace, name=choice.name)
            stack.enter_context(MetricsServer(self.metrics_port, progress, metrics))
            listeners.append(metrics)
        if self.termination_log is not None:
            listeners.append(publish.TerminationLog(self.termination_log, progress))
        return log, fan_out(*listeners)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGTERM or ctrl-C rolls the open batch back and ends the run; a second ctrl-C ends the process: the
        server then rolls back by itself."""

        def stop(number: int, _: object) -> None:
            if self.signal:
                os._exit(130 if number == signal.SIGINT else 143)
            self.signal = number
            raise KeyboardInterrupt

        before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _publish(self, report: Report, failure: RestoreError | None, log: EventLog | None) -> None:
        if self.report_file is not None:
            publish.to_file(report, self.report_file)
        if self.json:
            if failure is not None and log is not None:
                log.failure(failure)
            sys.stdout.write(publish.line(report).decode() + "\n")
            return
        if isinstance(failure, Refused) and not report.tables:
            for problem in failure.problems:
                print(f"restorer: {problem}", file=sys.stderr)
            return
        if failure is not None and log is not None:
            log.failure(failure)
        if sys.stdout.isatty():
            from rich.console import Console

            from ..report_view import render_report

            render_report(report, Console(highlight=False))
        else:
            from ..report_view import plain_report

            sys.stdout.write(plain_report(report))
        if failure is not None and log is None:
            print(f"restorer: {failure.line()}", file=sys.stderr)
