"""Events as JSON lines."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from restorer.errors import Refused
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
    TableStart,
    Warned,
    fan_out,
)
from restorer.report import Counters, Report, Totals
from restorer.watch.log import EventLog, scrub
from restorer.watch.progress import Progress


class Logged:
    def __init__(self, *, verbose: bool = False) -> None:
        self.at = 0.0
        self.stream = io.StringIO()
        progress = Progress(clock=lambda: self.at)
        self.log = EventLog(progress, verbose=verbose, stream=self.stream)
        self.emit = fan_out(progress, self.log)

    def tell(self, *events: AnyEvent) -> None:
        for event in events:
            self.emit(event)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]


START = RunStarted("lms/reset/1", "Apply", "20241219", [TableStart("users", 1000), TableStart("posts", 3000)])


def batch(read: int = 10, **more: Any) -> BatchLoaded:
    return BatchLoaded("users", "Copy", Counters(read=read, inserted=read), 100, 0.1, **more)


def test_a_line_has_time_level_event_and_fields_in_that_order() -> None:
    logged = Logged()
    logged.tell(START)
    (line,) = logged.lines
    assert list(line)[:3] == ["ts", "level", "event"]
    assert line["ts"].endswith("Z")
    assert {k: line[k] for k in ("level", "event", "run", "tables", "bytes", "attempt", "resumed")} == {
        "level": "info",
        "event": "run started",
        "run": "lms/reset/1",
        "tables": 2,
        "bytes": 4000,
        "attempt": 1,
        "resumed": False,
    }


def test_batches_are_told_by_lines_of_progress_every_ten_seconds() -> None:
    logged = Logged()
    logged.tell(START, PhaseChanged("Loading"), TableChanged("users", "Loading"))
    for _ in range(25):
        logged.at += 1
        logged.tell(batch())
    progress = [line for line in logged.lines if line["event"] == "progress"]
    assert [line["recordsRead"] for line in progress] == [100, 200]
    assert progress[0]["percent"] == 25
    assert progress[0]["table"] == "users"
    assert "batch" not in logged.events


def test_verbose_tells_batches_and_decisions() -> None:
    quiet, verbose = Logged(), Logged(verbose=True)
    for logged in (quiet, verbose):
        logged.tell(START, batch(), Explained("bigint may come as text", table="users"))
    assert quiet.events == ["run started"]
    assert verbose.events == ["run started", "batch", "decision"]
    assert verbose.lines[1] | {"ts": ""} == {
        "ts": "",
        "level": "debug",
        "event": "batch",
        "table": "users",
        "rung": "Copy",
        "read": 10,
        "inserted": 10,
        "bytes": 100,
        "seconds": 0.1,
    }
    assert (verbose.lines[2]["level"], verbose.lines[2]["message"]) == ("debug", "bigint may come as text")


def test_a_table_is_told_when_it_starts_and_with_its_figures_when_it_ends() -> None:
    logged = Logged()
    logged.tell(START, TableChanged("users", "Loading"), batch())
    logged.at = 3
    logged.tell(TableChanged("users", "Done"), TableChanged("posts", "Failed", "broken at byte 7"))
    started, finished, failed = logged.lines[1:4]
    assert (started["event"], started["table"]) == ("table started", "users")
    assert (finished["event"], finished["read"], finished["inserted"], finished["seconds"]) == (
        "table finished",
        10,
        10,
        3,
    )
    assert (failed["level"], failed["event"], failed["message"]) == ("error", "table failed", "broken at byte 7")


def test_the_first_reject_of_each_reason_in_a_table_is_a_warning() -> None:
    logged = Logged()
    logged.tell(
        START, batch(reasons={"NotNullViolation": 2}), batch(reasons={"NotNullViolation": 1, "InvalidValue": 1})
    )
    rejected = [line for line in logged.lines if line["event"] == "records rejected"]
    assert [(line["level"], line["reason"], line["records"]) for line in rejected] == [
        ("warning", "NotNullViolation", 2),
        ("warning", "InvalidValue", 1),
    ]


def test_what_the_server_quotes_from_a_record_is_cut_off() -> None:
    logged = Logged()
    logged.tell(Retried("40001", 0.5, 2, 'could not serialize\nDETAIL:  Key (email)=(ann@example.org)\nCONTEXT: "ann"'))
    assert logged.lines[0]["message"] == "could not serialize"
    assert logged.lines[0]["sqlState"] == "40001"
    assert "ann" not in logged.stream.getvalue()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://app:s3cret@db:5432/app is down", "postgresql://app:***@db:5432/app is down"),
        ("host=db password=s3cret user=app", "host=db password=*** user=app"),
        (r"password = 'a b\'c' port=1", "password = *** port=1"),
        ("postgres://db/app?sslpassword=s3cret&x=1", "postgres://db/app?sslpassword=***&x=1"),
        ("password authentication failed for user app", "password authentication failed for user app"),
        ("see https://example.org:8080/a@b", "see https://example.org:8080/a@b"),
    ],
)
def test_passwords_are_never_told(text: str, clean: str) -> None:
    assert scrub(text) == clean
    logged = Logged()
    logged.tell(Warned(text))
    assert logged.lines[0]["message"] == clean


def test_a_failure_is_one_line_that_names_the_remedy_and_is_told_once() -> None:
    logged = Logged()
    error = Refused("no snapshot in backups/lms", "name one with --snapshot", table="users")
    logged.tell(Failed(error.message, error.remedy, error.reason))
    logged.log.failure(error)
    (line,) = logged.lines
    assert (line["level"], line["event"], line["reason"]) == ("error", "failed", "ValidationFailed")
    assert line["remedy"] == "name one with --snapshot"

    alone = Logged()
    alone.log.failure(error)
    assert alone.lines[0]["table"] == "users"


@pytest.mark.parametrize(("outcome", "level"), [("Succeeded", "info"), ("Failed", "error"), ("Interrupted", "warning")])
def test_the_end_is_told_with_the_totals(outcome: str, level: str) -> None:
    logged = Logged()
    logged.tell(
        RunFinished(Report("lms/reset/1", outcome=outcome, message="4 rows", totals=Totals(read=4, inserted=4)))
    )
    (line,) = logged.lines
    assert (line["level"], line["outcome"], line["message"], line["totals"]["read"]) == (level, outcome, "4 rows", 4)


def test_every_event_makes_valid_lines_whatever_the_names() -> None:
    odd = 'a"b\n\x1b[31m\udc80é'
    logged = Logged(verbose=True)
    logged.tell(
        RunStarted(odd, "Apply", odd, [TableStart(odd, 1)]),
        TableChanged(odd, "Loading"),
        BatchLoaded(odd, "Reject", Counters(read=1, rejected=1), 1, 0.1, reasons={odd: 1}),
        TableCounts(odd, Counters(read=1, rejected=1), 1, "Deferred"),
        TableChanged(odd, "Deferred"),
        Explained(odd),
        Warned(odd),
        Failed(odd, odd, odd),
    )
    assert len(logged.lines) == 9
    logged.stream.getvalue().encode()  # no lone surrogates
    assert "\x1b" not in logged.stream.getvalue()


def test_a_closed_stderr_does_not_stop_a_restore() -> None:
    logged = Logged()
    logged.stream.close()
    logged.tell(START)
