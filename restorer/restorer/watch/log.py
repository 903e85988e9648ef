"""What happens, as JSON lines on stderr.

The split: **stderr says what happens, stdout says what came out.**

    stderr a terminal, no --json   the live table (view.py); no log lines
    otherwise                      one JSON line per event: {"ts": …, "level": …, "event": …, …}
    stdout with --json             one line: the report, compact (publish.line)
    stdout a terminal              the report drawn (report_view.render_report)
    stdout anything else           the same report as plain text (report_view.plain_report)

So `restorer run --json | tail -1 | jq` and `restorer run > report.txt` both do what one expects, and a pod's log is the
events with the report as its last line.

Batches are logged only with --verbose, and so is why each decision was made; otherwise a line of progress at most every
10 s, and what is rare: phases, tables, retries, warnings, the first reject of each reason in a table, the end.
Log lines hold no record values (events have none; DETAIL and CONTEXT of the server's messages, which may, are cut off)
and no passwords (`scrub`).
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, Literal, TextIO, cast

import msgspec

from restorer.errors import RestoreError
from restorer.events import (
    AnyEvent,
    BatchLoaded,
    Explained,
    Failed,
    PhaseChanged,
    Retried,
    RunFinished,
    RunStarted,
    TableChanged,
    TableCounts,
    Warned,
)
from restorer.watch.figures import OUTCOMES
from restorer.watch.progress import Progress

Level = Literal["debug", "info", "warning", "error"]

PROGRESS_EVERY = 10.0  # seconds between two lines of progress
_SEVERITY = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PASSWORD_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]*@", re.IGNORECASE)
_PASSWORD_PARAMETER = re.compile(r"\b((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&,;]+)", re.IGNORECASE)


def scrub(text: str) -> str:
    """The text without passwords: of connection URLs, and of `password=…` in connection strings."""
    return _PASSWORD_PARAMETER.sub(r"\1***", _PASSWORD_IN_URL.sub(r"\1:***@", text))


def first_line(text: str) -> str:
    """The server's own message without DETAIL and CONTEXT: those quote values."""
    return text.strip().partition("\n")[0].rstrip()


def json_logger(stream: TextIO | None = None, *, verbose: bool = False) -> Any:
    """A structlog logger that writes JSON lines to `stream` (stderr); touches no global configuration."""
    structlog = _structlog()
    return structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            _scrubbed,
            _in_order,
            structlog.processors.JSONRenderer(serializer=_dump),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_SEVERITY["debug" if verbose else "info"]),
        cache_logger_on_first_use=True,
    )


def _structlog() -> Any:
    """structlog, when it is needed: not by a person at a terminal. It looks for rich, to draw tracebacks with; here nobody
    is shown one, and without it a pod starts 60 ms sooner and needs 4 MB less."""
    if "rich" in sys.modules:
        return importlib.import_module("structlog")
    hidden = cast(dict[str, Any], sys.modules)
    hidden["rich"] = None  # as if it were not there (import system, "The module cache")
    try:
        return importlib.import_module("structlog")
    finally:
        del hidden["rich"]


