"""What is said of a restore: conditions as kstatus reads them, figures out of `/progress` and out of reports. Pure.

kstatus and Argo CD see: active InProgress (Reconciling=True), Succeeded Current (Ready=True), Failed and Cancelled Failed
(Stalled=True). A condition's lastTransitionTime moves only when its status does (Kubernetes' API conventions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec
from restorer.report import FallbackLevel, Report
from restorer.watch.figures import Snapshot

from . import reasons
from .api import (
    Condition,
    DatabaseRestore,
    FallbackStatus,
    LastError,
    Phase,
    ProgressStatus,
    RejectedStatus,
    RestoreStatus,
    SnapshotStatus,
    TableStatus,
)
from .observed import stamp

Json = dict[str, Any]
Truth = Literal["True", "False", "Unknown"]

TERMINAL: tuple[Phase, ...] = ("Succeeded", "Failed", "Cancelled")
MOST_TABLES, MOST_REJECTED, LONGEST = 100, 5, 4096


@dataclass(frozen=True)
class Progressing:
    """What can be said of the load going on."""

    status: Truth
    reason: str
    message: str = ""


def is_over(status: RestoreStatus, run: str) -> bool:
    """Whether this run has come to its end: nothing brings it back."""
    return status.run_id == run and status.phase in TERMINAL


def of_run(restore: DatabaseRestore) -> RestoreStatus:
    """The status to go on with: a new run knows nothing of the one before but its conditions' times."""
    old, spec = restore.status, restore.spec
    if old.run_id == spec.run_id:
        return old
    return RestoreStatus(run_id=spec.run_id, conditions=old.conditions)


def active(
    status: RestoreStatus,
    restore: DatabaseRestore,
    now: datetime,
    phase: Phase,
    reason: str,
    message: str = "",
    *,
    progressing: Progressing | None = None,
) -> RestoreStatus:
    """A run that is under way, or waits."""
    message = message[:LONGEST]
    wanted: dict[str, tuple[Truth, str, str]] = {
        "Succeeded": ("Unknown", reason, message),
        "Ready": ("Unknown", reason, message),
        "Reconciling": ("True", reason, message),
        "Stalled": ("False", reasons.AS_EXPECTED, ""),
    }
    if progressing is not None:
        wanted["Progressing"] = (progressing.status, progressing.reason, progressing.message)
    return _said(status, restore, now, phase, message, wanted)


def ended(
    status: RestoreStatus,
    restore: DatabaseRestore,
    now: datetime,
    phase: Phase,
    reason: str,
    message: str,
    report: Report | None = None,
) -> RestoreStatus:
    """A run that is over. What it did comes out of the report; without one the last figures stand."""
    message = message[:LONGEST]
    good = phase == "Succeeded"
    truth: Truth = "True" if good else "False"
    wanted: dict[str, tuple[Truth, str, str]] = {
        "Succeeded": (truth, reason, message),
        "Ready": (truth, reason, message),
        "Reconciling": ("False", reason, ""),
        "Stalled": ("False", reasons.AS_EXPECTED, "") if good else ("True", reason, message),
    }
    if report is not None:
        status = reported(status, report)
    if good and status.progress is not None:
        whole = {"percent": 100, "bytes_done": status.progress.bytes_total}
        status = status.model_copy(update={"progress": status.progress.model_copy(update=whole)})
    if status.progress is not None:
        status = status.model_copy(
            update={"progress": status.progress.model_copy(update={"eta_seconds": None, "table": ""})}
        )
    end = (report.completion_time if report else "") or stamp(now)
    status = status.model_copy(update={"completion_time": end})
    if not good:
        status = failing(status, LastError(reason=reason, message=message, time=stamp(now)))
    return _said(status, restore, now, phase, message, wanted)


def failing(status: RestoreStatus, error: LastError) -> RestoreStatus:
    """With what last went wrong. The same trouble again does not move its time, so that it is not written again."""
    old = status.last_error
    if old is not None and (old.reason, old.message, old.table) == (error.reason, error.message, error.table):
        return status
    return status.model_copy(update={"last_error": error})


def _said(
    status: RestoreStatus,
    restore: DatabaseRestore,
    now: datetime,
    phase: Phase,
    message: str,
    wanted: dict[str, tuple[Truth, str, str]],
) -> RestoreStatus:
    if (degraded := _degraded(status)) is not None:
        wanted["Degraded"] = degraded
    known = {c.type: c for c in status.conditions}
    generation = restore.metadata.generation
    conditions = []
    for kind, (truth, reason, text) in wanted.items():
        old = known.get(kind)
        moved = old.last_transition_time if old is not None and old.status == truth else stamp(now)
        conditions.append(
            Condition(
                type=kind,
                status=truth,
                observed_generation=generation,
                last_transition_time=moved,
                reason=reason,
                message=text,
            )
        )
    return status.model_copy(
        update={
            "observed_generation": generation,
            "run_id": restore.spec.run_id,
            "spec_hash": restore.spec.digest(),
            "phase": phase,
            "message": message,
            "conditions": conditions,
        }
    )


