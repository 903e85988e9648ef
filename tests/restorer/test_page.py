"""`restorer report --html`: a page by itself, true to the ledger, in light and dark. Looked at in a real browser where there is one."""

from __future__ import annotations

import itertools
import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fix_restore import Restore
from hypothesis import given, settings
from hypothesis import strategies as st
from restorer.database.history import history
from restorer.database.ledger import Ledger
from restorer.report import History, Moment, Reason, Report, TableReport, TableTimes, Totals
from restorer.watch.page import page, rates

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


class Seen(HTMLParser):
    """The text of a page, and what it would fetch from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def _run(at: Restore) -> tuple[Report, History]:
    at.schema("CREATE TABLE p (id int PRIMARY KEY)", "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p)")
    at.file("p", [{"id": i} for i in range(3000)])
    at.file("t", [{"id": i, "p": i if i % 100 else "x"} for i in range(2000)] + [{"id": 5000, "p": 9999}])
    result = at.ok(batch=500)
    return result.report, history(at.db, Ledger("dbrestore", result.run))


def test_the_ledger_remembers_how_a_run_went(at: Restore):
    report, known = _run(at)
    assert known.moments[-1] == Moment(known.moments[-1].at, known.moments[-1].bytes, 5001, 21)
    assert [m.at for m in known.moments] == sorted(m.at for m in known.moments)
    assert [m.read for m in known.moments] == sorted(m.read for m in known.moments)
    times = {t.name: t for t in known.tables}
    assert {name: t.read for name, t in times.items()} == {"p": 3000, "t": 2001}
    assert None not in {*(t.began for t in known.tables), *(t.ended for t in known.tables)}
    p, t = times["p"], times["t"]
    assert p.began is not None and p.ended is not None and t.began is not None and t.ended is not None
    assert 0 <= p.began < p.ended <= t.began < t.ended <= known.moments[-1].at
    assert known.reasons == [Reason("t", "InvalidValue", 20), Reason("t", "MissingParent", 1)]
    assert report.totals.rejected == 21


def test_the_page_says_what_the_report_says_and_fetches_nothing(at: Restore):
    report, known = _run(at)
    text = page(report, known)
    seen = Seen(text)
    assert seen.fetched == [] and "script" not in seen.tags and "url(" not in text and "@import" not in text
    for word in ("Succeeded", report.run, "5,001", "4,980", "InvalidValue", "MissingParent", "fileCount", "Copy"):
        assert word in seen.words, word
    assert "prefers-color-scheme: dark" in text
    assert text.count("<polyline") == 1


def test_a_run_that_never_began_makes_a_page_too():
    report = Report("x/y/1", outcome="Failed", reason="ValidationFailed", message="no table", totals=Totals())
    seen = Seen(page(report, History([], [], [])))
    assert "Failed" in seen.words and "svg" not in seen.tags


EVIL = '<script>alert("1")</script>&amp;'


def test_nothing_gets_out_of_its_place():
    report = Report(
        EVIL, outcome="Failed", message=EVIL, warnings=[EVIL], tables=[TableReport(EVIL, error=EVIL)], totals=Totals(read=1)
    )  # fmt: skip
    known = History([Moment(1, 1, 1, 1)], [TableTimes(EVIL, 0, 1, 1)], [Reason(EVIL, EVIL, 1)])
    seen = Seen(page(report, known))
    assert "script" not in seen.tags
    assert EVIL in " ".join(seen.words)


moments = st.lists(st.tuples(st.floats(0.001, 30), st.integers(0, 10_000)), max_size=600)


@given(moments, st.integers(2, 50))
@settings(deadline=None)
def test_a_curve_leaves_no_record_out(steps: list[tuple[float, int]], points: int):
    at, read, known = 0.0, 0, list[Moment]()
    for seconds, records in steps:
        at, read = at + seconds, read + records
        known.append(Moment(at, 0, read, 0))
    found = rates(known, points)
    assert len(found) <= points + 1
    assert sum((b - a) * rate for a, b, rate in found) == pytest.approx(read, abs=1e-3)
    assert all(one[1] == two[0] for one, two in itertools.pairwise(found))


def _first_pixel(png: bytes) -> tuple[int, ...]:
    assert png.startswith(b"\x89PNG")
    data, at = b"", 8
    while at < len(png):
        (length,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return tuple(zlib.decompress(data)[1:4])


@needs_browser
@pytest.mark.parametrize(("dark", "paper"), [(False, (255, 255, 255)), (True, (20, 23, 27))])
def test_a_browser_shows_it(at: Restore, tmp_path: Path, dark: bool, paper: tuple[int, ...]):
    report, known = _run(at)
    (tmp_path / "page.html").write_text(page(report, known), "utf-8")
    assert BROWSER is not None
    base = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    base += ["--window-size=1100,2000", "--hide-scrollbars", "--enable-logging=stderr"]
    base += ["--blink-settings=preferredColorScheme=0"] if dark else []
    where = (tmp_path / "page.html").as_uri()
    shot = subprocess.run([*base, f"--screenshot={tmp_path / 'page.png'}", where], capture_output=True, timeout=90)
    assert shot.returncode == 0, shot.stderr
    assert b"CONSOLE" not in shot.stderr
    assert _first_pixel((tmp_path / "page.png").read_bytes()) == paper
    dom = subprocess.run([*base, "--dump-dom", where], capture_output=True, timeout=90, text=True).stdout
    assert re.search(r'aria-label="Records per second over \d+ seconds, at most [\d,]+"', dom)
    assert dom.count('class="bar rejected"') == 2
