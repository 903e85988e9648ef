"""The parent's side of worker processes: starts them, hears their events, notices their deaths."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time

import msgspec

from restorer.errors import LoadFailed, RestoreError, Unavailable
from restorer.events import AnyEvent, Emit, Failed, TaskDone, Warned
from restorer.load.process import Process, start
from restorer.load.worker import Context

RESTARTS = 3  # of workers that died without a word (out of memory, kill -9), over the whole run
END_SECONDS = 0.5  # from a worker's last word to its end: it has nothing left to do
STOP_SECONDS = 2.5  # for all of them; then they are killed, and the server rolls back by itself
_BY_CODE: dict[int, type[RestoreError]] = {1: Unavailable, 2: LoadFailed}


class Pool:
    """`workers` processes. Their events are handed on from a thread each. `spares`: processes that were started ahead; the
    pool takes them out."""

    def __init__(self, context: Context, workers: int, emit: Emit, spares: list[Process]) -> None:
        self._context, self._emit, self._spares = context, emit, spares
        self._lock = threading.Lock()
        self._processes: list[Process] = []
        self._readers: list[threading.Thread] = []
        self._errors: dict[int, Failed] = {}
        self._restarts = 0
        self._silent: set[int] = set()  # process ids of those that have closed their pipe
        self._news = threading.Event()
        for _ in range(workers):
            self._start()

    def _start(self) -> None:
        process = self._spares.pop() if self._spares else start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # dead already: `check` will find it
            process.stdin.write(msgspec.json.encode(self._context) + b"\n")  # not in argv: it holds the password
            process.stdin.flush()
        os.set_blocking(process.stdin.fileno(), False)  # `wake` must not wait for one that is stopped
        reader = threading.Thread(target=self._hear, args=(process,), name=f"worker-{process.pid}", daemon=True)
        reader.start()
        self._processes.append(process)
        self._readers.append(reader)

    def _hear(self, process: Process) -> None:
        decoder = msgspec.json.Decoder(AnyEvent)
        assert process.stdout is not None
        for line in process.stdout:
            event = decoder.decode(line)
            with self._lock:
                if isinstance(event, Failed):
                    self._errors[process.pid] = event
                elif isinstance(event, TaskDone):
                    self._news.set()
                else:
                    self._emit(event)
        self._silent.add(process.pid)
        self._news.set()

    def wait(self, most: float) -> None:
        """Until a worker is through with a task, or has ended, `most` seconds at most."""
        self._news.wait(most)
        self._news.clear()

    def tell(self) -> None:
        """From another thread: whoever is in `wait` need wait no longer."""
        self._news.set()

    def wake(self) -> None:
        """There may be something to do again: no worker need wait until it looks by itself."""
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError, BlockingIOError):
                os.write(process.stdin.fileno(), b"\n")

    def check(self) -> bool:
        """Whether any worker is still at work. Raises the error of one that failed; starts one that died again."""
        for process in list(self._processes):
            if process.pid in self._silent:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END_SECONDS)
            code = process.poll()
            if code is None:
                continue
            self._processes.remove(process)
            self._silent.discard(process.pid)
            if code == 0:
                continue
            for reader in self._readers:
                reader.join(timeout=0.5)
            if error := self._errors.get(process.pid):
                kind = _BY_CODE.get(code, Unavailable)
                raise kind(error.message, error.remedy, reason=error.reason)
            self._restarts += 1
            if self._restarts > RESTARTS:
                raise Unavailable(
                    f"worker processes keep dying (exit code {code})", "give the pod more memory, or use fewer workers"
                )
            self._emit(Warned(f"a worker process died (exit code {code}); another one goes on from the ledger"))
            self._start()
        return bool(self._processes)

    def stop(self) -> None:
        """Stops all workers; their open batches are rolled back."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS
        for process in self._processes:
            try:
                process.wait(timeout=max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for reader in self._readers:
            reader.join(timeout=0.5)
