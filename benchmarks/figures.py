"""What was measured, as a table: on the terminal and in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .cases import Case
from .measure import Sample, median


class Figure(NamedTuple):
    """One row. `reach` and `aim` are what the project promised itself; "" where it did not."""

    what: str
    value: str
    reach: str = ""
    aim: str = ""
    note: str = ""


def ratio(a: Case, b: Case) -> float:
    """The median of the ratios of runs that stood side by side: what slows the machine down for a while hits both."""
    return median(x.wall / y.wall for x, y in zip(a.samples, b.samples, strict=False))


def walls(*cases: Case) -> str:
    return ", ".join(f"{case.name} {median(s.wall for s in case.samples):.1f} s" for case in cases)


def peak(cases: Iterable[Case]) -> int:
    """Bytes of the largest process of all runs; 0 where that is not known."""
    return max((sample.rss for case in cases for sample in case.samples), default=0)


def markdown(figures: Sequence[Figure], cases: Sequence[Case], heading: Sequence[str], stages: dict[str, float]) -> str:
    """The document."""
    lines = ["# Benchmarks", "", *heading, ""]
    lines += table(("What", "Measured", "Reach", "Try for", "Note"), figures)
    if stages:
        lines += ["", "## Where the time goes", ""]
        lines += ["Seconds for 1 M records of 500 bytes, one worker. CPU, but for the last three rows.", ""]
        lines += table(("Stage", "Seconds"), [(name, f"{value:.2f}") for name, value in stages.items()])
    if cases:
        lines += ["", "## All runs", "", "CPU: of the client's processes, and of the server's, in seconds.", ""]
        rows = [(case.name, *_medians(case.samples), _all(case.samples)) for case in cases if case.samples]
        lines += table(("Case", "Median", "CPU", "Server CPU", "Peak RSS", "Wall clock of each run"), rows)
    return "\n".join(lines) + "\n"


def _medians(samples: Sequence[Sample]) -> tuple[str, str, str, str]:
    rss = max(s.rss for s in samples)
    return (
        f"{median(s.wall for s in samples):.2f} s",
        f"{median(s.cpu for s in samples):.2f}",
        f"{median(s.server for s in samples):.2f}",
        f"{rss / 2**20:.0f} MiB" if rss else "",
    )


def _all(samples: Sequence[Sample]) -> str:
    return ", ".join(f"{s.wall:.2f}" for s in samples)


def table(head: tuple[str, ...], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [head, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    drawn = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(r, widths, strict=True)) + " |" for r in cells]
    return [drawn[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *drawn[1:]]
