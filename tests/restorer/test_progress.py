"""The fold of events into figures, on a clock the test moves."""

from __future__ import annotations

import msgspec
import pytest
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
)
from restorer.report import Counters, FallbackLevel, Report, TableReport
from restorer.watch.progress import Progress

# Those of status.progress in the API.
STATUS_NAMES = {"percent", "bytesTotal", "bytesDone", "tablesTotal", "tablesDone", "table"}
STATUS_NAMES |= {"recordsRead", "recordsInserted", "recordsUpdated", "recordsDuplicate", "recordsConflict"}
STATUS_NAMES |= {"recordsRejected", "recordsPerSecond", "etaSeconds", "lastUpdateTime"}


class Run:
    """A run to be told: `at` is seconds since its start."""

    def __init__(self, *tables: TableStart, loading: bool = True, **started: object) -> None:
        self.at = 0.0
        self.progress = Progress(stall_timeout=300, clock=lambda: self.at, wall=lambda: 1_700_000_000 + self.at)
        self.tell(RunStarted(run="lms/reset/1", mode="Apply", snapshot="20241219", tables=list(tables), **started))
        if loading:
            self.tell(PhaseChanged("Loading"))

    def tell(self, *events: AnyEvent) -> None:
        for event in events:
            self.progress(event)

    def batch(self, table: str, read: int, octets: int, *, after: float = 0.0, **more: object) -> None:
        self.at += after
        rejected = int(more.pop("rejected", 0))
        counters = Counters(read=read, inserted=read - rejected, rejected=rejected)
        event = BatchLoaded(table=table, level="Copy", counters=counters, bytes=octets, seconds=after)
        self.tell(msgspec.structs.replace(event, **more))

    @property
    def shown(self):
        return self.progress.snapshot()


def test_a_fresh_run_shows_what_lies_before_it() -> None:
    shown = Run(TableStart("users", 100), TableStart("posts", 300), loading=False).shown
    assert (shown.phase, shown.percent, shown.bytes_total, shown.tables_total, shown.tables_done) == (
        "Validating",
        0,
        400,
        2,
        0,
    )
    assert shown.eta_seconds is None
    assert shown.table == ""


def test_batches_add_up_per_table_and_in_all() -> None:
    run = Run(TableStart("users", 1000), TableStart("posts", 3000))
    run.tell(TableChanged("users", "Loading"))
    run.batch("users", 10, 500, after=1, rejected=2, reasons={"NotNullViolation": 2})
    run.batch("users", 10, 490, after=1, rejected=1, reasons={"NotNullViolation": 1})
    shown = run.shown
    assert (shown.records_read, shown.records_inserted, shown.records_rejected) == (20, 17, 3)
    assert shown.rejects_by_reason == {"NotNullViolation": 3}
    assert (shown.bytes_done, shown.percent, shown.table) == (990, 24, "users")
    assert shown.tables[0].bytes_done == 990

    run.tell(TableChanged("users", "Done"))  # the brackets of the array belong to no batch
    shown = run.shown
    assert (shown.tables[0].bytes_done, shown.percent, shown.tables_done, shown.table) == (1000, 25, 1, "")


def test_bytes_beyond_the_files_size_never_show_more_than_100_percent() -> None:
    run = Run(TableStart("users", 100))
    run.batch("users", 10, 150, after=1)
    assert (run.shown.percent, run.shown.bytes_done) == (100, 100)


def test_a_backup_of_empty_files_is_at_100_percent_once_its_tables_are_done() -> None:
    run = Run(TableStart("users", 0))
    assert run.shown.percent == 0
    run.tell(TableChanged("users", "Done"))
    assert run.shown.percent == 100


def test_rows_that_wait_for_parents_are_what_is_read_and_not_settled() -> None:
    run = Run(TableStart("posts", 1000))
    run.tell(BatchLoaded("posts", "Merge", Counters(read=10, inserted=7), 1000, 0.1, deferred=3))
    run.tell(TableChanged("posts", "Deferred"))
    assert (run.shown.records_deferred, run.shown.tables[0].deferred, run.shown.tables[0].state) == (3, 3, "Deferred")
    run.tell(BatchLoaded("posts", "Merge", Counters(inserted=2, rejected=1), 0, 0.1, deferred=-3))
    assert run.shown.records_deferred == 0


def test_the_recent_rate_is_right_from_the_first_batches_and_follows_a_change() -> None:
    run = Run(TableStart("users", 10**9))
    for _ in range(3):
        run.batch("users", 500, 1000, after=0.5)
    assert run.shown.records_per_second == pytest.approx(1000, rel=0.1)
    for _ in range(60):
        run.batch("users", 100, 1000, after=1)
    assert run.shown.records_per_second == pytest.approx(100, rel=0.1)
    assert run.shown.records_per_second_overall == round((1500 + 6000) / 61.5)


def test_the_rate_fades_when_nothing_comes() -> None:
    run = Run(TableStart("users", 10**9))
    for _ in range(20):
        run.batch("users", 1000, 1000, after=1)
    before = run.shown.records_per_second
    run.at += 30
    assert run.shown.records_per_second < before / 10


def test_eta_waits_until_it_means_something_then_counts_down() -> None:
    run = Run(TableStart("users", 100_000))
    run.batch("users", 10, 1000, after=1)
    assert run.shown.eta_seconds is None  # one second says little
    for _ in range(9):
        run.batch("users", 10, 1000, after=1)
    assert run.shown.eta_seconds == pytest.approx(90, rel=0.06)
    for _ in range(80):
        run.batch("users", 10, 1000, after=1)
    assert run.shown.eta_seconds == pytest.approx(10, abs=1)


