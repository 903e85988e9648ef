"""A worker's process: a fork of this one while nothing else goes on in it, a program of its own otherwise.

A fork has everything imported already (a quarter of a second of CPU) and shares that memory with its parent. But of a
process with threads only the one that forks goes on in the child, and a lock that another one held stays locked for good
(fork(2), "Notes"); on macOS system libraries do not bear it at all. So forks are made before the first thread and the first
connection, and whatever is needed later is started anew.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, Protocol

from restorer.errors import Unavailable
from restorer.load import worker

_LOOK_SECONDS = 0.005
_DEAF = {signal.SIGINT, signal.SIGTERM}


class Process(Protocol):
    """What the pool needs of a subprocess.Popen: a context goes to `stdin`, events come from `stdout`."""

    @property
    def pid(self) -> int: ...
    @property
    def stdin(self) -> IO[bytes] | None: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...
    def kill(self) -> None: ...


@contextlib.contextmanager
def _refusal_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "use fewer workers, or raise the limits of processes, open files and memory (`ulimit -a`; of a pod: its node's)"
        raise Unavailable(f"a worker process cannot be started: {error.strerror}", remedy) from None


@_refusal_told()
def start() -> Process:
    """A worker process of `python -m restorer.load.worker`, that waits for its context. Raises Unavailable when the system
    does not let it start."""
    # A worker is born deaf to ctrl-C, which a terminal sends to all of them: the parent decides. -P: no module is
    # taken from the folder that the command is started in.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "restorer.load.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def spares(count: int) -> Iterator[list[Process]]:
    """`count` worker processes, started ahead. Whoever uses one takes it out; those left over are ended. Raises Unavailable
    as `start` does."""
    made: list[Process] = []
    try:
        if sys.platform == "linux" and threading.active_count() == 1:
            for _ in range(count):
                made.append(Forked(made))
        else:
            made += [start() for _ in range(count)]
        yield made
    finally:
        for process in made:
            process.kill()
            process.wait()
            for stream in _streams(process):
                stream.close()


class Forked:
    """A worker process that is a fork of this one. `others`: those made before, whose pipes it must not hold open: a worker
    ends when the last one who could write to it is gone."""

    @_refusal_told()
    def __init__(self, others: list[Process]) -> None:
        (context, stdin), (stdout, events) = os.pipe(), os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEAF)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            self.pid = os.fork()
            if self.pid == 0:
                _be_worker(
                    context,
                    events,
                    [stdin, stdout, *(stream.fileno() for other in others for stream in _streams(other))],
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(context)
        os.close(events)
        self.stdin: IO[bytes] = os.fdopen(stdin, "wb")
        self.stdout: IO[bytes] = os.fdopen(stdout, "rb")
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, of one that a signal ended the negative number of that; None while it lives."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        began = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() > began + timeout:
                raise subprocess.TimeoutExpired("worker", timeout)
            time.sleep(_LOOK_SECONDS)
        return code

    def send_signal(self, sig: int, /) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _streams(process: Process) -> Iterator[IO[bytes]]:
    yield from filter(None, (process.stdin, process.stdout))


def _be_worker(context: int, events: int, foreign: list[int]) -> None:
    """The child's life; it does not return. Signals are blocked as it begins: SIGTERM until the worker hears it, SIGINT for
    good, as for a program of its own."""
    code = 1
    try:
        for fd in foreign:
            os.close(fd)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        code = worker.main(os.fdopen(context, "rb"), os.fdopen(events, "wb"))
    finally:
        os._exit(code)
