"""The state machine: plan(restore, observed, now) -> what to do, what to say, when to look again. Pure.

It decides from the state of the world alone, never from an event, so that it may be asked at any time and again: after a crash,
after a lost patch, beside a second operator. In the order of asking: is it over? does a run before it still go on? has the Job
a verdict? cancel? deadline? suspend? then: wait for the target, start, or watch.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from restorer.report import Report

from . import reasons, status
from .actions import Action, CreateJob, DeleteJob, ExpireJob, Plan, SuspendJob, Tell
from .api import DatabaseRestore, JobRef, LastError, Phase, RestoreStatus
from .ending import last_words, report_of
from .job import job_name
from .observed import Job, Observed, Pod, stamp, time_of
from .status import Progressing
from .trouble import why_not_started

TARGET_RETRY = 30  # seconds until a target that a stranger holds is tried again
CANCEL_PATIENCE = 120  # seconds that a Job has to close a cancelled run in the ledger
SOON = 2.0  # seconds between two looks at something that is about to go away
PENDING, PENDING_LONG = 5.0, 20.0  # seconds between two looks at a pod that does not start: in its first minute, later
FINAL_CODES = (2, 3)  # of the restorer (restorer.errors): the Job's podFailurePolicy ends it there
_PHASES: dict[str, Phase] = {
    "Loading": "Running",
    "Verifying": "Verifying",
    "Finished": "Verifying",
}  # of the engine's own
QUIET = 15  # seconds that a pod may run before its silence is said


@dataclass(frozen=True)
class Timing:
    """Seconds between two looks: at a running restore, at one that waits."""

    progress: float = 5.0
    resync: float = 300.0


def plan(restore: DatabaseRestore, observed: Observed, now: datetime, timing: Timing = Timing()) -> Plan:
    """What is to be done about a restore, as it and the world are now. Never raises; the same input makes the same plan."""
    if restore.metadata.deletion_timestamp is not None:
        return Plan((), restore.status, None)
    made = _Planner(restore, observed, now, timing).plan()
    return with_event(restore, made)


def with_event(restore: DatabaseRestore, made: Plan) -> Plan:
    """An event where phase, run or reason moved; progress within a phase is none."""
    old, new = restore.status, made.status
    was, is_ = old.condition("Succeeded"), new.condition("Succeeded")
    before = (old.run_id, old.phase, was.reason if was else "")
    after = (new.run_id, new.phase, is_.reason if is_ else "")
    if before == after or is_ is None:
        return made
    kind = "Warning" if new.phase == "Failed" or is_.reason in _WARNINGS else "Normal"
    tell = Tell(kind, is_.reason, new.message or str(new.phase))
    return Plan((*made.actions, tell), new, made.requeue_after, made.holds)


_WARNINGS = (
    reasons.SECRET_MISSING,
    reasons.CLAIM_MISSING,
    reasons.VOLUME_UNAVAILABLE,
    reasons.IMAGE_UNAVAILABLE,
    reasons.UNSCHEDULABLE,
    reasons.QUOTA_EXCEEDED,
    reasons.POD_FORBIDDEN,
    reasons.CANNOT_START,
    reasons.RETRYING,
    reasons.OPERATOR_ERROR,
)


class _Planner:
    def __init__(self, restore: DatabaseRestore, observed: Observed, now: datetime, timing: Timing) -> None:
        self.restore, self.spec, self.observed, self.now, self.timing = restore, restore.spec, observed, now, timing
        self.status = status.of_run(restore)
        run = self.spec.run_id
        self.jobs = sorted((j for j in observed.jobs if j.run == run), key=lambda j: j.attempt)
        self.others = [j for j in observed.jobs if j.run != run and j.active]
        self.attempt = max(self.status.attempt, self.jobs[-1].attempt if self.jobs else 0)
        self.job = next((j for j in self.jobs if j.attempt == self.attempt), None)
        self.start = self._start()

    def plan(self) -> Plan:
        if status.is_over(self.restore.status, self.spec.run_id):
            return self._over()
        self._note()
        if self.others or [j for j in self.jobs if j.active and j is not self.job]:
            return self._replace()
        if self.job is not None and not self.job.active:
            return self._verdict(self.job)
        if self.spec.cancel:
            return self._cancel()
        if self._expired():
            return self._deadline()
        if self.spec.suspend:
            return self._suspend()
        if self.job is None:
            return self._begin()
        if self.job.deleting:
            return self._wait(reasons.STOPPING, reasons.going(self.job.name))
        if self.job.suspended:
            return self._resume(self.job)
        return self._watch(self.job)

    # -- facts ---------------------------------------------------------------------------------------------------------

    def _start(self) -> datetime | None:
        created = [j.created for j in self.jobs if j.created is not None]
        return time_of(self.status.start_time) or min(created, default=None)

    def _note(self) -> None:
        """What the Jobs say of the run goes into its status: a lost patch heals."""
        update: dict[str, object] = {"attempt": self.attempt}
        if self.start is not None and self.status.start_time is None:
            update["start_time"] = stamp(self.start)
        if self.job is not None:
            update["job_ref"] = JobRef(name=self.job.name, uid=self.job.uid)
        self.status = self.status.model_copy(update=update)

    def _remaining(self) -> int:
        """Seconds until the deadline; all of them before the start."""
        if self.start is None:
            return self.spec.active_deadline_seconds
        return int((self.start + timedelta(seconds=self.spec.active_deadline_seconds) - self.now).total_seconds())

    def _expired(self) -> bool:
        return self.start is not None and self._remaining() <= 0

    def _phase(self) -> Phase:
        """Where the run is until it is seen to be elsewhere."""
        return self.status.phase if self.status.phase in ("Validating", "Running", "Verifying") else "Validating"

    # -- plans ---------------------------------------------------------------------------------------------------------

    def _active(
        self,
        phase: Phase,
        reason: str,
        message: str = "",
        *actions: Action,
        again: float,
        holds: bool = True,
        progressing: Progressing | None = None,
    ) -> Plan:
        said = status.active(self.status, self.restore, self.now, phase, reason, message, progressing=progressing)
        if self.start is not None:
            again = min(again, max(self._remaining(), 1))
        return Plan(actions, said, again, holds)

    def _wait(self, reason: str, message: str, *actions: Action) -> Plan:
        """For something that is about to go away."""
        return self._active(self._phase(), reason, message, *actions, again=SOON)

    def _end(self, phase: Phase, reason: str, message: str, report: Report | None = None) -> Plan:
        said = status.ended(self.status, self.restore, self.now, phase, reason, message, report)
        if report is not None and phase == "Failed":
            table = next((t.name for t in report.tables if t.error), "")
            error = LastError(reason=report.reason or reason, message=message, table=table, time=stamp(self.now))
            said = said.model_copy(update={"last_error": error})
        return Plan((), said, SOON)  # once more, to let the Job go

    def _create(self, *, cancel: bool = False) -> Plan:
        attempt = self.attempt + 1
        message = reasons.CANCELLING_MESSAGE if cancel else reasons.starting(job_name(self.restore, attempt))
        if self.attempt and not cancel and self.job is None:
            gone = self.status.job_ref.name if self.status.job_ref else f"attempt {self.attempt}"
            message = reasons.JOB_VANISHED.format(job=gone, attempt=attempt)
        remaining = CANCEL_PATIENCE if cancel else self._remaining()
        update: dict[str, object] = {"attempt": attempt, "job_ref": None}
        if self.start is None:
            update["start_time"] = stamp(self.now)
        self.status = self.status.model_copy(update=update)
        reason = reasons.CANCELLING if cancel else reasons.VALIDATING
        return self._active(
            self._phase() if cancel else "Validating",
            reason,
            message,
            CreateJob(attempt, remaining, cancel),
            again=self.timing.progress,
        )

    def _over(self) -> Plan:
        """Terminal is terminal. What is left: Jobs may go, and nothing of this restore may run on."""
        actions: list[Action] = [
            ExpireJob(j.name) for j in self.observed.jobs if not j.active and not j.ttl and not j.deleting
        ]
        strays = [j for j in self.observed.jobs if j.active]
        actions += [DeleteJob(j.name, j.uid) for j in strays if not j.deleting]
        generation = self.restore.metadata.generation
        said = self.status
        if said.observed_generation != generation:
            conditions = [c.model_copy(update={"observed_generation": generation}) for c in said.conditions]
            said = said.model_copy(update={"observed_generation": generation, "conditions": conditions})
        return Plan(tuple(actions), said, SOON if strays else None, holds=bool(strays))

    def _replace(self) -> Plan:
        """Another runID was set while a run was under way: that one stops first."""
        strays = [*self.others, *(j for j in self.jobs if j.active and j is not self.job)]
        return self._wait(
            reasons.STOPPING, reasons.RUN_REPLACED, *(DeleteJob(j.name, j.uid) for j in strays if not j.deleting)
        )

    def _verdict(self, job: Job) -> Plan:
        """The Job is over: what that means for the run."""
        pods = self.observed.pods_of(job)
        report = report_of(pods)
        if job.state == "Complete":
            if report is not None and report.outcome == "Succeeded":
                return self._end("Succeeded", report.reason or reasons.SUCCEEDED, report.message, report)
            held = self.spec.suspend or self.spec.cancel or self._expired()
            if self.spec.mode == "Apply" and job.attempt == 1 and not held:
                return self._begin()  # its report is lost: the ledger has it, and the next attempt hands it out
            return self._end("Succeeded", reasons.SUCCEEDED, reasons.REPORT_LOST)
        if job.cancels:
            told = report is not None and report.outcome == "Cancelled"
            message = reasons.CANCELLED_MESSAGE if told else reasons.LEDGER_NOT_TOLD
            return self._end("Cancelled", reasons.CANCELLED, message, report if told else None)
        if job.reason == "DeadlineExceeded":
            return self._end(
                "Failed", reasons.DEADLINE_EXCEEDED, reasons.deadline(self.spec.active_deadline_seconds), report
            )
        if report is not None and report.reason == reasons.TARGET_BUSY:
            return self._busy(job, report)
        if report is not None and report.outcome == "Cancelled":
            return self._end("Cancelled", reasons.CANCELLED, report.message or reasons.CANCELLED_MESSAGE, report)
        if report is not None and report.outcome == "Failed" and report.message:
            reason = report.reason if report.reason in reasons.FAILURES else reasons.LOAD_FAILED
            return self._end("Failed", reason, report.message, report)
        return self._end("Failed", reasons.LOAD_FAILED, last_words(pods) or job.message or "the Job failed", report)

    def _busy(self, job: Job, report: Report) -> Plan:
        """The ledger says that somebody else has the target, perhaps from another cluster: this one waits, it has not failed."""
        if self.spec.cancel:
            return self._cancel()
        if self._expired():
            return self._deadline()
        error = LastError(reason=report.reason, message=report.message, time=stamp(job.finished or self.now))
        self.status = status.failing(self.status, error)
        waited = (self.now - (job.finished or self.now)).total_seconds()
        if waited < TARGET_RETRY or self.spec.suspend:
            left = max(TARGET_RETRY - waited, 1.0)
            phase: Phase = "Suspended" if self.spec.suspend else "Queued"
            reason = reasons.SUSPENDED if self.spec.suspend else reasons.QUEUED
            return self._active(phase, reason, report.message or reasons.WAITS_FOR_HOLDER, again=left, holds=False)
        return self._begin()

    def _cancel(self) -> Plan:
        job = self.job if self.job is not None and self.job.active else None
        if not self.attempt:
            return self._end("Cancelled", reasons.CANCELLED, reasons.NEVER_STARTED)
        if job is not None and job.cancels and not job.deleting:
            if self._age(job) < CANCEL_PATIENCE:
                return self._active(
                    self._phase(), reasons.CANCELLING, reasons.CANCELLING_MESSAGE, again=self.timing.progress
                )
            return self._wait(reasons.CANCELLING, reasons.CANCELLING_MESSAGE, DeleteJob(job.name, job.uid))
        if job is not None:
            actions = () if job.deleting else (DeleteJob(job.name, job.uid),)
            return self._wait(reasons.CANCELLING, reasons.STOPPING_MESSAGE, *actions)
        if self.spec.mode != "Apply":
            return self._end("Cancelled", reasons.CANCELLED, reasons.CANCELLED_MESSAGE)
        was = self.status.condition("Reconciling")
        if self._expired() or (was is not None and was.message == reasons.CANCELLING_MESSAGE):
            return self._end("Cancelled", reasons.CANCELLED, reasons.LEDGER_NOT_TOLD)  # it had its time
        return self._create(cancel=True)

    def _deadline(self) -> Plan:
        """First the pod ends, then the run: until then it may still come to its own verdict."""
        if self.job is not None and self.job.active:
            actions = () if self.job.deleting else (DeleteJob(self.job.name, self.job.uid),)
            return self._wait(reasons.DEADLINE_EXCEEDED, reasons.STOPPING_MESSAGE, *actions)
        return self._end("Failed", reasons.DEADLINE_EXCEEDED, reasons.deadline(self.spec.active_deadline_seconds))

    def _suspend(self) -> Plan:
        if self.job is None:
            message = reasons.STOPPED if self.attempt else reasons.HELD
            return self._active("Suspended", reasons.SUSPENDED, message, again=self.timing.resync, holds=False)
        alive = self.job.pods_alive > 0 or any(p.running for p in self.observed.pods_of(self.job))
        if not self.job.suspended and not self.job.deleting:
            stop = SuspendJob(self.job.name, True)
            return self._active("Suspended", reasons.SUSPENDING, reasons.STOPPING_MESSAGE, stop, again=SOON)
        if alive or self.job.deleting:
            return self._active("Suspended", reasons.SUSPENDING, reasons.STOPPING_MESSAGE, again=SOON)
        return self._active("Suspended", reasons.SUSPENDED, reasons.STOPPED, again=self.timing.resync, holds=False)

    def _queue(self) -> Plan | None:
        """Waits while another restore has the target, or came first. What writes nothing does not wait."""
        if not self.observed.ahead or self.spec.mode != "Apply":
            return None
        message = reasons.waits_for(self.observed.ahead[0])
        return self._active("Queued", reasons.QUEUED, message, again=self.timing.resync, holds=False)

    def _begin(self) -> Plan:
        if self._expired():
            return self._deadline()
        return self._queue() or self._create()

    def _resume(self, job: Job) -> Plan:
        if queued := self._queue():
            return queued
        go_on = SuspendJob(job.name, False)
        return self._active(
            "Validating", reasons.VALIDATING, reasons.starting(job.name), go_on, again=self.timing.progress
        )

    def _age(self, job: Job) -> float:
        return (self.now - (job.created or self.now)).total_seconds()

    def _watch(self, job: Job) -> Plan:
        pods = self.observed.pods_of(job)
        running = [p for p in pods if p.running]
        if not running:
            return self._starting(job, pods)
        seen = self.observed.progress
        if seen is None:
            silent = None
            if not any(p.since is None or (self.now - p.since).total_seconds() < QUIET for p in running):
                silent = Progressing("Unknown", reasons.PROGRESS_UNAVAILABLE, reasons.PROGRESS_HIDDEN)
            return self._active(
                self._phase(), _word(self._phase()), self.status.message, again=self.timing.progress, progressing=silent
            )
        self.status = self._throttled(status.loading(self.status, seen))
        phase = _PHASES.get(seen.phase, "Validating")
        if seen.stalled:
            target = f"{self.spec.target.host}/{self.spec.target.database}"
            message = reasons.no_progress(running[0].name, target, self.spec.stall_timeout_seconds)
            progressing = Progressing("False", reasons.NO_PROGRESS, message)
        else:
            message = f"snapshot {seen.snapshot}" if seen.snapshot else ""
            progressing = Progressing("True", _word(phase))
        return self._active(phase, _word(phase), message, again=self.timing.progress, progressing=progressing)

    def _throttled(self, fresh: RestoreStatus) -> RestoreStatus:
        """Figures are written every few seconds at most, however often somebody asks."""
        old, new = self.status.progress, fresh.progress
        if old is None or new is None:
            return fresh
        then, at = time_of(old.last_update_time or None), time_of(new.last_update_time or None)
        if then is None or at is None or (at - then).total_seconds() >= int(self.timing.progress):
            return fresh
        return self.status

    def _starting(self, job: Job, pods: tuple[Pod, ...]) -> Plan:
        again = PENDING if self._age(job) < 60 else PENDING_LONG
        warnings = tuple(w for w in self.observed.warnings if not _is_over(w.time, job))
        if why := why_not_started(self.restore, pods, warnings):
            reason, message = why
            self.status = status.failing(self.status, LastError(reason=reason, message=message, time=stamp(self.now)))
            return self._active(self._phase(), reason, message, again=again)
        ended = [p for p in pods if p.exit_code not in (None, 0)]
        if words := last_words(tuple(ended)):
            report = report_of(tuple(ended))
            word = report.reason if report is not None and report.reason else reasons.LOAD_FAILED
            self.status = status.failing(self.status, LastError(reason=word, message=words, time=stamp(self.now)))
            if any(p.exit_code in FINAL_CODES for p in ended):
                return self._wait(reasons.STOPPING, words)  # the Job is about to say so too
            return self._active(self._phase(), reasons.RETRYING, f"{words}; it is tried again", again=again)
        return self._active(self._phase(), reasons.VALIDATING, reasons.starting(job.name), again=again)


def _is_over(moment: datetime | None, job: Job) -> bool:
    """Whether an event is older than the Job."""
    return moment is not None and job.created is not None and moment < job.created


def _word(phase: Phase) -> str:
    return {"Running": reasons.LOADING, "Verifying": reasons.VERIFYING}.get(phase, reasons.VALIDATING)
