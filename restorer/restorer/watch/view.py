"""A run on a terminal, live. Imported only when there is a terminal: rich costs memory.

    with View(progress, console) as view:
        engine.run(emit=fan_out(progress, view, …))
    render_report(report, Console())        # report_view

The picture goes to stderr, so that stdout stays for the report. It is drawn four times a second by a thread of its own;
warnings (and with --verbose the reasons for decisions) stand above it and stay.
"""

from __future__ import annotations

import os
import threading
from typing import TextIO

from rich.console import Console, Group
from rich.text import Text

from restorer.events import AnyEvent, BatchLoaded, Explained, PhaseChanged, Retried, TableChanged, Warned
from restorer.watch.frame import ASCII, UNICODE, picture
from restorer.watch.log import first_line, scrub
from restorer.watch.progress import Progress
from restorer.watch.screen import Screen

INTERVAL = 0.25  # seconds between two frames
WARNINGS_SHOWN = 20  # the report has them all


def suits(stream: TextIO) -> bool:
    """Whether a live picture can be drawn there: a terminal that can move its cursor."""
    try:
        return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    except ValueError:  # closed
        return False


class View:
    """The listener that draws. `keep` leaves the last picture standing at the end (where no report follows on the same
    terminal). `progress` must stand before it among the listeners."""

    def __init__(
        self, progress: Progress, console: Console | None = None, *, verbose: bool = False, keep: bool = False
    ) -> None:
        self._progress = progress
        self.console = console or Console(stderr=True, highlight=False)
        self._screen = Screen(self.console)
        self._glyphs = ASCII if self.console.options.ascii_only else UNICODE
        self._verbose, self._keep = verbose, keep
        self._warned: set[str] = set()
        self._retry = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._draw_on, name="view", daemon=True)

    def __enter__(self) -> View:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=2)
        if self._keep:
            self.draw()
        self._screen.close(keep=self._keep)

    def __call__(self, event: AnyEvent) -> None:
        match event:
            case Warned():
                self._warn(event.message)
            case TableChanged(state="Failed"):
                message = f"{self._glyphs.marks['Failed']} {event.table}: {first_line(event.error) or 'failed'}"
                self._screen.above(Text(scrub(message), "bold red", overflow="fold"))
            case Explained() if self._verbose:
                where = f"{event.table}: " if event.table else ""
                self._screen.above(Text(scrub(f"{self._glyphs.dot} {where}{event.message}"), "dim"))
            case Retried():
                self._retry = scrub(
                    f"try {event.attempt} failed ({event.sqlstate or 'no connection'}"
                    f"{': ' + first_line(event.message) if event.message else ''}); next in {event.wait:.0f} s"
                )
            case BatchLoaded() | PhaseChanged():
                self._retry = ""
            case _:
                pass

    def _warn(self, message: str) -> None:
        if message in self._warned or len(self._warned) > WARNINGS_SHOWN:
            return
        self._warned.add(message)
        if len(self._warned) > WARNINGS_SHOWN:
            message = "more warnings: the report lists them all"
        self._screen.above(Text(scrub(f"{self._glyphs.warn} {message}"), "yellow"))

    def draw(self) -> None:
        """One frame, now."""
        shown = self._progress.snapshot()
        notice = self._retry
        if not notice and shown.stalled:
            notice = (
                f"no batch was committed for {self._progress.stall_timeout:g} s: is the database waiting for a lock?"
            )
        width, height = self.console.size
        lines = picture(shown, max(width - 1, 1), max(height - 1, 1), glyphs=self._glyphs, notice=notice)
        self._screen.draw(Group(*lines))

    def _draw_on(self) -> None:
        self._stop.wait(0.05)  # a refusal at the start needs no picture
        while not self._stop.is_set():
            self.draw()
            self._stop.wait(INTERVAL)
