"""The report as a person reads it, at the end of a run or by `restorer report`: on a terminal or as plain text.

The outcome first, then what was loaded, what was not and where, and what to do about it. Record values are not in it:
a reject is told by its place and its reason.
"""

from __future__ import annotations

import io

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from restorer.report import Report, TableReport
from restorer.watch.frame import ASCII, UNICODE, WIDEST, Glyphs
from restorer.watch.log import first_line
from restorer.watch.words import counted, number, size, spoken

PLAIN_WIDTH = 100
TABLES_SHOWN = 60  # on a terminal; plain text has them all
SLOWEST, SAMPLES = 3, 5
_HEADLINES = {
    "Succeeded": ("Done", "Restored", "bold blue"),
    "Failed": ("Failed", "Failed", "bold red"),
    "Cancelled": ("Deferred", "Cancelled", "bold yellow"),
    "Interrupted": ("Deferred", "Stopped", "bold yellow"),
}


def render_report(report: Report, console: Console, *, tables: int | None = TABLES_SHOWN) -> None:
    """Draws the report on a console. `tables`: how many of them at most, the notable first; None for all."""
    glyphs = ASCII if console.options.ascii_only else UNICODE
    width = min(console.width, WIDEST)

    def section(title: str, *lines: Text) -> None:
        console.print(Text(title, "bold"))
        for line in lines:
            console.print(Padding(_hanging(line), (0, 0, 0, 2)), width=width)
        console.print()

    console.print()
    _headline(report, console, glyphs, width)
    console.print()
    if report.tables:
        _tables(report.tables, console, width, tables, glyphs)
        console.print()
    if lines := _performance(report):
        section("Loading", *lines)
    if report.rejected_sample:
        section("First rejected records", *_samples(report))
    if report.verification:
        section("Verification", *_verification(report, glyphs))
    if report.warnings:
        section("Warnings", *(Text(f"{glyphs.warn} {warning}", "yellow") for warning in report.warnings))
    if steps := next_steps(report):
        section("Next", *(Text(step) for step in steps))


def plain_report(report: Report, width: int = PLAIN_WIDTH) -> str:
    """The same report as plain text: no colours, no cursor, every table."""
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None, force_terminal=False, highlight=False, emoji=False)
    render_report(report, console, tables=None)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n") + "\n"


def next_steps(report: Report) -> list[str]:
    """What a person may want to do now, as commands or plain words; empty when there is nothing to do."""
    name = f"--name {report.run} …"
    steps = []
    if report.totals.rejected and report.mode == "Apply":
        steps += [
            f"See the rejected records   restorer rejects list {name}",
            f"Take them out to repair    restorer rejects export {name}",
            f"Load the repaired ones     restorer rejects retry {name}",
        ]
    if report.totals.conflict:
        steps.append(
            "Records in conflict were left as they are in the database; --on-conflict update would replace them"
        )
    again = "it goes on where this one stopped" if report.mode == "Apply" else "it begins anew"
    match report.outcome:
        case "Succeeded" if report.mode == "DryRun":
            steps.append("Nothing was written; the same command without --dry-run restores")
        case "Interrupted":
            steps.append(f"Run the same command again: {again}")
        case "Failed" if report.reason == "Unavailable":
            steps.append(f"When that is mended, run the same command again: {again}")
        case "Failed" if report.reason == "ValidationFailed":
            steps.append("Nothing was loaded; mend what is named above and run again")
        case "Failed" | "Cancelled" if report.mode != "Apply":
            steps.append("Nothing was written; mend what is named above and run it again")
        case "Failed" | "Cancelled":
            steps.append("What is committed stays; to start again give another --run-id, or --restart")
        case _:
            pass
    return steps


def _headline(report: Report, console: Console, glyphs: Glyphs, width: int) -> None:
    state, word, style = _HEADLINES.get(report.outcome, ("Pending", report.outcome, "bold"))
    if report.outcome == "Succeeded":
        word = {"DryRun": "Dry run of", "VerifyOnly": "Verified"}.get(report.mode, word)
        word = "Already completed:" if report.reason == "AlreadyCompleted" else word
    line = Text.assemble((f"{glyphs.marks[state]} {word} ", style), (report.run, "bold"))
    if report.snapshot.name:
        line.append(f" from {report.snapshot.name}")
    if report.reason and report.reason not in (report.outcome, "AlreadyCompleted"):
        line.append(f" ({report.reason})", style)
    console.print(line, width=width)
    if report.message:
        console.print(Padding(Text(report.message), (0, 0, 0, 2)), width=width)


