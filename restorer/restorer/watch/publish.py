"""Where a report goes: a file, one line on stdout, the termination log that the kubelet reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from restorer.errors import Refused
from restorer.events import AnyEvent, RunFinished
from restorer.report import Report, SnapshotInfo, TableReport, Totals
from restorer.watch.compact import compact as compact
from restorer.watch.compact import line as line
from restorer.watch.progress import Progress

INTERVAL = 5.0  # seconds between two writes of the termination log


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
