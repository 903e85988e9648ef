"""`restorer report --html`: one page of a run, by itself: no script, no font, no picture from anywhere. Light and dark.

Everything that is written into it is escaped; record values are not in it, as they are not in the report. What a chart
shows stands in the tables too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from restorer.report import History, Moment, Reason, Report, TableReport, TableTimes
from restorer.watch.words import counted, number, size, spoken

POINTS = 240  # of a curve, at most
SLOWEST = 8
REASONS = 12
_WIDTH, _HEIGHT = 960, 200
_OUTCOMES = ("inserted", "updated", "duplicate", "conflict", "rejected")


def page(report: Report, history: History) -> str:
    """The whole document."""
    style = resources.files(__package__).joinpath("page.css").read_text("utf-8")
    parts = [
        _head(report),
        _tiles(report),
        _section("Throughput", _throughput(history.moments), "records read per second, over all tables"),
        _section("Tables over time", _timeline(history.tables), "from the first record of a table to its last"),
        _section("Rejected, by reason", _reasons(history.reasons)),
        _section("Slowest tables", _slowest(history.tables)),
        _section("Every table", _tables(report.tables)),
        _section("Rungs of the ladder", _ladder(report), "how many records each way of loading took"),
        _section("Verification", _checks(report)),
        _section("Warnings", _warnings(report)),
    ]
    title = escape(f"{report.outcome}: {report.run}")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def _section(title: str, body: str, note: str = "") -> str:
    if not body:
        return ""
    small = f" <small>{escape(note)}</small>" if note else ""
    return f"<section>\n<h2>{escape(title)}{small}</h2>\n{body}</section>\n"


def _head(report: Report) -> str:
    facts = [
        ("Snapshot", f"{report.snapshot.name}, {size(report.snapshot.bytes)}" if report.snapshot.name else ""),
        ("Mode", report.mode),
        ("Began", report.start_time),
        ("Ended", report.completion_time),
        ("Took", spoken(report.seconds)),
        ("Starts", f"{report.attempts}" if report.attempts > 1 else ""),
    ]
    listed = "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in facts if v)
    outcome = escape(report.outcome)
    return (
        f'<header>\n<p class="outcome {outcome.lower()}">{outcome}</p>\n<h1>{escape(report.run)}</h1>\n'
        f"<p>{escape(report.message)}</p>\n<dl>{listed}</dl>\n</header>\n"
    )


def _tiles(report: Report) -> str:
    totals = report.totals
    tiles = [("read", totals.read), *((name, getattr(totals, name)) for name in _OUTCOMES)]
    made = "".join(
        f'<div class="tile {name}{" none" if not count else ""}"><b>{number(count)}</b><span>{name}</span></div>'
        for name, count in tiles
    )
    return f'<div class="tiles">{made}</div>\n'


# -- over time ---------------------------------------------------------------------------------------------------------


def rates(moments: Sequence[Moment], points: int = POINTS) -> list[tuple[float, float, float]]:
    """(from second, to second, records per second) without gaps; neighbours put together until `points` are enough."""
    if not moments:
        return []
    step, last = max(1, -(-len(moments) // points)), moments[-1]
    near = min(0.05, last.at / 20)  # seconds; of two tables that end nearer to each other no rate can be told
    ends = [Moment(0.0, 0, 0, 0)]
    for now in [*[*ends, *moments[:-1]][::step], last]:
        if now.at - ends[-1].at > near:
            ends.append(now)
    if len(ends) > 1:
        ends[-1] = last  # what came just before it is put together with it
    return [(a.at, b.at, max(b.read - a.read, 0) / (b.at - a.at)) for a, b in itertools.pairwise(ends)]


def _throughput(moments: Sequence[Moment]) -> str:
    steps = rates(moments)
    if not steps:
        return ""
    end, top = steps[-1][1], max(rate for *_, rate in steps)
    if not top:
        return ""
    scale = _nice(top)

    def at(second: float, rate: float) -> str:
        return f"{second / end * _WIDTH:.1f},{_HEIGHT - rate / scale * _HEIGHT:.1f}"

    line = " ".join(f"{at(a, rate)} {at(b, rate)}" for a, b, rate in steps)
    marks = "".join(
        f'<rect class="hover" x="{a / end * _WIDTH:.1f}" y="0" width="{max((b - a) / end * _WIDTH, 1):.1f}" height="{_HEIGHT}">'
        f"<title>{a:.1f} to {b:.1f} s: {number(round(rate))} records/s</title></rect>"
        for a, b, rate in steps
    )
    grid = "".join(f'<line class="grid" x1="0" x2="{_WIDTH}" y1="{y}" y2="{y}"/>' for y in (0, _HEIGHT / 2))
    words = f"Records per second over {end:.0f} seconds, at most {number(round(top))}"
    return (
        f'<figure class="curve"><div class="y"><span>{_short(scale)}</span><span>{_short(scale / 2)}</span><span>0</span></div>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escape(words)}">'
        f'{grid}<polygon class="area" points="0,{_HEIGHT} {line} {_WIDTH},{_HEIGHT}"/><polyline class="line" points="{line}"/>'
        f'{marks}</svg><div class="x">{_axis(end)}</div></figure>\n'
    )


def _timeline(tables: Sequence[TableTimes]) -> str:
    timed = [(t, t.began, t.ended) for t in tables if t.began is not None and t.ended is not None]
    if not timed:
        return ""
    end = max(ended for *_, ended in timed) or 1.0
    rows = "".join(
        f'<div class="name">{escape(t.name)}</div><div class="track"><div class="bar" style="left:{began / end:.2%};width:'
        f'{(ended - began) / end:.2%}" title="{escape(t.name)}: {began:.1f} to {ended:.1f} s, {counted(t.read, "record")}"></div></div>'
        f'<div class="figure">{_seconds(ended - began)}</div>'
        for t, began, ended in timed
    )
    return f'<div class="bars">{rows}<div></div><div class="x">{_axis(end)}</div><div></div></div>\n'


def _axis(end: float) -> str:
    return "".join(f"<span>{_seconds(end * part / 4)}</span>" for part in range(5))


# -- by size -----------------------------------------------------------------------------------------------------------


def _bars(rows: Iterable[tuple[str, float, str]], kind: str = "") -> str:
    """(name, amount, what it is in words) as bars, the longest full."""
    listed = list(rows)
    longest = max((amount for _, amount, _ in listed), default=0.0)
    if not longest:
        return ""
    made = "".join(
        f'<div class="name">{escape(name)}</div><div class="track"><div class="bar {kind}" style="width:{amount / longest:.2%}">'
        f'</div></div><div class="figure">{escape(words)}</div>'
        for name, amount, words in listed
    )
    return f'<div class="bars">{made}</div>\n'


def _reasons(reasons: Sequence[Reason]) -> str:
    sums: dict[str, int] = {}
    where: dict[str, list[str]] = {}
    for r in reasons:
        sums[r.reason] = sums.get(r.reason, 0) + r.records
        where.setdefault(r.reason, []).append(r.table)
    first = sorted(sums, key=lambda reason: -sums[reason])[:REASONS]
    return _bars([(r, sums[r], f"{number(sums[r])} in {counted(len(where[r]), 'table')}") for r in first], "rejected")


def _slowest(tables: Sequence[TableTimes]) -> str:
    took = [(t, t.ended - t.began) for t in tables if t.began is not None and t.ended is not None]
    took.sort(key=lambda pair: -pair[1])
    return _bars(
        [
            (t.name, seconds, f"{_seconds(seconds)}, {number(round(t.read / seconds)) if seconds else 0} records/s")
            for t, seconds in took[:SLOWEST]
        ]
    )


# -- in figures --------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """`words`: how many columns from the left hold words, not figures."""
    head = "".join(f"<th{_side(i, words)}>{escape(h)}</th>" for i, h in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{_side(i, words)}>{escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>\n"
        for row in rows
    )
    if not body:
        return ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n'


def _side(column: int, words: int) -> str:
    return "" if column < words else ' class="number"'


def _tables(tables: Sequence[TableReport]) -> str:
    rows = [
        [t.name, t.state, *(number(getattr(t, name)) for name in ("read", *_OUTCOMES)), spoken(t.seconds)]
        for t in tables
    ]
    return _table(["table", "state", "read", *_OUTCOMES, "took"], rows, words=2)


def _ladder(report: Report) -> str:
    rows = [[f.level, number(f.batches), number(f.records)] for f in report.fallback]
    return _table(["rung", "batches", "records"], rows)


def _checks(report: Report) -> str:
    rows = [
        ["passed" if c.passed else "FAILED", c.check, c.table, c.expected, c.actual]
        for c in sorted(report.verification, key=lambda c: c.passed)
    ]
    return _table(["", "check", "table", "expected", "found"], rows, words=3)


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    return "<ul>" + "".join(f"<li>{escape(w)}</li>" for w in report.warnings) + "</ul>\n"


# -- words -------------------------------------------------------------------------------------------------------------


def _nice(top: float) -> float:
    """The next 1, 2, 5 times a power of ten."""
    power = 1.0
    while power * 10 <= top:
        power *= 10
    return next(power * step for step in (1, 2, 5, 10) if power * step >= top)


def _short(amount: float) -> str:
    """`250 k`, `1.5 M`."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if amount >= limit:
            return f"{amount / limit:g} {unit}"
    return f"{amount:g}"


def _seconds(amount: float) -> str:
    return f"{amount:.1f} s" if amount < 10 else spoken(round(amount))
