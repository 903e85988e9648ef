"""Loading tasks until there are none: in this process, or in one of its own (process.py; `python -m restorer.load.worker`).

A worker process gets its context as one line of JSON by a pipe, and a byte whenever there may be something to do again. It
sends its events as lines of JSON by another one, and ends at once when its parent is gone (the first pipe closes). It never
decides anything about the run.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from typing import IO, Any

import msgspec
import psycopg

from restorer.database.account import accounts
from restorer.database.connection import Connection
from restorer.database.ledger import Ledger
from restorer.database.origins import Origins
from restorer.database.relation import Relations
from restorer.database.session import Session, failure_of
from restorer.database.tasks import Tasks
from restorer.errors import Interrupted, RestoreError, Unavailable
from restorer.events import AnyEvent, Emit, Failed, TaskDone
from restorer.load.experience import Prior
from restorer.load.heartbeat import Heartbeat
from restorer.load.ladder import Ladder
from restorer.load.statistics import told
from restorer.load.task_loader import Lost, TaskLoader, explainer
from restorer.model import TablePlan
from restorer.spec import RestoreSpec

IDLE_SECONDS = 0.1


class Context(msgspec.Struct):
    """What a worker process needs to know."""

    conninfo: str
    run: str
    spec: dict[str, Any]
    plans: tuple[TablePlan, ...]
    stage_home: str


class Workbench:
    """The loaders of all tables, made when first needed, and the tasks they work on."""

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        spec: RestoreSpec,
        plans: tuple[TablePlan, ...],
        emit: Emit,
        *,
        relations: Relations | None = None,
        stage_home: str = "",
    ) -> None:
        self.session, self.ledger, self.spec, self.emit = session, ledger, spec, emit
        self.tasks = Tasks(ledger)
        self._plans = {p.name: p for p in plans}
        self._groups = {p.name: p.group for p in plans}
        self._relations = relations or Relations()
        self.stage_home = stage_home
        self._loaders: dict[str, TaskLoader] = {}
        self._last: TaskLoader | None = None
        self._prior = Prior()
        self._was_empty: dict[str, bool] | None = None
        session.on_retry = ledger.count_retry

    def ladder(self, table: str, *, contested: bool = False) -> Ladder:
        """`contested`: other segments of the table's file are loaded as well, and rows of theirs may have a record's key."""
        plan = self._plans[table]
        origins = Origins(self.ledger, table) if contested and plan.table.uniques else None
        group = {n for n, g in self._groups.items() if g == plan.group}
        inner = (
            frozenset(f.name for f in plan.table.foreign_keys if f.to_table in group) if plan.cyclic else frozenset()
        )
        return Ladder(
            plan, self._relations, self.spec.on_conflict, inner=inner, staged=not self.look()[table],
            always_staged=self.spec.mode == "DryRun", home=self.stage_home,
            waiting=self.tasks.waiting, origins=origins, prior=self._prior, explain=explainer(self.emit, table),
        )  # fmt: skip

    def look(self) -> dict[str, bool]:
        """Which tables were empty when the run began. Once it was called, ladders are made without a question to the server."""
        if self._was_empty is None:
            self._was_empty = self.session.retrying(self._read_empty, what="ledger")
        return self._was_empty

    def _read_empty(self, conn: Connection) -> dict[str, bool]:
        return {a.name: a.was_empty for a in accounts(conn, self.ledger)}

    def load_one(self) -> bool:
        """Claims one task and loads it. False when there is none right now."""
        task = self.session.retrying(self.tasks.claim, what="ledger")
        if task is None:
            return False
        if task.table not in self._loaders:
            ladder = self.ladder(task.table, contested=task.segment)
            plan = self._plans[task.table]
            self._loaders[task.table] = TaskLoader(self.session, self.tasks, plan, ladder, self.spec, self.emit)
        loader = self._loaders[task.table]
        if self._last is not None and self._last is not loader:
            self._last.let_go()
        self._last = loader
        try:
            loader.load(task)
            self.session.retrying(told, what="statistics")
        except Lost:
            time.sleep(IDLE_SECONDS)  # somebody else went on with it; the next claim sees how things are
        return True


def serve(context: Context, emit: Emit, news: threading.Event) -> None:
    """Works on the run until all its tables are settled, or it is over. `news`: there may be something to do again."""
    settle_in()
    spec = RestoreSpec.model_validate(context.spec)
    ledger = Ledger(spec.ledger.schema_, context.run)
    session = Session(context.conninfo, spec.retry, emit)
    bench = Workbench(session, ledger, spec, context.plans, emit, stage_home=context.stage_home)
    heartbeat = Heartbeat(context.conninfo, ledger, leader=False)
    session.retrying(lambda _: heartbeat.start(), what="registering the worker")
    try:
        while True:
            news.clear()
            if bench.load_one():
                emit(TaskDone())
                continue
            if session.retrying(lambda conn: over(conn, bench), what="ledger"):
                return
            news.wait(IDLE_SECONDS)
    finally:
        heartbeat.stop()
        try:
            ledger.unregister(session.conn)
        except psycopg.Error:
            pass  # its lease ends by itself
        heartbeat.close()
        session.close()


def settle_in() -> None:
    """What a process does before it loads. A load makes tuples by the hundred thousand and no cycles: Python's collector
    would look through all of them, and all modules, for nothing, at a tenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def over(conn: Connection, bench: Workbench) -> bool:
    """Nothing is left to load, or nothing may be loaded any more."""
    run = bench.ledger.find(conn)
    return run is None or run.finished or not bench.tasks.unsettled(conn) or bench.tasks.failed(conn)


def main(source: IO[bytes], out: IO[bytes]) -> int:
    """The worker process: the context comes from `source`, events go to `out`. Exit codes as the command's own; its error is
    its last event."""
    lock = threading.Lock()

    def emit(event: AnyEvent) -> None:
        with lock:
            out.write(msgspec.json.encode(event) + b"\n")
            out.flush()

    stopped, news = threading.Event(), threading.Event()

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stopped.set()
        raise KeyboardInterrupt

    # psycopg tells of rollbacks that an interruption kept from going through; the server does them by itself.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C goes to the whole group; the parent decides
    try:
        signal.signal(signal.SIGTERM, stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # a fork is born deaf to it
        if not (line := source.readline()):
            return 0  # the run ended before there was work
        context = msgspec.json.decode(line, type=Context)
        threading.Thread(target=_hear, args=(source.fileno(), news), name="parent", daemon=True).start()
        serve(context, emit, news)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return 0
    except BaseException as error:
        if stopped.is_set():  # whatever the interruption turned into on its way
            return Interrupted.exit_code
        failure = _failure(error)
        with contextlib.suppress(BrokenPipeError):  # the parent is gone
            emit(Failed(failure.message, failure.remedy, failure.reason))
        return failure.exit_code


def _failure(error: BaseException) -> RestoreError:
    """What a worker's error means for the run. Of an unforeseen one the type only: its text may hold values."""
    if isinstance(error, RestoreError):
        return error
    if isinstance(error, psycopg.Error):
        return failure_of(error)
    if isinstance(error, OSError):
        what = f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}"
        return Unavailable(what, "check the volume")
    return Unavailable(f"a bug in a worker, {type(error).__name__}", "start the same command again, and report it")


def _hear(source: int, news: threading.Event) -> None:
    """Whatever the parent says is news. This process ends with it."""
    while os.read(source, 4096):  # the bare descriptor: a thread in a buffered read would hold its lock at shutdown
        news.set()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer, sys.stdout.buffer))
