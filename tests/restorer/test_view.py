"""What a person sees: the live picture and the report."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from restorer.events import (
    BatchLoaded,
    Explained,
    PhaseChanged,
    Retried,
    RunStarted,
    TableChanged,
    TableStart,
    Warned,
)
from restorer.report import (
    Check,
    Counters,
    FallbackLevel,
    RejectSample,
    Report,
    SnapshotInfo,
    TableReport,
    Totals,
)
from restorer.watch.frame import ASCII, picture
from restorer.watch.progress import Progress
from restorer.watch.report_view import next_steps, plain_report, render_report
from restorer.watch.view import View, suits
from rich.cells import cell_len
from rich.console import Console

NAMES = ["users", "courses", "lessons", "enrollments", "lesson_progress", "quizzes", "_CourseToTag"]
NAMES += ["course_categories_on_courses"]


class Told:
    """A run of 24 tables, some done, one loading."""

    def __init__(self) -> None:
        self.at = 0.0
        self.progress = Progress(stall_timeout=300, clock=lambda: self.at)
        names = [*NAMES, *(f"table_{n}" for n in range(16))]
        tables = [TableStart(name, 1_000_000) for name in names]
        self.progress(RunStarted("lms/reset/1", "Apply", "20241219_103045", tables, attempt=2, resumed=True))
        self.progress(PhaseChanged("Loading"))
        self.load("users", 1_234_567, 1_000_000, after=5)
        self.progress(TableChanged("users", "Done"))
        self.load("courses", 100_000, 470_000, after=5, rejected=12)

    def load(self, table: str, read: int, octets: int, *, after: float, rejected: int = 0) -> None:
        self.progress(TableChanged(table, "Loading"))
        self.at += after
        counters = Counters(read=read, inserted=read - rejected, rejected=rejected)
        self.progress(BatchLoaded(table, "Copy", counters, octets, 0.1))

    def lines(self, width: int = 80, height: int = 40, **more: object) -> list[str]:
        return [line.plain for line in picture(self.progress.snapshot(), width, height, **more)]

    def row(self, name: str, width: int = 100) -> str:
        return next(line for line in self.lines(width) if name in line.split())


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.mark.parametrize("width", [20, 44, 60, 79, 99, 200])
@pytest.mark.parametrize("height", [1, 5, 10, 24, 60])
def test_a_picture_fits_its_terminal(told: Told, width: int, height: int) -> None:
    lines = told.lines(width, height, notice="trouble " * 40)
    assert len(lines) <= height
    assert max(cell_len(line) for line in lines) <= width


def test_figures_stand_below_each_other_with_separators(told: Told) -> None:
    assert told.row("users").split()[-3:] == ["done", "1,234,567", "246,913"]
    assert told.row("courses").split()[-5:-3] == ["47", "%"]
    assert told.row("courses").split()[-3::2] == ["100,000", "12"]
    heading, users, courses, total = (told.row(name) for name in ("Table", "users", "courses", "Total"))
    for column in ("State", "Records", "Records/s", "Rejected"):
        end = re.search(rf"\b{column}(?!/)", heading).end()
        for line in (users, courses, total):
            assert line[end - 1 : end].strip() or column == "Rejected", (column, line)
            assert line[end : end + 1] in (" ", ""), (column, line)


def test_states_are_told_by_mark_and_word_not_by_colour_alone(told: Told) -> None:
    told.progress(TableChanged("lessons", "Failed", "broken"))
    told.progress(TableChanged("enrollments", "Deferred"))
    marks = {
        name: (told.row(name)[0], *re.findall(r"done|waiting|deferred|failed|%", told.row(name))) for name in NAMES
    }
    assert marks["users"] == ("✓", "done")
    assert marks["courses"] == ("●", "%")
    assert marks["lessons"] == ("✗", "failed")
    assert marks["enrollments"] == ("◌", "deferred")
    assert marks["quizzes"] == ("·", "waiting")


def test_bars_are_by_bytes(told: Told) -> None:
    bar = re.search("[━╸─]+", told.row("courses")).group()
    assert bar.count("━") == int(len(bar) * 0.47)
    assert set(re.search("[━╸─]+", told.row("users")).group()) == {"━"}


def test_with_little_room_the_active_tables_come_first_and_the_rest_is_counted(told: Told) -> None:
    lines = told.lines(80, 14)
    rows = lines[lines.index(next(line for line in lines if "Table" in line)) + 1 :]
    assert rows[0].startswith("● courses")
    assert rows[1].startswith("· lessons")
    assert "… 18 more: 17 waiting, 1 done" in rows


def test_narrow_terminals_lose_the_bar_then_the_rate_and_keep_the_rejected(told: Told) -> None:
    def headings(width: int) -> str:
        return " ".join(next(line for line in told.lines(width) if "Table" in line).split())

    assert headings(99) == headings(70) == "Table State Records Records/s Rejected"
    assert headings(52) == "Table State Records Rejected"
    assert "━" in told.row("users", 79)
    assert "━" not in told.row("users", 60)


def test_the_last_line_tells_time_and_size(told: Told) -> None:
    assert re.fullmatch(
        r"0:10 elapsed · about \d:\d\d:?\d* left · 1\.5 MB of 24\.0 MB · 1 of 24 tables", told.lines()[-1]
    ), told.lines()[-1]
    assert "attempt 2, resumed" in told.lines()[0]
    assert told.lines()[1] == "✓ Validating  ● Loading  · Verifying"


def test_ascii_terminals_get_ascii(told: Told) -> None:
    assert "\n".join(told.lines(80, 14, glyphs=ASCII, notice="x")).isascii()


def test_a_name_cannot_move_the_cursor() -> None:
    told = Told()
    told.load("a\x1b[2Jb\n", 1, 1, after=1)
    assert not any("\x1b" in line or "\n" in line for line in told.lines())
    assert any("a?[2Jb?" in line for line in told.lines())


class Terminal:
    """A console that thinks it is a terminal, and what was written to it."""

    def __init__(self, width: int = 80, height: int = 30, **console: object) -> None:
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, force_terminal=True, width=width, height=height, highlight=False, **console
        )

    @property
    def raw(self) -> str:
        return self.file.getvalue()


def test_frames_replace_each_other_without_an_erase_before(told: Told) -> None:
    terminal = Terminal()
    view = View(told.progress, terminal.console)
    view.draw()
    first = terminal.raw
    view.draw()
    second = terminal.raw[len(first) :]
    height = len(told.lines(79, 29))
    assert second.startswith(f"\x1b[?2026h\r\x1b[{height - 1}A")
    assert second.count("\n") == height - 1
    assert second.count("\x1b[J") == 1
    assert second.endswith("\x1b[K\x1b[J\x1b[?2026l")


def test_after_a_narrowing_the_rows_that_wrapped_are_counted(told: Told) -> None:
    terminal = Terminal(width=80)
    view = View(told.progress, terminal.console)
    view.draw()
    rows = sum(max(1, -(-cell_len(line) // 40)) for line in told.lines(79, 29))
    before = len(terminal.raw)
    terminal.console.width = 40
    view.draw()
    assert terminal.raw[before:].startswith(f"\x1b[?2026h\r\x1b[{rows - 1}A")


def test_warnings_stand_above_once_and_the_picture_stays(told: Told) -> None:
    terminal = Terminal()
    view = View(told.progress, terminal.console)
    view.draw()
    before = len(terminal.raw)
    for _ in range(3):
        view(Warned("join table _AToB has no file"))
    new = terminal.raw[before:]
    assert new.count("join table _AToB has no file") == 1
    assert new.index("_AToB") < new.index("Restoring")
    for n in range(40):
        view(Warned(f"warning {n}"))
    assert "warning 18" in terminal.raw
    assert "warning 19" not in terminal.raw
    assert terminal.raw.count("the report lists them all") == 1


def test_decisions_are_shown_when_verbose_and_passwords_never(told: Told) -> None:
    quiet, verbose = Terminal(), Terminal()
    for terminal in (quiet, verbose):
        View(told.progress, terminal.console, verbose=terminal is verbose)(
            Explained("postgresql://app:s3cret@db is close", table="users")
        )
    assert quiet.raw == ""
    assert "users: postgresql://app:***@db is close" in verbose.raw


def test_a_retry_is_shown_until_a_batch_is_committed(told: Told) -> None:
    terminal = Terminal()
    view = View(told.progress, terminal.console)
    view(Retried("57P01", 4.2, 3, "terminating connection\nDETAIL: x"))
    view.draw()
    assert "try 3 failed (57P01: terminating connection); next in 4 s" in terminal.raw
    before = len(terminal.raw)
    view(BatchLoaded("users", "Copy", Counters(), 0, 0.1))
    view.draw()
    assert "try 3" not in terminal.raw[before:]


def test_a_stall_is_shown(told: Told) -> None:
    terminal = Terminal(width=120)
    told.at += 301
    View(told.progress, terminal.console).draw()
    assert "no batch was committed for 300 s" in terminal.raw


def test_no_color_is_respected(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def colours() -> list[str]:
        terminal = Terminal(color_system="standard")
        View(told.progress, terminal.console).draw()
        return re.findall(r"\x1b\[[\d;]*3\d[\d;]*m", terminal.raw)

    assert colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_the_terminal_is_given_back(told: Told, error: type[BaseException] | None) -> None:
    terminal = Terminal()
    try:
        with View(told.progress, terminal.console) as view:
            view.draw()
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert terminal.raw.count("\x1b[?25l") == terminal.raw.count("\x1b[?25h") == 1
    assert terminal.raw.endswith("\x1b[J\x1b[?2026l\x1b[?25h")


SCRIPT = """
import sys, time
from restorer.events import *
from restorer.watch.progress import Progress
from restorer.report import Counters
from restorer.watch.view import View, suits
assert suits(sys.stderr) and not suits(sys.stdin)
progress = Progress()
with View(progress, keep=True) as view:
    emit = fan_out(progress, view)
    emit(RunStarted("lms/reset/1", "Apply", "s", [TableStart("users", 100)]))
    emit(PhaseChanged("Loading"))
    emit(TableChanged("users", "Loading"))
    emit(BatchLoaded("users", "Copy", Counters(read=1000, inserted=1000), 100, 0.1))
    time.sleep(0.4)
    emit(TableChanged("users", "Done"))