class EventLog:
    """The listener that turns events into log lines. `progress` must stand before it among the listeners."""

    def __init__(
        self,
        progress: Progress,
        *,
        verbose: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._progress = progress
        self._log = json_logger(stream, verbose=verbose)
        self._clock = clock or progress.now
        self._last_line = self._clock()
        self._rejects_told: set[tuple[str, str]] = set()
        self._failures_told: set[str] = set()

    def __call__(self, event: AnyEvent) -> None:
        match event:
            case RunStarted():
                size = sum(table.bytes for table in event.tables)
                self._write(
                    "info",
                    "run started",
                    run=event.run,
                    mode=event.mode,
                    snapshot=event.snapshot,
                    tables=len(event.tables),
                    bytes=size,
                    attempt=event.attempt,
                    resumed=event.resumed,
                )
            case PhaseChanged():
                self._write("info", "phase", phase=event.phase)
            case TableChanged():
                self._table(event)
            case BatchLoaded():
                self._batch(event)
            case TableCounts():
                self._write("debug", "table counts", table=event.table, state=event.state, **_outcomes(event.counters))
            case Retried():
                self._write(
                    "warning",
                    "retry",
                    table=event.table,
                    sqlState=event.sqlstate,
                    attempt=event.attempt,
                    waitSeconds=round(event.wait, 3),
                    message=first_line(event.message),
                )
            case Warned():
                self._write("warning", "warning", message=event.message)
            case Explained():
                self._write("debug", "decision", table=event.table, message=event.message)
            case Failed():
                self._failure(event.message, event.remedy, event.reason)
            case RunFinished():
                self._finished(event)
        if not isinstance(event, RunFinished):
            self._progress_line()

    def failure(self, error: RestoreError) -> None:
        """The error that ends the command, as one line; not again when its `Failed` event was logged already."""
        self._failure(error.message, error.remedy, error.reason, table=error.table, sqlState=error.sqlstate)

    def _failure(self, message: str, remedy: str, reason: str, **where: str) -> None:
        if message not in self._failures_told:
            self._failures_told.add(message)
            self._write("error", "failed", reason=reason, message=message, remedy=remedy, **where)

    def _table(self, event: TableChanged) -> None:
        shown = next((t for t in self._progress.snapshot().tables if t.name == event.table), None)
        figures: dict[str, object] = {}
        if shown is not None and event.state != "Loading":
            figures = {"read": shown.read, **_outcomes(shown), "seconds": shown.seconds}
            if shown.deferred:
                figures["deferred"] = shown.deferred
        word = {"Loading": "started", "Deferred": "deferred", "Done": "finished", "Failed": "failed"}[event.state]
        level: Level = "error" if event.state == "Failed" else "info"
        self._write(level, f"table {word}", table=event.table, message=first_line(event.error), **figures)

    def _batch(self, event: BatchLoaded) -> None:
        self._write(
            "debug",
            "batch",
            table=event.table,
            rung=event.level,
            read=event.counters.read,
            **_outcomes(event.counters),
            bytes=event.bytes,
            seconds=round(event.seconds, 4),
            deferred=event.deferred or None,
        )
        for reason, records in event.reasons.items():
            if (event.table, reason) not in self._rejects_told:
                self._rejects_told.add((event.table, reason))
                self._write("warning", "records rejected", table=event.table, reason=reason, records=records)

    def _finished(self, event: RunFinished) -> None:
        report = event.report
        level: Level = "info" if report.outcome == "Succeeded" else "error" if report.outcome == "Failed" else "warning"
        self._write(
            level,
            "run finished",
            run=report.run,
            outcome=report.outcome,
            reason=report.reason,
            message=report.message,
            seconds=report.seconds,
            totals=msgspec.to_builtins(report.totals),
        )

    def _progress_line(self) -> None:
        now = self._clock()
        if now - self._last_line < PROGRESS_EVERY:
            return
        self._last_line = now
        shown = self._progress.snapshot()
        if shown.phase != "Loading":
            return
        self._write(
            "info",
            "progress",
            percent=shown.percent,
            bytesDone=shown.bytes_done,
            bytesTotal=shown.bytes_total,
            tablesDone=shown.tables_done,
            tablesTotal=shown.tables_total,
            table=shown.table,
            recordsRead=shown.records_read,
            recordsInserted=shown.records_inserted,
            recordsUpdated=shown.records_updated,
            recordsDuplicate=shown.records_duplicate,
            recordsConflict=shown.records_conflict,
            recordsRejected=shown.records_rejected,
            recordsPerSecond=shown.records_per_second,
            etaSeconds=shown.eta_seconds,
            stalled=shown.stalled or None,
        )

    def _write(self, level: Level, what: str, **fields: object) -> None:
        told = {key: value for key, value in fields.items() if value is not None and value != ""}
        try:
            getattr(self._log, level)(what, **told)
        except (OSError, ValueError):  # stderr is closed or full: a restore does not fail for its log
            pass


def _outcomes(counters: Any) -> dict[str, int]:
    """The outcomes that occurred."""
    return {name: value for name in OUTCOMES if (value := getattr(counters, name))}


def _scrubbed(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in line.items():
        if isinstance(value, str):
            line[key] = scrub(value)
    return line


def _in_order(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    head = {key: line.pop(key) for key in ("ts", "level", "event")}
    return {**head, **line}


def _dump(line: Any, **_: object) -> str:
    # Names of files may hold bytes that are no UTF-8 (lone surrogates here): escaped, so that the line stays JSON.
    return json.dumps(line, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace").decode("utf-8")
