"""A run from its first connection to its report. The order of things, and nothing else: every step has its own module.

connect -> ledger: finished? -> snapshot (pinned) -> preflight -> target, heartbeat -> start or resume -> hooks
-> cleanup -> load (workers, settling, ANALYZE) -> sequences, the ANALYZEs that are left -> hooks -> verify -> report, in the
ledger and to whoever listens
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import psycopg

from restorer import preflight
from restorer.database import account, clean, verify
from restorer.database.connection import Connection, first_connection, target_label
from restorer.database.ledger import PREPARED, Ledger, Run
from restorer.database.ledger_schema import SCRATCH, ensure, exists
from restorer.database.pooler import pinned, refuse_statement_mode
from restorer.database.session import AGAIN, Session, failure_of
from restorer.errors import Cancelled, Interrupted, LoadFailed, Refused, RestoreError, Unavailable
from restorer.events import Emit, PhaseChanged, Retried, RunFinished, RunStarted, TableCounts, TableStart, Warned
from restorer.load import afterwards, compare
from restorer.load.dryrun import stand_ins
from restorer.load.holding import Holding
from restorer.load.hooks import run_hooks
from restorer.load.leader import Leader, worker_processes, worth_cutting
from restorer.load.pool import Pool
from restorer.load.process import Process
from restorer.load.statistics import Early
from restorer.load.task_loader import check_limit
from restorer.load.worker import IDLE_SECONDS, Workbench, settle_in
from restorer.model import TablePlan
from restorer.preflight import Prepared
from restorer.report import Check, Counters, Report, SnapshotInfo
from restorer.source import backup
from restorer.spec import Hook, RestoreSpec, changes


class Request(msgspec.Struct, frozen=True):
    """What to run. `run`: the key in the ledger. `wait`: seconds to wait for a target that another run holds."""

    spec: RestoreSpec
    root: Path
    conninfo: str
    run: str
    restart: bool = False
    wait: float = 0.0


def execute(request: Request, emit: Emit, spares: list[Process] | None = None) -> tuple[Report, RestoreError | None]:
    """Runs the request to its end. -> (the report, the error that its outcome stands for or None). Raises nothing that
    a person should not see: every failure is a RestoreError. `spares`: worker processes that were started ahead; those that
    it takes out it ends."""
    execution = _Execution(request, emit, [] if spares is None else spares)
    failure: RestoreError | None
    again = f"the same command {'begins anew' if execution.scratch else 'goes on from there'}"
    try:
        failure = execution.run()
    except RestoreError as error:
        failure = error
    except KeyboardInterrupt:
        failure = Interrupted("stopped; the open batch is rolled back", again)
    except psycopg.Error as error:
        failure = failure_of(error)
    except OSError as error:
        failure = Unavailable(
            f"{error.filename or 'the backup'}: {error.strerror or type(error).__name__}", "check the volume"
        )
    try:
        report = execution.close(failure)
    except KeyboardInterrupt:
        failure = Interrupted("stopped at its very end", again)
        report = execution.close(failure)
    except Unavailable as error:  # another process took the run over: how it ends is told there
        failure = error
        report = execution.close(failure)
    emit(PhaseChanged("Finished"))
    emit(RunFinished(report))
    return report, failure


class _Execution:
    def __init__(self, request: Request, emit: Emit, spares: list[Process]) -> None:
        self.request, self.spec, self.emit = request, request.spec, emit
        self.scratch = self.spec.mode != "Apply"
        self.ledger = Ledger(SCRATCH if self.scratch else self.spec.ledger.schema_, request.run)
        self.session = Session(request.conninfo, self.spec.retry, emit, one_connection=self.scratch)
        self.holding = Holding(
            request.conninfo, self.ledger, emit, wait=request.wait, shared=self.spec.load.pods > 1, scratch=self.scratch
        )
        self.checks: list[Check] = []
        self.warnings: tuple[str, ...] = ()
        self.report: Report | None = None
        self.started = self.known = False
        self.began = time.time()
        self.spares = spares

    # -- the order of things -------------------------------------------------------------------------------------------

    def run(self) -> RestoreError | None:
        self.emit(PhaseChanged("Validating"))
        settle_in()
        conn = first_connection(
            self.request.conninfo,
            lambda state, wait, n, why: self.emit(Retried(state, wait, n, f"connecting: {why}")),
        )
        self.session = Session(
            self.request.conninfo, self.spec.retry, self.emit, conn=conn, one_connection=self.scratch
        )
        refuse_statement_mode(conn, target_label(self.request.conninfo))
        if self.scratch and not pinned(conn, self.request.conninfo):
            raise Refused(
                f"{target_label(self.request.conninfo)} is a pooler in transaction mode, and {self.spec.mode} keeps temporary tables",
                "connect to the server itself, or to a pool in session mode",
            )
        found = None if self.scratch else self._find(conn)
        if found is not None and self._starts_over(found) and self._forget(conn):
            found = None
        self.known = found is not None
        if found is not None and found.finished:
            return self._already(found)
        if self.spec.cancel:
            return self._cancel(conn, found)
        asked = self.spec.source.snapshot
        if found is not None and asked.policy == "Exact" and asked.name != found.snapshot:
            raise Refused(
                f"run {self.ledger.run!r} loads snapshot {found.snapshot}, not {asked.name}",
                "start a new run with another run ID",
            )
        snapshot = preflight.find(self.spec, self.request.root, found.snapshot if found else None)
        if found is not None and (changed := backup.differences(found.fingerprint, backup.fingerprint(snapshot))):
            raise Refused(
                f"the backup changed since run {self.ledger.run!r} began: {'; '.join(changed)}",
                "put the files back as they were, or start a new run with another run ID",
            )
        prepared = preflight.prepare(conn, self.spec, snapshot, conninfo=self.request.conninfo, fresh=found is None)
        self.warnings = prepared.warnings
        for warning in prepared.warnings:
            self.emit(Warned(warning))
        ensure(conn, self.ledger.schema)
        if not self.holding.take(self.session):
            self._follow(prepared)
        if not self.scratch and (found := self._find(conn)) is not None and found.finished:
            return self._already(found)
        self._start(conn, prepared, found)
        self.started = True
        self._announce(conn, found)
        return self._lead(prepared)

    def _lead(self, prepared: Prepared) -> RestoreError | None:
        plans = prepared.plan.tables
        marks = self._marks()
        self._hooks("pre", self.spec.hooks.pre_restore, marks)
        if self.spec.cleanup in ("Truncate", "Delete") and not self.scratch and clean.MARK not in marks:
            self.emit(PhaseChanged("Cleaning"))
            clean.clean(self.session, self.ledger, self.spec, plans)
        if PREPARED not in marks:
            self.session.retrying(self._prepared, what="ledger")
        self.emit(PhaseChanged("Loading"))
        with Early(self.session, partial(afterwards.analyze, ledger=self.ledger, spec=self.spec)) as early:
            hooks = partial(self._hooks, "post", self.spec.hooks.post_restore, marks)
            return self._load(self._bench(prepared), plans, early, hooks)

    def _load(
        self, bench: Workbench, plans: tuple[TablePlan, ...], early: Early, hooks: Callable[[], None]
    ) -> RestoreError | None:
        leader = Leader(bench, plans, self.holding.still_ours, self.spares)
        # Nothing that comes later changes a table that is settled, but for triggers (and rules, also of partitions).
        if self.spec.mode == "Apply" and all(p.table.undoable and not p.table.triggers for p in plans):
            leader.on_settled = early.settled
        try:
            leader.load()
            read, rejected = self.session.retrying(bench.tasks.read_and_rejected, what="reject limit")
            check_limit(self.spec, read, rejected, final=True)
        except LoadFailed as error:
            return error  # what is committed stays and is reported
        self.emit(PhaseChanged("Verifying"))
        self.checks += afterwards.finish(self.session, self.ledger, self.spec, plans, early, hooks)
        if self.session.retrying(bench.tasks.unsettled, what="ledger"):
            # A failover to a replica that lagged behind: what was on the disk is on another one.
            raise Unavailable("the database came back without what it had committed", AGAIN)
        return verify.failed(self.checks)

    def _hooks(self, when: str, hooks: list[Hook], marks: list[str]) -> None:
        if not self.scratch:
            run_hooks(self.session, self.ledger, when, hooks, marks)

    # -- the ledger ----------------------------------------------------------------------------------------------------

    def _find(self, conn: Connection) -> Run | None:
        """This run in the ledger, if it is there. Refused when it was begun with another spec."""
        try:
            if not exists(conn, self.ledger.schema, tables=("runs",)):
                return None
        except Refused:
            ensure(conn, self.ledger.schema)  # tells all that is missing
            raise
        found = self.ledger.find(conn)
        if found is not None and found.spec_hash != self.spec.digest() and not self.request.restart:
            changed = changes(self.ledger.spec(conn), self.spec.resolved())
            raise Refused(
                f"run {self.ledger.run!r} was begun with another spec: {', '.join(changed)} changed",
                "start a new run with another run ID, or forget that one with --restart",
            )
        return found

    def _starts_over(self, found: Run) -> bool:
        """By --restart, a person's word, also a finished run; by a manifest's `resumePolicy: Restart` an unfinished one only:
        nothing that a cluster loses may make a run load twice."""
        return self.request.restart or (self.spec.resume_policy == "Restart" and not found.finished)

    def _forget(self, conn: Connection) -> bool:
        """The run's ledger rows do not count any more. Not while another pod of the same run leads it: -> False"""
        if not self.holding.take(self.session):
            return False
        self.ledger.forget(conn)
        return True

    def _already(self, found: Run) -> RestoreError | None:
        """A finished run is final: its report again, and nothing touched."""
        self.report = found.report or Report(self.ledger.run)
        if found.state == "Succeeded":
            self.report.reason = "AlreadyCompleted"
            return None
        kind = Cancelled if found.state == "Cancelled" else LoadFailed
        remedy = "a new run needs another run ID"
        return kind(
            f"run {self.ledger.run!r} ended before: {self.report.message}", remedy, reason=self.report.reason or None
        )

    def _cancel(self, conn: Connection, found: Run | None) -> RestoreError:
        """`cancel: true`: the end of the run, for good. What is committed stays."""
        if found is not None:
            self.holding.take(self.session)
            self.started = True
        return Cancelled(
            f"run {self.ledger.run!r} is cancelled", "what is committed stays; a new run needs another run ID"
        )

    def _follow(self, prepared: Prepared) -> None:
        """One pod of several: works on the tasks while another one leads, to the end of the run, or until the leader is
        gone: then this process has the target and leads on."""
        self.holding.follow()
        self.emit(PhaseChanged("Loading"))
        pool: Pool | None = None
        bench = self._bench(prepared)
        try:
            while True:
                found = self.session.retrying(self.ledger.find, what="ledger")
                if found is not None and found.finished:
                    return
                if found is not None and worker_processes(self.spec):
                    pool = pool or Leader(bench, prepared.plan.tables, self.holding.still_ours, self.spares).pool()
                    pool.check()
                elif found is not None and bench.load_one():
                    continue
                if self.holding.taken_on(self.session):
                    return
                time.sleep(IDLE_SECONDS)
        finally:
            if pool is not None:
                pool.stop()

    def _start(self, conn: Connection, prepared: Prepared, found: Run | None) -> None:
        self.ledger.release_tasks_of_the_dead(conn)
        if found is not None:
            self.ledger.resume(conn)
            return
        self.ledger.purge_expired(conn)
        plans = prepared.plan.tables
        cleaned = self.spec.cleanup in ("Truncate", "Delete")
        full = set() if cleaned else clean.not_empty(conn, plans)
        self.ledger.start(
            conn,
            spec=self.spec.resolved(),
            spec_hash=self.spec.digest(),
            snapshot=prepared.snapshot.name,
            fingerprint=prepared.fingerprint,
            tables=plans,
            was_empty={p.name: p.name not in full for p in plans},
            split=worth_cutting(self.spec, plans),
            warnings=prepared.warnings,
            retain_days=self.spec.ledger.reject_retention_days,
            prepared=self.scratch or not (cleaned or self.spec.hooks.pre_restore),
        )

    def _announce(self, conn: Connection, found: Run | None) -> None:
        if self.spec.load.pods > 1:
            self.holding.on_beat(self._tell_counts)
        run = self.ledger.find(conn)
        assert run is not None
        tables = [
            TableStart(
                a.name,
                a.bytes,
                a.bytes_done,
                Counters(a.read, a.inserted, a.updated, a.duplicate, a.conflict, a.rejected),
                a.state,
            )
            for a in account.accounts(conn, self.ledger)
        ]
        self.emit(RunStarted(self.ledger.run, self.spec.mode, run.snapshot, tables, run.attempts, found is not None))

    def _tell_counts(self, conn: Connection) -> None:
        """With several pods the ledger knows what the others did."""
        for a in account.accounts(conn, self.ledger):
            counters = Counters(a.read, a.inserted, a.updated, a.duplicate, a.conflict, a.rejected)
            self.emit(TableCounts(a.name, counters, a.bytes_done, a.state))

    def _marks(self) -> list[str]:
        run = self.session.retrying(self.ledger.find, what="ledger")
        return run.marks if run else []

    # -- loading -------------------------------------------------------------------------------------------------------

    def _bench(self, prepared: Prepared) -> Workbench:
        plans, relations = prepared.plan.tables, None
        if self.spec.mode == "DryRun":
            relations = stand_ins(
                self.session.conn,
                plans,
                cleaned=self.spec.cleanup in ("Truncate", "Delete"),
                updates=self.spec.on_conflict == "Update",
            )
            if any(p.table.triggers for p in plans):
                self.ledger.add_warning(self.session.conn, "triggers are not fired in a dry run")
            if any(p.table.rls for p in plans):
                self.ledger.add_warning(self.session.conn, "policies of row security are not asked in a dry run")
        home = "" if prepared.server.can_temp else self.ledger.schema
        kind = compare.CompareBench if self.spec.mode == "VerifyOnly" else Workbench
        return kind(self.session, self.ledger, self.spec, plans, self.emit, relations=relations, stage_home=home)

    def _prepared(self, _: Connection) -> None:
        """Hooks and cleanup are through: from now on everybody may load."""
        with self.session.transaction(durable=True) as conn:
            self.ledger.fence(conn)
            self.ledger.mark(conn, PREPARED)

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self, failure: RestoreError | None) -> Report:
        """The report; a run that is over is closed in the ledger, one that can be resumed lets go of what it holds."""
        self.holding.stop()
        if isinstance(failure, Interrupted) and not self.scratch:
            self.session.close()  # in the middle of whatever: the last words go through another one
        try:
            if self.report is None:
                known = self.started or self.known
                self.report = self._final(failure) if known else self._unstarted(failure)
            return self.report
        except psycopg.Error:  # the database is gone: what the ledger knows is told when the run goes on
            return self._unstarted(failure or Unavailable("the database is gone", "start the same command again"))
        finally:
            self.holding.let_go(self.session)
            self.session.close()

    def _final(self, failure: RestoreError | None) -> Report:
        resumable = isinstance(failure, Interrupted | Unavailable) or not self.started

        def make(conn: Connection) -> Report:
            run = self.ledger.find(conn)
            if run is None:  # forgotten by somebody else
                return self._unstarted(failure)
            if run.finished and run.report is not None and not resumable:  # by a commit whose answer was lost
                return run.report
            report = account.make_report(
                conn, self.ledger, run, mode=self.spec.mode, failure=failure, checks=self.checks, final=not resumable
            )
            if not self.scratch and not resumable:
                state = "Succeeded" if failure is None else "Cancelled" if isinstance(failure, Cancelled) else "Failed"
                self.ledger.finish(conn, state, report)
            return report

        return make(self.session.conn) if resumable else self.session.retrying(make, what="report")

    def _unstarted(self, failure: RestoreError | None) -> Report:
        """The report of a run that never came to write anything (or cannot reach what it wrote)."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began))
        return Report(
            run=self.ledger.run,
            mode=self.spec.mode,
            outcome=failure.outcome if failure else "Succeeded",
            reason=failure.reason if failure else "",
            message=failure.line() if failure else "",
            snapshot=SnapshotInfo(),
            start_time=stamp,
            completion_time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            seconds=round(time.time() - self.began),
            warnings=list(self.warnings),
        )