print("the report", file=sys.stderr)
"""


@pytest.fixture
def pty_output() -> str:
    """What the script writes to a real terminal of 80 x 24."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {"PYTHONPATH": ":".join(sys.path), "TERM": "xterm-256color", "LANG": "C.UTF-8", "PATH": os.environ["PATH"]}
    child = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.DEVNULL, stderr=theirs, env=env)
    os.close(theirs)
    data = b""
    try:
        while chunk := os.read(ours, 65536):
            data += chunk
    except OSError:  # Linux: the other side is closed
        pass
    os.close(ours)
    assert child.wait(timeout=10) == 0, data.decode()
    return data.decode()


def test_on_a_real_terminal(pty_output: str) -> None:
    frames = pty_output.split("\x1b[?2026h")
    assert len(frames) > 2
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", frames[-2])
    assert "✓ users" in last
    assert "done" in last
    assert pty_output.rstrip().endswith("the report")
    assert "\x1b[?25h" in pty_output


def test_a_pipe_or_a_dumb_terminal_gets_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not suits(io.StringIO())
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setenv("TERM", "dumb")
        assert not suits(terminal)
        monkeypatch.setenv("TERM", "xterm")
        assert suits(terminal)
    os.close(ours)
    assert not suits(terminal)  # closed


REPORT = Report(
    "lms/reset/1",
    outcome="Succeeded",
    message="2,345,878 rows into 3 tables in 41 s; 12 rejected",
    snapshot=SnapshotInfo("20241219_103045", 1_200_000_000, 3),
    seconds=41,
    totals=Totals(tables=3, bytes=1_200_000_000, read=2_345_890, inserted=2_345_878, rejected=12, retries=1),
    fallback=[FallbackLevel("Copy", 468, 2_340_890), FallbackLevel("Row", 1, 5000)],
    tables=[
        TableReport("users", "Done", read=120_000, inserted=120_000, seconds=2),
        TableReport("enrollments", "Done", read=2_225_885, inserted=2_225_873, rejected=12, seconds=38),
        TableReport("tags", "Done", read=5, inserted=5),
    ],
    rejected_sample=[RejectSample("enrollments", 1204, "ForeignKeyViolation", "23503", "enrollments_user_id_fkey")],
    verification=[Check("rowCounts", "users", True, "1", "1"), Check("queries", "orphans", False, "0", "3")],
    warnings=["join table _AToB has no file"],
    attempts=2,
)


