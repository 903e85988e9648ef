"""The real command as a process: run to its end, or started and left to the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

COMMAND = (sys.executable, "-P", "-m", "restorer")
#: The same command, with large files cut into segments of 64 KiB, so that small files have several.
SEGMENTED = (
    sys.executable, "-P", "-c",
    "import sys, restorer.load.leader as l; l.SEGMENT = 1 << 16; from restorer.cli import main; sys.exit(main())",
)  # fmt: skip
# What a developer's shell or a CI may have set, and a test must not see.
_OURS = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSERVICE", "KUBERNETES_SERVICE_HOST")


@dataclass
class Ended:
    """How a command ended: exit code (negative: killed by that signal), what it wrote, and how long it took."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """What a person reads on stderr."""
        return self.err.splitlines()

    @property
    def report(self) -> dict[str, Any]:
        """The report: the last line of `--json`."""
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        """stderr of `--json`: every line must be JSON."""
        return [json.loads(line) for line in self.lines]

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "failed"]


def environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in _OURS} | more


class Started:
    """A command that was started in a session of its own. Its output goes to files: it never waits for a reader."""

    def __init__(self, *args: object, env: Mapping[str, str] | None = None, command: tuple[str, ...] = COMMAND) -> None:
        self._out, self._err = _unnamed(), _unnamed()
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*command, *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env=env if env is not None else environment(),
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def err(self) -> str:
        return _text(self._err)

    def until(self, happened: Callable[[], bool], seconds: float = 30) -> None:
        """Waits for something; the command must not end before it."""
        until = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.err()}"
            assert time.monotonic() < until, f"nothing happened in {seconds} s: {self.err()}"
            time.sleep(0.01)

    def until_workers(self, number: int) -> None:
        self.until(lambda: len(self.workers()) == number)

    def until_said(self, words: str, seconds: float = 30) -> None:
        self.until(lambda: words in self.err(), seconds)

    def workers(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def peak(self, seconds: float = 60) -> int:
        """Waits for the end, or so long. -> bytes of memory that the process was seen to hold at most"""
        peak, until = 0, time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < until:
            try:
                peak = max(peak, psutil.Process(self.pid).memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.005)
        return peak

    def end(self, seconds: float = 60) -> Ended:
        """Waits for the end. A command that does not end is killed and fails the test."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_group()
            self.process.wait()
            raise AssertionError(f"still running after {seconds} s: {self.err()}") from None
        return Ended(code, _text(self._out), self.err(), time.monotonic() - self.began)

    def close(self) -> None:
        self.kill_group()
        self.process.wait()


def restorer(
    *args: object, env: Mapping[str, str] | None = None, seconds: float = 60, command: tuple[str, ...] = COMMAND
) -> Ended:
    """Runs the command to its end."""
    started = Started(*args, env=env, command=command)
    try:
        return started.end(seconds)
    finally:
        started.close()


def gone(processes: list[psutil.Process], seconds: float = 5) -> bool:
    """Whether all these processes end in time."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


def write_backup(folder: Path, snapshot: str = "20241219_103045", **tables: Any) -> Path:
    """A backup volume with one snapshot. A table's value: a list of records, or the very bytes of its file.
    -> the volume's root"""
    place = folder / snapshot
    place.mkdir(parents=True, exist_ok=True)
    for name, content in tables.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (place / (name if "." in name else f"{name}.json")).write_bytes(data)
    return folder


def _unnamed() -> Any:
    return tempfile.TemporaryFile()


def _text(file: Any) -> str:
    # pread: the child writes through the same open file, whose position is not ours to move
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode("utf-8", "replace")
