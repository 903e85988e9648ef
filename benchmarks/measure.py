"""One run of a program: wall clock, CPU time of its processes and of the server, peak memory of each process."""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

INTERVAL = 0.05  # seconds between two looks at the processes
FAMILY = 10  # looks between two searches for new child processes: that goes through all processes of the machine


class Sample(NamedTuple):
    """`wall` and `cpu` in seconds, `server`: CPU seconds of the backends that ended meanwhile (0: not known),
    `rss`: peak resident memory in bytes of the largest process (0: not known here)."""

    wall: float
    cpu: float
    server: float
    rss: int


def run(command: Sequence[str], postmaster: int, *, expect: int = 0) -> Sample:
    """Runs the command to its end. Raises RuntimeError with the end of its output when it does not end as expected."""
    backends = _reaped(postmaster)
    before = os.times()
    started = time.monotonic()
    # Programs start as they do where they are installed: compiled before.
    compiled = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=compiled) as process:
        watch = _Watch(process.pid)
        reading = _Output(process)
        process.wait()
        wall = time.monotonic() - started
        peak = watch.end()
        output = reading.text()
    after = os.times()
    if process.returncode != expect:
        raise RuntimeError(f"{' '.join(command[:4])} … ended with {process.returncode}:\n{output[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Sample(wall, cpu, _reaped(postmaster) - backends, peak)


class _Output:
    """Takes the output aside, so that the pipe never fills up."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._parts: list[bytes] = []
        self._process = process
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        assert self._process.stdout is not None
        self._parts.extend(self._process.stdout)

    def text(self) -> str:
        self._thread.join()
        return b"".join(self._parts).decode(errors="replace")


class _Watch:
    """Notes the peak of every process of the tree: the kernel's own high-water mark, which exec resets. What wait4 says
    would not do: it counts what the parent held when it forked."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peaks: dict[int, int] = {pid: 0}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """-> bytes of the largest process"""
        self._over.set()
        self._thread.join()
        return max(self._peaks.values())

    def _watch(self) -> None:
        looks = 0
        while not self._over.wait(INTERVAL):
            if looks % FAMILY == 0:
                self._search()
            looks += 1
            for pid in self._peaks:
                self._peaks[pid] = max(self._peaks[pid], _high_water_mark(pid))

    def _search(self) -> None:
        try:
            children = psutil.Process(self._pid).children(recursive=True)
        except psutil.Error:
            return
        for child in children:
            self._peaks.setdefault(child.pid, 0)


def _high_water_mark(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _reaped(postmaster: int) -> float:
    """CPU seconds of the server's processes that ended so far."""
    time.sleep(0.1)  # a backend ends a moment after its client
    try:
        times = psutil.Process(postmaster).cpu_times()
    except psutil.Error:
        return 0.0
    return float(getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0))


def median(values: Iterable[float]) -> float:
    return statistics.median(values)