def _degraded(status: RestoreStatus) -> tuple[Truth, str, str] | None:
    if status.progress is None:
        return None
    if rejected := status.progress.records_rejected:
        what = "record is" if rejected == 1 else "records are"
        return "True", reasons.ROWS_REJECTED, f"{rejected:,} {what} set aside in the ledger with their reasons"
    slow = [f.level for f in status.fallback if f.level in ("Merge", "Row") and f.batches]
    if slow:
        return "True", reasons.FALLBACK_USED, f"some batches had to go by {' and '.join(slow)}, which is slower"
    return "False", reasons.AS_EXPECTED, ""


def loading(status: RestoreStatus, seen: Snapshot) -> RestoreStatus:
    """With the figures of a running pod."""
    progress = ProgressStatus(
        percent=min(max(seen.percent, 0), 100),
        bytes_total=seen.bytes_total,
        bytes_done=seen.bytes_done,
        records_read=seen.records_read,
        records_inserted=seen.records_inserted,
        records_updated=seen.records_updated,
        records_duplicate=seen.records_duplicate,
        records_conflict=seen.records_conflict,
        records_rejected=seen.records_rejected,
        tables_total=seen.tables_total,
        tables_done=seen.tables_done,
        records_per_second=seen.records_per_second,
        eta_seconds=seen.eta_seconds,
        table=seen.table,
        last_update_time=seen.last_update_time,
    )
    update: Json = {"progress": progress}
    if seen.fallback:
        update["fallback"] = _fallback(seen.fallback)
    if seen.snapshot:
        update["snapshot"] = SnapshotStatus(name=seen.snapshot, bytes=seen.bytes_total, tables=seen.tables_total)
    rows = [
        {key: row[key] for key in ("name", "state", "read", "inserted", "updated", "duplicate", "conflict", "rejected", "seconds", "error")}
        for row in msgspec.to_builtins(seen.tables)
    ]  # fmt: skip
    fresh = status.model_copy(update=update)
    return _with_tables(fresh, rows, 0) if rows else fresh  # a log line names no tables


def reported(status: RestoreStatus, report: Report) -> RestoreStatus:
    """With the figures of a report: of the whole run, over all its attempts. One that never came to read anything leaves
    what is known."""
    totals = report.totals
    if not totals.tables and not totals.read:
        return status
    old = status.progress or ProgressStatus()
    whole = report.snapshot.bytes or old.bytes_total
    done = min(totals.bytes, whole)
    progress = ProgressStatus(
        percent=done * 100 // whole if whole else 0,
        bytes_total=whole,
        bytes_done=done,
        records_read=totals.read,
        records_inserted=totals.inserted,
        records_updated=totals.updated,
        records_duplicate=totals.duplicate,
        records_conflict=totals.conflict,
        records_rejected=totals.rejected,
        tables_total=totals.tables,
        tables_done=_tables_done(report, old.tables_done),
        records_per_second=totals.read // max(report.seconds, 1),
        last_update_time=report.completion_time or old.last_update_time,
    )
    sample = [RejectedStatus.model_validate(msgspec.to_builtins(r)) for r in report.rejected_sample[:MOST_REJECTED]]
    update: Json = {"progress": progress, "fallback": _fallback(report.fallback), "rejected_sample": sample}
    if report.snapshot.name:
        update["snapshot"] = SnapshotStatus.model_validate(msgspec.to_builtins(report.snapshot))
    if report.start_time and status.start_time is None:
        update["start_time"] = report.start_time
    return _with_tables(status.model_copy(update=update), msgspec.to_builtins(report.tables), report.tables_omitted)


def _tables_done(report: Report, seen: int) -> int:
    """A report that was cut leaves out tables that are done before others: where it holds none that is, nobody knows how many of
    the missing ones are, and what was `seen` last stands."""
    unfinished = sum(table.state != "Done" for table in report.tables)
    if report.tables_omitted and unfinished == len(report.tables) and report.outcome != "Succeeded":
        return seen
    return max(report.totals.tables - unfinished, 0)


def _fallback(levels: Sequence[FallbackLevel]) -> list[FallbackStatus]:
    return [FallbackStatus(level=f.level, batches=f.batches, records=f.records) for f in levels]


def _with_tables(status: RestoreStatus, rows: list[Json], omitted: int) -> RestoreStatus:
    ranks = {"Failed": 0, "Loading": 1, "Deferred": 2, "Pending": 3, "Done": 4}
    rows = sorted(
        rows, key=lambda row: (ranks.get(row["state"], 0) if not row.get("error") else 0, -row.get("rejected", 0))
    )
    kept = [TableStatus.model_validate(row) for row in rows[:MOST_TABLES]]
    return status.model_copy(update={"tables": kept, "tables_omitted": omitted + len(rows) - len(kept)})


def as_json(status: RestoreStatus) -> Json:
    """The status as the API server stores it: without what says nothing."""
    made: Json = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: value for key, value in made.items() if value not in ([], "") or key == "conditions"}


def merge_patch(old: Any, new: Any) -> Json:
    """The merge patch (RFC 7396) that makes `new` out of `old`; empty when they are the same. Lists are replaced whole."""
    patch: Json = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = value
        elif isinstance(value, dict) and isinstance(old[key], dict):
            if inner := merge_patch(old[key], value):
                patch[key] = inner
        elif old[key] != value:
            patch[key] = value
    return patch
