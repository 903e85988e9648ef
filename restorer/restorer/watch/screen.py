"""Drawing in place on a terminal: a frame of lines at the bottom, and lines that stay above it.

rich's own `Live` counts the lines it drew; a terminal that is made narrower wraps them anew, the count is wrong and
torn frames stay behind. This one remembers how wide each line was and so knows how many rows it takes now. Each frame
is one write, over the old one and never after an erase, so nothing flickers.
"""

from __future__ import annotations

import atexit
import re
import threading

from rich.cells import cell_len
from rich.console import Console, RenderableType

_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\]8;[^\x1b]*\x1b\\")
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # show all at once, where the terminal can; ignored elsewhere
_LINE_END, _BELOW = "\x1b[K", "\x1b[J"  # erase to the end of the line; everything below


class Screen:
    """One frame on a terminal. Any thread may draw. The cursor is hidden from the first frame to `close`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._lock = threading.RLock()
        self._frame: list[str] = []  # what stands there
        self._hidden = False

    def draw(self, frame: RenderableType) -> None:
        """Replaces the frame. Lines are cut at the terminal's width."""
        with self._lock:
            self._replace([], self._lines(frame, wrap=False))

    def above(self, text: RenderableType) -> None:
        """Prints lines that stay, above the frame."""
        with self._lock:
            self._replace(self._lines(text, wrap=True), self._frame)

    def close(self, *, keep: bool) -> None:
        """Gives the terminal back: the frame stays (`keep`) or goes, the cursor stands on a new line."""
        with self._lock:
            self._replace(self._frame if keep else [], [])
            self._show_cursor()

    def _lines(self, shown: RenderableType, *, wrap: bool) -> list[str]:
        with self.console.capture() as capture:
            self.console.print(shown, no_wrap=not wrap, overflow="fold" if wrap else "ellipsis")
        return capture.get().removesuffix("\n").split("\n")

    def _replace(self, stay: list[str], frame: list[str]) -> None:
        """One write: `stay` and then `frame` where the old frame stands, the rest of that erased."""
        if not (stay or frame or self._frame):
            return
        width = max(self.console.width, 1)
        rows = sum(max(1, -(-cell_len(_CODES.sub("", line)) // width)) for line in self._frame)
        up = f"\x1b[{rows - 1}A" if rows > 1 else ""
        body = f"{_LINE_END}\n".join([*stay, *(frame or [""])] if stay else frame)
        self._hide_cursor()
        self._write(f"{_BEGIN}\r{up}{body}{_LINE_END}{_BELOW}{_END}")
        self._frame = frame

    def _hide_cursor(self) -> None:
        if not self._hidden:
            self._hidden = True
            atexit.register(self._show_cursor)
            self._write(_HIDE)

    def _show_cursor(self) -> None:
        if self._hidden:
            self._hidden = False
            atexit.unregister(self._show_cursor)
            self._write(_SHOW)

    def _write(self, text: str) -> None:
        try:
            self.console.file.write(text)
            self.console.file.flush()
        except (OSError, ValueError):
            pass  # the terminal is gone: the restore goes on