def test_no_eta_when_the_bytes_are_read_but_the_run_is_not_over() -> None:
    run = Run(TableStart("users", 1000))
    run.batch("users", 10, 1000, after=5)
    assert run.shown.eta_seconds is None
    run.tell(PhaseChanged("Verifying"))
    assert run.shown.eta_seconds is None
    run.tell(RunFinished(Report(run="lms/reset/1", outcome="Succeeded")))
    assert run.shown.eta_seconds == 0


def test_a_resumed_run_starts_from_what_was_done_and_rates_only_this_attempt() -> None:
    done = TableStart("users", 10_000, 10_000, Counters(read=5000, inserted=4990, rejected=10), "Done")
    half = TableStart("posts", 10_000, 4_000, Counters(read=2000, inserted=2000), "Loading")
    run = Run(
        done, half, attempt=2, resumed=True, fallback=[FallbackLevel("Copy", 7, 7000)], reasons={"InvalidValue": 10}
    )
    assert (run.shown.percent, run.shown.records_read, run.shown.records_rejected, run.shown.tables_done) == (
        70,
        7000,
        10,
        1,
    )
    assert (run.shown.attempt, run.shown.resumed) == (2, True)
    run.batch("posts", 100, 100, after=4)
    shown = run.shown
    assert (shown.records_read, shown.records_per_second_overall, shown.records_per_second) == (7100, 25, 30)
    assert shown.fallback == [FallbackLevel("Copy", 8, 7100)]
    assert shown.rejects_by_reason == {"InvalidValue": 10}
    assert shown.tables[1].seconds == 4


def test_figures_out_of_the_ledger_replace_what_was_added_up() -> None:
    run = Run(TableStart("users", 1000))
    run.batch("users", 10, 100, after=1)
    run.at += 1
    run.tell(TableCounts("users", Counters(read=50, inserted=50), 500, "Loading"))
    assert (run.shown.records_read, run.shown.bytes_done) == (50, 500)
    run.tell(TableCounts("users", Counters(read=50, inserted=50), 500, "Done"))
    assert (run.shown.tables_done, run.shown.percent) == (1, 100)


def test_stalled_is_no_batch_for_the_timeout_while_loading() -> None:
    run = Run(TableStart("users", 1000), loading=False)
    run.at = 1000
    assert not run.progress.stalled(run.at, 300)  # validating may take its time
    run.tell(PhaseChanged("Loading"))
    assert not run.progress.stalled(run.at + 300, 300)
    assert run.progress.stalled(run.at + 301, 300)
    run.batch("users", 1, 10, after=200)
    assert not run.progress.stalled(run.at + 200, 300)
    run.at += 301
    run.tell(Retried("57P01", 1.0, 5))  # trying is not progress
    assert run.shown.stalled
    run.tell(TableCounts("users", Counters(read=2, inserted=2), 20, "Loading"))  # another pod's is
    assert not run.shown.stalled
    run.tell(PhaseChanged("Verifying"))
    assert not run.progress.stalled(run.at + 10_000, 300)


def test_the_ladder_counts_batches_by_deepest_rung_and_records_by_the_rung_that_settled_them() -> None:
    run = Run(TableStart("users", 1000))
    run.batch("users", 10, 10, level="Row", levels={"Merge": 9, "Row": 1})
    run.batch("users", 10, 10)
    assert run.shown.fallback == [
        FallbackLevel("Copy", 1, 10),
        FallbackLevel("Merge", 0, 9),
        FallbackLevel("Row", 1, 1),
    ]


def test_the_report_has_the_last_word_and_the_clock_stops() -> None:
    run = Run(TableStart("users", 1000))
    run.batch("users", 10, 400, after=2)
    run.at += 8
    tables = [TableReport("users", "Failed", read=12, inserted=11, rejected=1, error="broken at byte 400")]
    run.tell(
        Failed("broken at byte 400", "mend the file", "LoadFailed"),
        RunFinished(Report(run="lms/reset/1", outcome="Failed", reason="LoadFailed", message="broken", tables=tables)),
    )
    run.at += 1000
    shown = run.shown
    assert (shown.phase, shown.outcome, shown.reason, shown.message) == ("Finished", "Failed", "LoadFailed", "broken")
    assert (shown.records_read, shown.percent, shown.elapsed_seconds) == (12, 40, 10)
    assert (shown.tables[0].state, shown.tables[0].error, shown.tables[0].seconds) == (
        "Failed",
        "broken at byte 400",
        10,
    )


def test_the_json_has_the_names_of_the_status_and_no_floats() -> None:
    run = Run(TableStart("users", 1000))
    run.batch("users", 10, 400, after=2.5)
    run.tell(Warned("careful"), Warned("careful"), Explained("because"))
    document = msgspec.json.decode(msgspec.json.encode(run.shown))
    assert set(document) >= STATUS_NAMES
    assert document["lastUpdateTime"] == "2023-11-14T22:13:22Z"
    assert document["warnings"] == 1
    assert document["tables"][0]["bytesTotal"] == 1000
    assert not any(isinstance(value, float) for value in [*document.values(), *document["tables"][0].values()])


def test_a_batch_says_by_itself_that_the_run_is_loading() -> None:
    run = Run(TableStart("users", 1000), loading=False)
    run.batch("users", 10, 400, after=2)
    assert (run.shown.phase, run.shown.tables[0].state, run.shown.records_per_second_overall) == (
        "Loading",
        "Loading",
        5,
    )


def test_an_explanation_does_not_count_as_an_update() -> None:
    run = Run(TableStart("users", 1000))
    run.at = 60
    run.tell(Explained("because"))
    assert run.shown.last_update_time == "2023-11-14T22:13:20Z"
