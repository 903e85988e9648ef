"""One stream of events: the engine emits, everything a person or a scraper sees only listens.

Events are small, hold no record values, and are msgspec structs so that worker processes can send them up a pipe.
A listener is any callable that takes an event; it must not block and must not raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

import msgspec

from restorer.report import Counters, FallbackLevel, Report


class Event(msgspec.Struct, tag=True, frozen=True):
    pass


class TableStart(msgspec.Struct, frozen=True):
    """A table as the run (or its resumption) finds it. `bytes`: length of its file (of .gz/.zst: decompressed)."""

    name: str
    bytes: int
    bytes_done: int = 0
    counters: Counters = msgspec.field(default_factory=Counters)
    state: str = "Pending"


class RunStarted(Event, frozen=True):
    """A run begins or goes on. What earlier attempts did, where the ledger knows it: the tables' own figures, and
    `fallback`, `reasons` (rejected records by reason) and `retries`. `start_time`: when the run's first attempt began
    (RFC 3339, UTC), "" for now."""

    run: str
    mode: str
    snapshot: str
    tables: list[TableStart]
    attempt: int = 1
    resumed: bool = False
    fallback: list[FallbackLevel] = []
    reasons: dict[str, int] = {}
    retries: int = 0
    start_time: str = ""


class PhaseChanged(Event, frozen=True):
    """`phase`: Validating | Cleaning | Loading | Verifying | Finished."""

    phase: str


class TableChanged(Event, frozen=True):
    """`state`: Loading | Deferred | Done | Failed."""

    table: str
    state: str
    error: str = ""


class BatchLoaded(Event, frozen=True):
    """One batch is committed. `level`: the deepest rung it needed (Copy | Exact | Merge | Row | Reject).
    `counters`: what this batch added; `deferred`: rows of it that now wait (negative when settled;
    `inserted` is when more rows had to go than came).
    `bytes`: bytes of the file it covered. `seconds`: begin to commit. `reasons`: rejected records by reason.
    `levels`: records by the rung that settled them."""

    table: str
    level: str
    counters: Counters
    bytes: int
    seconds: float
    deferred: int = 0
    reasons: dict[str, int] = {}
    levels: dict[str, int] = {}


class TableCounts(Event, frozen=True):
    """Absolute figures of one table out of the ledger; they replace what was added up so far (several pods)."""

    table: str
    counters: Counters
    bytes_done: int
    state: str


class Retried(Event, frozen=True):
    """A transient error: the batch (or the connection) is tried again after `wait` seconds."""

    sqlstate: str
    wait: float
    attempt: int
    message: str = ""
    table: str = ""


class Warned(Event, frozen=True):
    message: str


class Explained(Event, frozen=True):
    """Why a decision was made; shown with --verbose."""

    message: str
    table: str = ""


class Failed(Event, frozen=True):
    """The one error line; `remedy` says what to do."""

    message: str
    remedy: str
    reason: str


class TaskDone(Event, frozen=True):
    """A worker process is through with a task: there may be something to settle. For its parent only."""


class RunFinished(Event, frozen=True):
    report: Report


AnyEvent = Union[
    RunStarted, PhaseChanged, TableChanged, BatchLoaded, TableCounts, Retried, Warned, Explained, Failed, TaskDone,
    RunFinished,
]  # fmt: skip
Emit = Callable[[AnyEvent], None]


def fan_out(*listeners: Emit) -> Emit:
    """One emitter that hands each event to every listener, in order."""

    def emit(event: AnyEvent) -> None:
        for listener in listeners:
            listener(event)

    return emit
