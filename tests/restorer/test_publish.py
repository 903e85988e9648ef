"""Reports in files, on one line, and in the 4,096 bytes of a termination message."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from restorer.errors import Refused
from restorer.events import (
    BatchLoaded,
    PhaseChanged,
    RunFinished,
    RunStarted,
    TableChanged,
    TableStart,
    Warned,
    fan_out,
)
from restorer.report import Check, Counters, FallbackLevel, RejectSample, Report, SnapshotInfo, TableReport, Totals
from restorer.watch.progress import Progress
from restorer.watch.publish import TerminationLog, compact, interim_report, line, to_file

counts = st.integers(0, 2**63 - 1)
texts = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(), max_size=20),  # lone surrogates too
    st.sampled_from(["\x00", "é", "😀", '"\\', "\udc80", "x"]).map(lambda c: c * 3000),
)


def lists(of: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(st.lists(of, max_size=4), st.builds(lambda item, n: [item] * n, of, st.integers(50, 400)))


reports = st.builds(
    Report,
    run=texts,
    mode=st.sampled_from(["Apply", "DryRun", "VerifyOnly"]),
    outcome=st.sampled_from(["Succeeded", "Failed", "Cancelled", "Interrupted"]),
    reason=texts,
    message=texts,
    snapshot=st.builds(SnapshotInfo, texts, counts, counts),
    start_time=texts,
    completion_time=texts,
    seconds=counts,
    totals=st.builds(Totals, *[counts] * 9),
    fallback=lists(st.builds(FallbackLevel, texts, counts, counts)),
    tables=lists(
        st.builds(TableReport, texts, st.sampled_from(["Pending", "Loading", "Done", "Failed"]), *[counts] * 7, texts)
    ),
    rejected_sample=lists(st.builds(RejectSample, texts, counts, texts, texts, texts)),
    verification=lists(st.builds(Check, texts, texts, st.booleans(), texts, texts)),
    warnings=lists(texts),
    attempts=counts,
)


@settings(max_examples=200, deadline=None)
@given(reports)
def test_any_report_compacts_to_valid_json_with_the_totals_and_the_outcome(report: Report) -> None:
    data = compact(report)
    assert len(data) <= 4096
    told = msgspec.json.decode(data, type=Report)
    assert told.totals == report.totals
    assert told.outcome == report.outcome
    assert len(told.tables) + told.tables_omitted == len(report.tables)
    assert json.loads(data)["outcome"] == report.outcome  # another parser agrees


def big(tables: int = 0, **more: object) -> Report:
    rows = [TableReport(f"table_{n:04}", "Done", 1000 + n, 1000 + n, seconds=3) for n in range(tables)]
    return Report("lms/reset/1", outcome="Succeeded", totals=Totals(read=5, inserted=5), tables=rows, **more)


def decoded(report: Report) -> Report:
    return msgspec.json.decode(compact(report), type=Report)


def test_a_report_that_fits_is_left_whole() -> None:
    report = big(5, warnings=["careful"])
    assert compact(report) == line(report)
    assert decoded(report) == report


def test_tables_without_failure_go_first_and_are_counted() -> None:
    report = big(300)
    report.tables[250].state, report.tables[250].error = "Failed", "broken"
    report.tables[200].rejected = 7
    told = decoded(report)
    assert [t.name for t in told.tables[:3]] == ["table_0250", "table_0200", "table_0299"]
    assert len(told.tables) > 30
    assert told.tables_omitted == 300 - len(told.tables)
    assert len(compact(report)) > 4000  # the room is used


def test_what_matters_least_goes_first() -> None:
    checks = [Check("rowCounts", f"table_{n:04}", n != 7, "1", "2") for n in range(60)]
    samples = [RejectSample("users", n, "NotNullViolation", "23502", "") for n in range(5)]
    told = decoded(big(10, verification=checks, rejected_sample=samples, warnings=["careful"]))
    assert len(told.tables) == 10  # all
    assert told.rejected_sample == samples
    assert told.warnings == ["careful"]
    assert told.verification[0] == checks[7]
    assert 1 < len(told.verification) < 60

    told = decoded(big(30, verification=checks, rejected_sample=samples, warnings=["w" * 300] * 9))
    assert told.verification == [checks[7]]
    assert told.rejected_sample == samples[:1]
    assert 0 < len(told.warnings) < 9
    assert len(told.tables) == 30


def test_a_long_message_is_cut_at_a_character_not_everything_else() -> None:
    report = big(20, message="é😀" * 3000)
    told = decoded(report)
    assert told.message.endswith("…")
    assert report.message.startswith(told.message[:-1])
    assert 300 < len(told.message.encode()) <= 400
    assert len(told.tables) == 20


def test_failures_outlive_long_errors() -> None:
    report = big(0, tables_omitted=0)
    report.tables = [TableReport(f"t{n}", "Failed", error=f"{n} " + "e" * 390) for n in range(25)]
    told = decoded(report)
    assert len(told.tables) == 25
    assert all(t.error.endswith("…") for t in told.tables)


def test_a_report_is_written_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    to_file(big(3), path)
    assert msgspec.json.decode(path.read_bytes(), type=Report) == big(3)
    assert path.read_text().startswith('{\n  "run"')
    assert os.listdir(tmp_path) == ["report.json"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_report_goes_through_links(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    to_file(big(1), tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").is_file()


def test_a_report_goes_into_a_pipe_and_leaves_it_a_pipe(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    to_file(big(1), fifo)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert msgspec.json.decode(os.read(reader, 65536), type=Report) == big(1)
    os.close(reader)


@pytest.mark.parametrize("where", ["missing/report.json", "."])
def test_a_report_that_cannot_be_written_is_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(Refused, match="cannot write the report to"):
        to_file(big(1), tmp_path / where)


class Logged:
    def __init__(self, path: Path) -> None:
        self.at, self.path = 0.0, path
        self.progress = Progress(clock=lambda: self.at)
        self.log = TerminationLog(path, self.progress)
        self.emit = fan_out(self.progress, self.log)
        self.emit(RunStarted("lms/reset/1", "Apply", "20241219", [TableStart("users", 1000)], attempt=2, resumed=True))
        self.emit(PhaseChanged("Loading"))

    def batch(self) -> None:
        self.emit(BatchLoaded("users", "Copy", Counters(read=10, inserted=9, rejected=1), 100, 0.1))

    @property
    def told(self) -> Report:
        return msgspec.json.decode(self.path.read_bytes(), type=Report)


def test_a_killed_pod_leaves_its_last_progress(tmp_path: Path) -> None:
    logged = Logged(tmp_path / "termination-log")
    assert (logged.told.run, logged.told.outcome, logged.told.attempts) == ("lms/reset/1", "Interrupted", 2)
    logged.at = 5
    logged.batch()
    assert (logged.told.totals.read, logged.told.totals.rejected, logged.told.totals.bytes) == (10, 1, 100)
    assert logged.told.tables[0].inserted == 9
    assert logged.told.message == "10 % loaded in phase Loading; the same run can be resumed"
    logged.at = 9
    logged.batch()
    assert logged.told.totals.read == 10  # not yet: every 5 s at most
    logged.at = 10
    logged.batch()
    assert logged.told.totals.read == 30


def test_the_final_report_replaces_the_progress_in_place(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    path.write_text("x" * 10_000)
    inode = path.stat().st_ino
    logged = Logged(path)
    logged.emit(Warned("w" * 2000))
    logged.emit(RunFinished(big(2)))
    assert logged.told == big(2)
    assert path.stat().st_ino == inode
    assert path.stat().st_size == len(line(big(2)))


def test_a_termination_log_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    logged = Logged(tmp_path / "missing" / "log")
    assert "cannot write" in logged.log.error


def test_the_interim_report_has_every_figure(tmp_path: Path) -> None:
    logged = Logged(tmp_path / "log")
    logged.emit(TableChanged("users", "Loading"))
    logged.emit(Warned("careful"))
    logged.batch()
    report = interim_report(logged.progress)
    assert report.totals.balanced()
    assert (report.tables[0].state, report.fallback[0].level, report.warnings) == ("Loading", "Copy", ["careful"])
    assert (report.snapshot.name, report.snapshot.bytes, report.snapshot.tables) == ("20241219", 1000, 1)
