"""`restorer run`, and what `verify` shares with it: wiring listeners, signals and the report around one execution."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from restorer.errors import Interrupted, Refused, RestoreError
from restorer.events import AnyEvent, Emit, PhaseChanged, fan_out
from restorer.load.leader import worker_processes
from restorer.load.process import spares
from restorer.report import Report
from restorer.run import Request, execute
from restorer.spec import Load
from restorer.watch import publish
from restorer.watch.log import EventLog, scrub
from restorer.watch.progress import Progress

from . import options
from .options import Choice

GRACE = 4.0  # seconds after SIGTERM or ctrl-C until the process ends in any case
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
        help="What happens to rows that are there before.",
        show_default="none",
    ),
    confirm: str | None = typer.Option(
        None, metavar="HOST/DATABASE", help="Typed out, for truncate and delete; local/… for a socket."
    ),
    on_conflict: str | None = typer.Option(
        None, metavar="skip|update|reject", help="Same key, other content.", show_default="skip"
    ),
    batch_size: int | None = typer.Option(
        None, metavar="N", help="Records in one transaction.", show_default=str(Load().batch_rows)
    ),
    batch_bytes: str | None = typer.Option(
        None,
        metavar="SIZE",
        help="Bytes in one transaction, such as 16Mi.",
        show_default=f"{Load().batch_bytes >> 20}Mi",
    ),
    workers: int | None = typer.Option(None, metavar="N", help="Processes that load side by side.", show_default="1"),
    max_rejects: str | None = typer.Option(None, metavar="N|P%", help="Fail past so many rejects.", show_default="1%"),
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
        None, metavar="FILE", help="Keep a short report there.", show_default="the pod's own, if there is one"
    ),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Say why each decision was made."),
    json: bool = options.JSON,
    profile: Path | None = typer.Option(None, metavar="FILE", help="Write a cProfile of this process there."),
) -> None:
    """Restore a backup into PostgreSQL. Kill it at any moment: the same command goes on, exactly once."""
    if resume and restart:
        raise Refused("--resume and --restart contradict each other", "say one of them")
    overrides = {
        **options.selection(snapshot, tables, schema),
        "cleanup": _word(
            cleanup,
            "--cleanup",
            {"none": "None", "truncate": "Truncate", "delete": "Delete", "require-empty": "RequireEmpty"},
        ),
        "confirm": confirm,
        "onConflict": _word(on_conflict, "--on-conflict", {"skip": "Skip", "update": "Update", "reject": "Reject"}),
        "load.batchRows": batch_size,
        "load.batchBytes": batch_bytes,
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

    try:
        target.open("ab").close()  # hours later would be too late to say so
    except OSError as error:
        words = f"the profile cannot be written to {target}: {error.strerror}"
        raise Refused(words, "name a file in a folder that may be written") from None
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
        self._signal = 0
        self._over = False

    def go(self, choose: Callable[[], Choice], restart: bool = False, wait: float = 0.0) -> int:
        """Chooses, runs, reports. -> exit code"""
        progress, log = Progress(), None
        report, failure = Report(""), None
        with self._signals(lambda: progress):
            try:
                self._refuse_report_file()
                choice = choose()
                progress, report = Progress(stall_timeout=choice.spec.stall_timeout_seconds), Report(choice.run)
                with contextlib.ExitStack() as stack:
                    hired = stack.enter_context(spares(worker_processes(choice.spec)))  # before there are threads
                    log, emit = self._listeners(stack, progress, choice)
                    request = Request(choice.spec, choice.root, choice.conninfo, choice.run, restart, wait)
                    report, failure = execute(request, emit, hired)
                    self._over = True
            except (RestoreError, KeyboardInterrupt) as error:  # nothing was begun
                failure = error if isinstance(error, RestoreError) else Interrupted("stopped", "start it again")
                report.outcome, report.reason, report.message = failure.outcome, failure.reason, failure.line()
                if self.termination_log is not None:
                    publish.TerminationLog(self.termination_log, progress).write(report)
            self._over = True
            self._publish(report, failure, log or EventLog(progress))
        if failure is None:
            return 0
        return self._code if isinstance(failure, Interrupted) else failure.exit_code

    @property
    def _code(self) -> int:
        return 130 if self._signal == signal.SIGINT else Interrupted.exit_code

    def _listeners(self, stack: contextlib.ExitStack, progress: Progress, choice: Choice) -> tuple[EventLog, Emit]:
        listeners: list[Emit] = [progress]
        log = EventLog(progress, verbose=self.verbose)
        if not self.json and sys.stderr.isatty():
            from restorer.watch.view import View, suits

            if suits(sys.stderr):
                listeners.append(
                    stack.enter_context(View(progress, verbose=self.verbose, keep=not sys.stdout.isatty()))
                )
        if len(listeners) == 1:
            listeners.append(log)
        if self.metrics_port is not None:
            from restorer.watch.metrics import Metrics
            from restorer.watch.server import MetricsServer

            metrics = Metrics(progress, namespace=choice.namespace, name=choice.name)
            stack.enter_context(MetricsServer(self.metrics_port, progress, metrics))
            listeners.append(metrics)
        if self.termination_log is not None:
            listeners.append(publish.TerminationLog(self.termination_log, progress))
        if not self.json:
            listeners.append(_prepare_the_report)
        return log, fan_out(*listeners)

    @contextlib.contextmanager
    def _signals(self, progress: Callable[[], Progress]) -> Iterator[None]:
        """The first SIGTERM or ctrl-C rolls the open batch back and ends the run, a server that does not answer
        notwithstanding; a second one ends the process: the server then rolls back by itself."""

        def stop(number: int, _: object) -> None:
            if self._signal:
                os._exit(self._code)
            self._signal = number
            if self._over:
                return
            hard = threading.Timer(GRACE, self._end_now, (progress,))
            hard.daemon = True
            hard.start()
            raise KeyboardInterrupt

        before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end_now(self, progress: Callable[[], Progress]) -> None:
        """The database does not even answer the rollback: what is known goes into the report, and that is the end."""
        if self._over:
            return
        report = publish.interim_report(progress())
        report.message = "stopped; the database did not answer in time, and rolls the open batch back by itself"
        with contextlib.suppress(RestoreError):
            if self.report_file is not None:
                publish.to_file(report, self.report_file)
        if self.termination_log is not None:
            publish.TerminationLog(self.termination_log, progress()).write(report)
        if self.json:
            EventLog(progress()).failure(Interrupted(report.message, "the same command goes on from there"))
            print(publish.line(report).decode(), flush=True)
        else:
            print(f"restorer: {report.message}: the same command goes on from there", file=sys.stderr, flush=True)
        os._exit(self._code)

    def _refuse_report_file(self) -> None:
        """Hours later would be too late to say so."""
        target = self.report_file
        if target is None or (target.exists() and not target.is_file() and not target.is_dir()):
            return
        folder = target.resolve().parent
        if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            self.report_file = None
            raise Refused(f"the report cannot be written to {target}", "name a file in a folder that may be written")

    def _publish(self, report: Report, failure: RestoreError | None, log: EventLog) -> None:
        try:
            if self.report_file is not None:
                publish.to_file(report, self.report_file)
        except Refused as error:
            log.failure(error) if self.json else self._say(error.line())
        if self.json:
            for problem in _each(failure):
                log.failure(problem)
            sys.stdout.write(publish.line(report).decode() + "\n")
            return
        if report.tables or failure is None:
            self._show(report)
        for problem in _each(failure):
            self._say(problem.line())

    def _say(self, line: str) -> None:
        sys.stdout.flush()
        print(f"restorer: {scrub(line)}", file=sys.stderr)

    def _show(self, report: Report) -> None:
        if sys.stdout.isatty():
            from rich.console import Console

            from restorer.watch.report_view import render_report

            render_report(report, Console(highlight=False))
        else:
            from restorer.watch.report_view import plain_report

            sys.stdout.write(plain_report(report))


def _prepare_the_report(event: AnyEvent) -> None:
    """What draws it is imported while the server is at its last work; afterwards everybody would wait for that."""

    def imported() -> None:
        with contextlib.suppress(Exception):  # whoever needs it tells
            importlib.import_module("restorer.watch.report_view")

    if isinstance(event, PhaseChanged) and event.phase == "Verifying":
        with contextlib.suppress(RuntimeError):  # the system lets no more threads start
            threading.Thread(target=imported, name="report", daemon=True).start()


def _each(failure: RestoreError | None) -> list[RestoreError]:
    """The failure; a refusal as every problem it found."""
    if not isinstance(failure, Refused) or len(failure.problems) < 2:
        return [failure] if failure else []
    parts = [problem.partition(": ") for problem in failure.problems]
    return [Refused(what, remedy, reason=failure.reason) for what, _, remedy in parts]
