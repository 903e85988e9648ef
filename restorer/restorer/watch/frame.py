"""The live picture of a run: a snapshot drawn as lines of text that fit a width and a height. No I/O.

Shape and words carry the meaning and colour only repeats it: a mark per state (done ✓, loading ●, waiting ·, rows held
back ◌, failed ✗), heavy and light bars, blue and yellow rather than green and red.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from restorer.watch.figures import Snapshot, TableSnapshot
from restorer.watch.words import counted, duration, number, size

WIDEST = 116  # columns; on a wider terminal the eye would lose the row
PHASES = ("Validating", "Cleaning", "Loading", "Verifying")
STATE_WORDS = {"Pending": "waiting", "Deferred": "deferred", "Done": "done", "Failed": "failed"}
# With room for some tables only: what goes wrong, what goes on, what comes next, what is done.
_ORDER = {"Failed": 0, "Loading": 1, "Deferred": 2, "Pending": 3, "Done": 4}
_STYLES = {"Pending": "dim", "Loading": "bold cyan", "Deferred": "yellow", "Done": "blue", "Failed": "bold red"}
_GAP = "  "


@dataclass(frozen=True)
class Glyphs:
    """The characters of a picture: `UNICODE`, or `ASCII` for a terminal that has nothing else."""

    marks: dict[str, str]
    full: str
    half: str
    empty: str
    dot: str
    more: str
    warn: str


UNICODE = Glyphs(
    {"Pending": "·", "Loading": "●", "Deferred": "◌", "Done": "✓", "Failed": "✗"}, "━", "╸", "─", "·", "…", "▲"
)
ASCII = Glyphs(
    {"Pending": ".", "Loading": "*", "Deferred": "o", "Done": "+", "Failed": "x"}, "#", "#", "-", "|", "..", "!"
)


@dataclass(frozen=True)
class Columns:
    """Widths in cells; 0 leaves a column out."""

    name: int
    bar: int
    records: int
    rate: int
    rejected: int

    @staticmethod
    def fit(shown: Snapshot, width: int) -> Columns:
        """What fits: on a narrow terminal the bar goes first, then the rate, then the rejected; names are cut last."""
        longest = min(max([cell_len(table.name) for table in shown.tables] + [8]), 32)
        records = max(len(number(shown.records_read)), len("Records"))
        room = width - len("● ") - (len(_GAP) + 8) - (len(_GAP) + records)  # 8: the state
        widths = {}
        for column, least, spare in (("rejected", 8, 8), ("rate", 9, 16), ("bar", 8, 20)):
            fits = room - len(_GAP) - least >= min(longest, spare)
            widths[column] = least if fits else 0
            room -= len(_GAP) + least if fits else 0
        name = max(min(longest, room), 4)
        if widths["bar"]:
            widths["bar"] = min(widths["bar"] + room - name, 40)
        return Columns(name=name, records=records, **widths)


def picture(shown: Snapshot, width: int, height: int, *, glyphs: Glyphs = UNICODE, notice: str = "") -> list[Text]:
    """The lines of a frame, at most `height`, none wider than `width`. `notice`: a line of trouble, "" for none."""
    width = min(width, WIDEST)
    columns = Columns.fit(shown, width)
    head = [_title(shown, width), _phases(shown, glyphs)]
    tail = [_total(shown, columns, glyphs), _footer(shown, glyphs, width)]
    if notice:
        tail.append(Text(f"{glyphs.warn} {notice}", "bold yellow"))
    room = height - len(head) - len(tail) - 3  # two blank lines and the heading
    if room < 2 or not shown.tables:
        lines = [*head, *tail][-max(height, 1) :]
    else:
        lines = [*head, Text(), _heading(columns), *_rows(shown, columns, glyphs, room), Text(), *tail]
    for line in lines:
        line.rstrip()
        line.truncate(width, overflow="ellipsis")
    return lines


def _title(shown: Snapshot, width: int) -> Text:
    verb = {"DryRun": "Dry run of", "VerifyOnly": "Verifying"}.get(shown.mode, "Restoring")
    line = Text.assemble((f"{verb} ", "bold"), (shown.run or "…", "bold"))
    if shown.snapshot:
        line.append(f" from {shown.snapshot}")
    if shown.attempt > 1 or shown.resumed:
        note = f"attempt {shown.attempt}, resumed" if shown.resumed else f"attempt {shown.attempt}"
        if (room := width - line.cell_len - len(note)) >= 2:
            line.append(" " * room + note, "dim")
    return line


def _phases(shown: Snapshot, glyphs: Glyphs) -> Text:
    at = PHASES.index(shown.phase) if shown.phase in PHASES else len(PHASES)
    line = Text()
    for index, phase in enumerate(PHASES):
        if phase == "Cleaning" != shown.phase:
            continue  # most runs clean nothing; it is shown while it happens
        state = "Done" if index < at else "Loading" if index == at else "Pending"
        if shown.phase == "Finished" and shown.outcome not in ("", "Succeeded"):
            state = "Pending"
        line.append(f"{glyphs.marks[state]} {phase}", _STYLES[state]).append(_GAP)
    line.rstrip()
    return line


def _heading(columns: Columns) -> Text:
    line = Text("  " + "Table".ljust(columns.name), "dim")
    if columns.bar:
        line.append(_GAP + " " * columns.bar)
    line.append(_GAP + "State".rjust(8) + _GAP + "Records".rjust(columns.records))
    if columns.rate:
        line.append(_GAP + "Records/s".rjust(columns.rate))
    if columns.rejected:
        line.append(_GAP + "Rejected".rjust(columns.rejected))
    return line


def _rows(shown: Snapshot, columns: Columns, glyphs: Glyphs, room: int) -> list[Text]:
    chosen, left = choose(shown.tables, room)
    rows = [_row(table, columns, glyphs) for table in chosen]
    if left:
        states = [table.state for table in left]
        words = [
            f"{states.count(s):,} {'loading' if s == 'Loading' else STATE_WORDS[s]}" for s in _ORDER if s in states
        ]
        which = f", {words[0].split()[1]}" if len(words) == 1 else f": {', '.join(words)}"
        rows.append(Text(f"{glyphs.more} {len(left):,} more{which}", "dim"))
    return rows


def choose(tables: list[TableSnapshot], room: int) -> tuple[list[TableSnapshot], list[TableSnapshot]]:
    """The tables to show in `room` lines, and the others (whose mention takes one of the lines). All in their own
    order when they fit, else the active ones first."""
    if len(tables) <= room:
        return tables, []
    ranked = sorted(tables, key=lambda table: _ORDER.get(table.state, 3))
    return ranked[: room - 1], ranked[room - 1 :]


def _row(table: TableSnapshot, columns: Columns, glyphs: Glyphs) -> Text:
    style = _STYLES.get(table.state, "")
    line = Text().append(f"{glyphs.marks.get(table.state, ' ')} ", style)
    # Names come from a catalog or a file system: nothing in them may move the cursor.
    name = "".join(c if c.isprintable() else "?" for c in table.name)
    if cell_len(name) > columns.name:
        name = set_cell_size(name, columns.name - len(glyphs.more)).rstrip() + glyphs.more
    line.append(set_cell_size(name, columns.name), "dim" if table.state == "Pending" else "")
    percent = table.bytes_done * 100 // table.bytes_total if table.bytes_total else 0
    word = STATE_WORDS.get(table.state, f"{percent} %")
    _figures(
        line,
        columns,
        glyphs,
        done=1.0 if table.state == "Done" else table.bytes_done / table.bytes_total if table.bytes_total else 0.0,
        word=word,
        style=style,
        records=table.read,
        rate=table.records_per_second if table.state in ("Loading", "Done") else 0,
        rejected=table.rejected,
    )
    return line


def _total(shown: Snapshot, columns: Columns, glyphs: Glyphs) -> Text:
    line = Text("  " + "Total".ljust(columns.name), "bold")
    _figures(
        line,
        columns,
        glyphs,
        done=shown.bytes_done / shown.bytes_total if shown.bytes_total else shown.percent / 100,
        word=f"{shown.percent} %",
        style="bold",
        records=shown.records_read,
        rate=shown.records_per_second,
        rejected=shown.records_rejected,
    )
    return line


def _figures(
    line: Text,
    columns: Columns,
    glyphs: Glyphs,
    *,
    done: float,
    word: str,
    style: str,
    records: int,
    rate: int,
    rejected: int,
) -> None:
    total = style == "bold"  # the line of totals shows zeros, too
    if columns.bar:
        halves = int(done * columns.bar * 2)
        bar = glyphs.full * (halves // 2) + glyphs.half * (halves % 2)
        line.append(_GAP).append(bar, "cyan" if total or style == "bold cyan" else style)
        line.append(glyphs.empty * (columns.bar - len(bar)), "dim")
    line.append(_GAP + word.rjust(8), style)
    line.append(_GAP + (number(records) if records or total else "").rjust(columns.records))
    if columns.rate:
        line.append(_GAP + (number(rate) if rate else "").rjust(columns.rate))
    if columns.rejected:
        text = number(rejected) if rejected or total else ""
        line.append(_GAP + text.rjust(columns.rejected), "bold yellow" if rejected else "")


def _footer(shown: Snapshot, glyphs: Glyphs, width: int) -> Text:
    """As many of the facts as fit, the most wanted first."""
    parts = [f"{duration(shown.elapsed_seconds)} elapsed"]
    if shown.phase == "Loading":
        parts.append(f"about {duration(shown.eta_seconds)} left" if shown.eta_seconds is not None else "estimating")
    parts.append(f"{size(shown.bytes_done)} of {size(shown.bytes_total)}")
    parts.append(f"{shown.tables_done:,} of {counted(shown.tables_total, 'table')}")
    for count, words in (
        (shown.records_deferred, "waiting for others"),
        (shown.records_updated, "updated"),
        (shown.records_duplicate, "duplicate"),
        (shown.records_conflict, "in conflict"),
        (shown.retries, "retry" if shown.retries == 1 else "retries"),
    ):
        if count:
            parts.append(f"{number(count)} {words}")
    line = f" {glyphs.dot} ".join(parts)
    while len(line) > width and len(parts) > 1:
        parts.pop()
        line = f" {glyphs.dot} ".join(parts)
    return Text(line, "dim")
