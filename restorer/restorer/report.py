"""The report: one shape for the CLI, the termination message and the resource's status (docs/restoring.md)."""

from __future__ import annotations

import msgspec


class Counters(msgspec.Struct, rename="camel"):
    """What became of the records read. Always `read = inserted + updated + duplicate + conflict + rejected`
    (plus `deferred` while a run is under way: rows that wait; 0 at the end)."""

    read: int = 0
    inserted: int = 0
    updated: int = 0
    duplicate: int = 0
    conflict: int = 0
    rejected: int = 0

    def balanced(self) -> bool:
        return self.read == self.inserted + self.updated + self.duplicate + self.conflict + self.rejected


class Totals(Counters, rename="camel"):
    """Over all tables. `bytes`: whose records are committed; the whole backup's are in `snapshot`."""

    tables: int = 0
    bytes: int = 0
    retries: int = 0


class TableReport(msgspec.Struct, rename="camel"):
    """One table. `state`: Pending | Loading | Deferred | Done | Failed. `seconds`: whole seconds spent loading."""

    name: str
    state: str = "Pending"
    read: int = 0
    inserted: int = 0
    updated: int = 0
    duplicate: int = 0
    conflict: int = 0
    rejected: int = 0
    seconds: int = 0
    error: str = ""


class FallbackLevel(msgspec.Struct, rename="camel"):
    """How much went through one rung of the ladder: Copy | Exact | Merge | Row | Reject."""

    level: str
    batches: int = 0
    records: int = 0


class RejectSample(msgspec.Struct, rename={"sqlstate": "sqlState"}):
    """One rejected record by its place, never by its values. `record`: 1-based number in its file."""

    table: str
    record: int
    reason: str
    sqlstate: str = ""
    constraint: str = ""


class Check(msgspec.Struct, rename="camel"):
    """One verification: what was held against what. `expected` and `actual` are counts or short words as text."""

    check: str
    table: str
    passed: bool
    expected: str = ""
    actual: str = ""


class SnapshotInfo(msgspec.Struct, rename="camel"):
    name: str = ""
    bytes: int = 0
    tables: int = 0


class Report(msgspec.Struct, rename="camel"):
    """The final (or, with outcome Interrupted, the latest) account of a run, over all its attempts."""

    run: str
    mode: str = "Apply"
    outcome: str = ""
    reason: str = ""
    message: str = ""
    snapshot: SnapshotInfo = msgspec.field(default_factory=SnapshotInfo)
    start_time: str = ""
    completion_time: str = ""
    seconds: int = 0
    totals: Totals = msgspec.field(default_factory=Totals)
    fallback: list[FallbackLevel] = []
    tables: list[TableReport] = []
    rejected_sample: list[RejectSample] = []
    verification: list[Check] = []
    warnings: list[str] = []
    attempts: int = 1
    tables_omitted: int = 0  # tables left out for room: in the termination message only


class Moment(msgspec.Struct, frozen=True):
    """`at`: seconds since the run began. The others are sums since then."""

    at: float
    bytes: int
    read: int
    rejected: int


class TableTimes(msgspec.Struct, frozen=True):
    """Seconds since the run began, None where it did not come to that; `read` of the table's records."""

    name: str
    began: float | None
    ended: float | None
    read: int


class Reason(msgspec.Struct, frozen=True):
    """How many records of a table were rejected for one reason."""

    table: str
    reason: str
    records: int


class History(msgspec.Struct, frozen=True):
    """What a run was like while it went on; beside the report, not in it."""

    moments: list[Moment]
    tables: list[TableTimes]
    reasons: list[Reason]