def test_the_plain_report_says_everything_without_colours() -> None:
    text = plain_report(REPORT)
    assert "\x1b" not in text
    assert all(len(line) <= 100 and line == line.rstrip() for line in text.splitlines())
    for part in (
        "✓ Restored lms/reset/1 from 20241219_103045",
        "  2,345,878 rows into 3 tables in 41 s; 12 rejected",
        "  Copy    468 batches, 2,340,890 records",
        "  Row     1 batch, 5,000 records",
        "57,217 records/s",
        "enrollments record 1,204: ForeignKeyViolation (enrollments_user_id_fkey, 23503)",
        "✗ queries orphans: expected 0, found 3",
        "✓ 1 check passed",
        "▲ join table _AToB has no file",
        "1 retry after transient errors",
        "restorer rejects list --name lms/reset/1",
    ):
        assert part in text, part
    assert re.search(r"users +120,000 +120,000 +0 +2 s", text)
    assert re.search(r"tags +5 +5 +0 +<1 s", text)
    assert re.search(r"Total +2,345,890 +2,345,878 +12", text)
    assert "Duplicate" not in text  # a column of zeros


def test_a_terminal_shows_the_same_report_in_colour_at_any_width() -> None:
    for width in (60, 80, 100, 200):
        terminal = Terminal(width=width, color_system="standard")
        render_report(REPORT, terminal.console)
        lines = re.sub(r"\x1b\[[\d;]*m", "", terminal.raw).splitlines()
        assert max(cell_len(line) for line in lines) <= width
        assert any("2,345,890" in line and "2,345,878" in line for line in lines)  # numbers are never cut
    assert "\x1b[" in terminal.raw


