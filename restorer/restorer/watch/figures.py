"""The shape of `/progress`: a run's figures at one moment, as HTTP, the logs, the terminal and the operator read them.
Only shapes; `progress.py` fills them."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from restorer.report import FallbackLevel

LEVELS = ("Copy", "Exact", "Merge", "Row", "Reject")
STATES = ("Pending", "Loading", "Deferred", "Done", "Failed")
OUTCOMES = ("inserted", "updated", "duplicate", "conflict", "rejected")


class TableSnapshot(msgspec.Struct, rename="camel", frozen=True):
    """One table at one moment. `deferred`: rows read that wait (for parents, or their turn). `seconds`: whole seconds of loading
    in this attempt. `records_per_second`: recent while it loads, its average once it has ended."""

    name: str
    state: str
    bytes_total: int
    bytes_done: int
    read: int
    inserted: int
    updated: int
    duplicate: int
    conflict: int
    rejected: int
    deferred: int
    records_per_second: int
    seconds: int
    error: str


class Snapshot(msgspec.Struct, rename="camel", frozen=True):
    """What `/progress` serves: `msgspec.json.encode(snapshot)`. Names as in the resource's `status.progress`.

    `percent` is 0..100 by bytes, rounded down. `records_per_second` is recent while loading, the average afterwards.
    `eta_seconds` is null until it means something. `stalled`: no batch was committed for the stall timeout.
    `records_deferred` rows wait: read is the sum of the outcomes plus these. Times are RFC 3339."""

    run: str
    mode: str
    attempt: int
    resumed: bool
    phase: str
    snapshot: str
    percent: int
    bytes_total: int
    bytes_done: int
    records_read: int
    records_inserted: int
    records_updated: int
    records_duplicate: int
    records_conflict: int
    records_rejected: int
    records_deferred: int
    tables_total: int
    tables_done: int
    records_per_second: int
    records_per_second_overall: int
    eta_seconds: int | None
    elapsed_seconds: int
    table: str
    start_time: str
    last_update_time: str
    stalled: bool
    retries: int
    warnings: int
    outcome: str
    reason: str
    message: str
    fallback: list[FallbackLevel]
    rejects_by_reason: dict[str, int]
    tables: list[TableSnapshot]


def rfc3339(seconds: float) -> str:
    """Unix seconds as `2025-01-31T12:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