def _tables(tables: list[TableReport], console: Console, width: int, limit: int | None, glyphs: Glyphs) -> None:
    shown = tables
    if limit is not None and len(tables) > limit:
        shown = sorted(tables, key=lambda t: (not t.error, t.state == "Done", -t.rejected, -t.read))[:limit]
    # A column of zeros tells nothing, except that nothing was rejected.
    optional = [name for name in ("updated", "duplicate", "conflict") if any(getattr(t, name) for t in tables)]
    figures = ["read", "inserted", *optional, "rejected"]
    states = any(t.state != "Done" or t.error for t in tables)
    grid = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_footer=True, footer_style="bold"
    )
    grid.add_column("  Table", "  Total", overflow="ellipsis", no_wrap=True, max_width=40, min_width=12)
    for name in figures:
        total = number(sum(getattr(t, name) for t in tables))
        width_needed = max(len(name), len(total))  # a number is never cut
        grid.add_column(name.capitalize(), total, justify="right", no_wrap=True, min_width=width_needed)
    grid.add_column("Time", justify="right", no_wrap=True, min_width=4)
    if states:
        grid.add_column("", overflow="fold")
    for table in shown:
        cells = [Text(f"  {table.name}")]
        cells += [_figure(name, getattr(table, name)) for name in figures]
        cells.append(Text(spoken(table.seconds) if table.read else "", "dim" if table.seconds == 0 else ""))
        if states:
            cells.append(_state(table, glyphs))
        grid.add_row(*cells)
    console.print(grid, width=width)
    if len(shown) < len(tables):
        left = len(tables) - len(shown)
        console.print(Text(f"  {glyphs.more} {left:,} more; --report FILE has every table", "dim"))


def _hanging(line: Text) -> Table | Text:
    """A line that begins with a mark, wrapped beside the mark."""
    if len(line) < 3 or line.plain[0].isalnum() or line.plain[1] != " ":
        return line
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(line[:1], line[2:])
    return grid


def _figure(name: str, value: int) -> Text:
    notable = value and name in ("rejected", "conflict")
    return Text(number(value), "bold yellow" if notable else "" if value else "dim")


def _state(table: TableReport, glyphs: Glyphs) -> Text:
    if table.error:
        return Text(f"{glyphs.marks['Failed']} {first_line(table.error)}", "bold red")
    words = {"Done": "", "Pending": "not begun", "Loading": "unfinished", "Deferred": "rows wait"}
    return Text(words.get(table.state, table.state.lower()), "yellow")


def _performance(report: Report) -> list[Text]:
    lines = []
    totals = report.totals
    if report.seconds > 0 and totals.read:
        rate = f"{number(round(totals.read / report.seconds))} records/s, {size(totals.bytes // report.seconds)}/s"
        lines.append(Text(f"{size(totals.bytes)} in {spoken(report.seconds)}: {rate}"))
    for rung in report.fallback:
        line = Text().append(f"{rung.level:<7}", "" if rung.level == "Copy" else "yellow")
        line.append(f" {counted(rung.batches, 'batch', 'batches')}, {counted(rung.records, 'record')}")
        lines.append(line)
    slowest = sorted((t for t in report.tables if t.seconds), key=lambda t: -t.seconds)[:SLOWEST]
    if len(report.tables) > SLOWEST and slowest:
        lines.append(Text("Slowest: " + ", ".join(f"{t.name} {spoken(t.seconds)}" for t in slowest)))
    if totals.retries:
        lines.append(Text(f"{counted(totals.retries, 'retry', 'retries')} after transient errors"))
    if report.attempts > 1:
        lines.append(Text(f"{report.attempts} attempts"))
    return lines


def _samples(report: Report) -> list[Text]:
    lines = []
    for sample in report.rejected_sample[:SAMPLES]:
        line = Text.assemble((f"{sample.table}", "bold"), f" record {number(sample.record)}: {sample.reason}")
        if detail := ", ".join(filter(None, (sample.constraint, sample.sqlstate))):
            line.append(f" ({detail})", "dim")
        lines.append(line)
    return lines


def _verification(report: Report, glyphs: Glyphs) -> list[Text]:
    failed = [check for check in report.verification if not check.passed]
    passed = len(report.verification) - len(failed)
    lines = [
        Text(
            f"{glyphs.marks['Failed']} {check.check}{' ' + check.table if check.table else ''}: "
            f"expected {check.expected or '?'}, found {check.actual or '?'}",
            "bold red",
        )
        for check in failed
    ]
    if passed:
        lines.append(Text(f"{glyphs.marks['Done']} {counted(passed, 'check')} passed", "blue"))
    return lines