def test_of_many_tables_a_terminal_shows_the_notable_ones() -> None:
    tables = [TableReport(f"t{n:03}", "Done", read=n, inserted=n) for n in range(200)]
    tables[50].state, tables[50].error = "Failed", "broken at byte 7\nDETAIL: a value"
    report = Report("r", outcome="Failed", reason="LoadFailed", tables=tables)
    terminal = Terminal(width=100, height=30)
    render_report(report, terminal.console)
    assert "broken at byte 7" in terminal.raw
    assert "a value" not in terminal.raw
    assert "… 140 more" in terminal.raw
    plain = plain_report(report)
    assert all(f"t{n:03}" in plain for n in range(200))


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (Report("r", outcome="Interrupted"), "Run the same command again"),
        (Report("r", outcome="Failed", reason="Unavailable"), "Run the same command again".lower()),
        (Report("r", outcome="Interrupted", mode="DryRun"), "Run the same command again: it begins anew"),
        (Report("r", outcome="Failed", reason="Unavailable", mode="VerifyOnly"), "it begins anew"),
        (Report("r", outcome="Failed", reason="ValidationFailed"), "Nothing was loaded"),
        (Report("r", outcome="Failed", reason="RejectLimitExceeded"), "--restart"),
        (Report("r", outcome="Failed", reason="RejectLimitExceeded", mode="DryRun"), "Nothing was written"),
        (Report("r", outcome="Failed", reason="VerificationFailed", mode="VerifyOnly"), "Nothing was written"),
        (Report("r", outcome="Cancelled"), "--run-id"),
        (Report("r", outcome="Succeeded", mode="DryRun"), "--dry-run"),
        (Report("r", outcome="Succeeded", totals=Totals(conflict=3)), "--on-conflict update"),
    ],
)
def test_the_report_says_what_to_do_next(report: Report, words: str) -> None:
    assert any(words in step for step in next_steps(report)), next_steps(report)
    assert words in " ".join(plain_report(report, width=200).split())
    assert report.mode == "Apply" or not any("committed" in step for step in next_steps(report))


def test_after_a_clean_success_there_is_nothing_to_do() -> None:
    assert next_steps(Report("r", outcome="Succeeded", totals=Totals(read=1, inserted=1))) == []


def test_a_finished_run_started_again_says_so() -> None:
    assert "✓ Already completed: r" in plain_report(Report("r", outcome="Succeeded", reason="AlreadyCompleted"))
