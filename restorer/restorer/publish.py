"""Where a report goes: a file, one line on stdout, the termination message that the kubelet keeps.

The kubelet keeps the last 4,096 bytes of the termination log, so a longer one would lose its head: `compact` cuts, least
important first, and always leaves valid JSON with the outcome and the totals. What it leaves out where it has to cut are
zeros and empty fields first (absent means zero or empty: `msgspec.json.decode(…, type=Report)` fills them in).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from .errors import Refused
from .events import AnyEvent, RunFinished
from .progress import Progress, rfc3339
from .report import Report, SnapshotInfo, TableReport, Totals

LIMIT = 4096  # bytes of a termination message that the kubelet keeps
INTERVAL = 5.0  # seconds between two writes of the termination log
LONG = 400  # bytes of JSON that one text may take once there is not room for everything

Json = dict[str, Any]


def line(report: Report) -> bytes:
    """The report as one line of JSON, without a line end."""
    try:
        return msgspec.json.encode(report)
    except UnicodeEncodeError:  # a file name that is no UTF-8
        return msgspec.json.encode(_clean(msgspec.to_builtins(report)))


def to_file(report: Report, path: str | Path) -> None:
    """Writes the report as indented JSON. A reader of `path` sees the old file or the whole new one, never a part.
    Raises Refused when it cannot be written."""
    target = Path(path)
    data = msgspec.json.format(line(report), indent=2) + b"\n"
    try:
        if target.exists() and not target.is_file():  # /dev/stdout, a pipe: nothing to replace
            target.write_bytes(data)
            return
        target = target.resolve()  # through a link: the file it points to
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise Refused(
            f"cannot write the report to {path}: {error.strerror or error}",
            "name a file in a folder that may be written",
        ) from error


def compact(report: Report, limit: int = LIMIT) -> bytes:
    """The report as JSON of at most `limit` bytes (1,024 at least). Whole when it fits; else cut, in this order: texts
    over 400 bytes, passed verifications, the rejected sample's tail, warnings, tables without failure, all texts,
    tables and verifications that failed. `tablesOmitted` says how many tables are missing."""
    if limit < 1024:
        raise ValueError("a report does not fit into less than 1,024 bytes")
    if len(whole := line(report)) <= limit:
        return whole
    full = _lean(_clean(msgspec.to_builtins(report)))
    full["tables"] = sorted(full.get("tables", []), key=_importance)
    failures = sum(_importance(table)[0] == 0 for table in full["tables"])
    full["verification"] = sorted(full.get("verification", []), key=lambda check: bool(check.get("passed")))
    failed_checks = sum(not check.get("passed") for check in full["verification"])
    omitted = report.tables_omitted

    # What is kept: how many of each list, and how long a text may be.
    keep = {
        name: len(full.get(name, [])) for name in ("tables", "verification", "rejectedSample", "warnings", "fallback")
    }
    longest = LONG

    def draw() -> bytes:
        cut = {key: _short(value, longest) for key, value in full.items() if key not in keep and key != "totals"}
        cut["totals"] = full["totals"]
        for name, count in keep.items():
            if count:
                cut[name] = _short(full[name][:count], longest)
        if missing := omitted + len(full["tables"]) - keep["tables"]:
            cut["tablesOmitted"] = missing
        return msgspec.json.encode(cut)

    def fit(name: str, least: int) -> bool:
        """Keeps as many of a list as fit, `least` at least."""
        low, high = min(least, keep[name]), keep[name]
        while low < high:
            keep[name] = (low + high + 1) // 2
            if len(draw()) <= limit:
                low = keep[name]
            else:
                high = keep[name] - 1
        keep[name] = low
        return len(draw()) <= limit

    for name, least in (("verification", failed_checks), ("rejectedSample", 1), ("warnings", 0), ("tables", failures)):
        if len(draw()) <= limit or fit(name, least):
            return draw()
    for longest in (200, 100, 50, 24):
        if len(draw()) <= limit:
            return draw()
    for name in ("tables", "verification", "rejectedSample", "fallback"):
        if fit(name, 0):
            break
    return draw()


class TerminationLog:
    """The listener that keeps the termination log up to date: the state so far as an `Interrupted` report every
    `interval` seconds at most, so that a pod that is killed leaves its last progress; at the end the final report.

    The file is written in place (the kubelet mounts it, it cannot be replaced) by one write that covers what stood
    there, so it is valid JSON whenever the process dies. A file that cannot be written is left alone: `error` says why.
    `progress` must stand before it among the listeners."""

    def __init__(
        self,
        path: str | Path,
        progress: Progress,
        *,
        interval: float = INTERVAL,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.path = Path(path)
        self.error = ""
        self._progress = progress
        self._interval = interval
        self._clock = clock or progress.now
        self._last: float | None = None

    def __call__(self, event: AnyEvent) -> None:
        if isinstance(event, RunFinished):
            self.write(event.report)
        elif self._last is None or self._clock() - self._last >= self._interval:
            self.write(interim_report(self._progress))

    def write(self, report: Report) -> None:
        """Writes the report now. Also for reports of runs that never began."""
        self._last = self._clock()
        data = compact(report)
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                # Spaces after JSON are JSON: old bytes are covered by the same write, then cut off.
                os.pwrite(file, data.ljust(min(os.fstat(file).st_size, 64 * 1024)), 0)
                os.ftruncate(file, len(data))
            finally:
                os.close(file)
            self.error = ""
        except OSError as error:
            self.error = f"cannot write {self.path}: {error.strerror or error}"


def interim_report(progress: Progress) -> Report:
    """What a run has done so far, in the shape of its report: outcome Interrupted, for it can be resumed."""
    shown = progress.snapshot()
    return Report(
        run=shown.run,
        mode=shown.mode or "Apply",
        outcome="Interrupted",
        reason=shown.reason or "Interrupted",
        message=shown.message or f"{shown.percent} % loaded in phase {shown.phase}; the same run can be resumed",
        snapshot=SnapshotInfo(name=shown.snapshot, bytes=shown.bytes_total, tables=shown.tables_total),
        start_time=shown.start_time,
        completion_time=rfc3339(time.time()) if shown.phase == "Finished" else "",
        seconds=shown.elapsed_seconds,
        totals=Totals(
            tables=shown.tables_total,
            bytes=shown.bytes_done,
            read=shown.records_read,
            inserted=shown.records_inserted,
            updated=shown.records_updated,
            duplicate=shown.records_duplicate,
            conflict=shown.records_conflict,
            rejected=shown.records_rejected,
            retries=shown.retries,
        ),
        fallback=shown.fallback,
        tables=[
            TableReport(
                name=table.name,
                state=table.state,
                read=table.read,
                inserted=table.inserted,
                updated=table.updated,
                duplicate=table.duplicate,
                conflict=table.conflict,
                rejected=table.rejected,
                seconds=table.seconds,
                error=table.error,
            )
            for table in shown.tables
        ],
        warnings=progress.warnings,
        attempts=shown.attempt,
    )


def _importance(table: Json) -> tuple[int, int, int]:
    """Failures first, then unfinished tables, then by rejected and conflicting records, then by size."""
    state = table.get("state")
    rank = 0 if state == "Failed" or table.get("error") else 1 if state != "Done" else 2
    return rank, -table.get("rejected", 0) - table.get("conflict", 0), -table.get("read", 0)


def _lean(report: Json) -> Json:
    """Without zeros and empty fields, but for the totals and the outcome."""
    kept = {key: value for key, value in report.items() if value or key in ("totals", "outcome")}
    for key in ("tables", "rejectedSample", "verification", "fallback"):
        if key in kept:
            kept[key] = [{k: v for k, v in row.items() if v or k == "passed"} for row in kept[key]]
    return kept


def _short(value: Any, longest: int) -> Any:
    """The value with every text cut, at a character's boundary, to `longest` bytes of JSON."""
    match value:
        case str():
            if len(msgspec.json.encode(value)) - 2 <= longest:
                return value
            room, kept = longest - 3, 0  # 3 bytes: the ellipsis
            for kept, character in enumerate(value):  # noqa: B007
                room -= len(msgspec.json.encode(character)) - 2
                if room < 0:
                    break
            return value[:kept] + "…"
        case dict():
            return {key: _short(item, longest) for key, item in value.items()}
        case list():
            return [_short(item, longest) for item in value]
    return value


def _clean(value: Any) -> Any:
    """The value with lone surrogates spelled out: they cannot be encoded."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case dict():
            return {key: _clean(item) for key, item in value.items()}
        case list():
            return [_clean(item) for item in value]
    return value
