"""reconcile.plan through long scripts of events, crashes and lost patches.

The world is a model: Jobs that a controller and a garbage collector move on, a ledger that makes a finished run final, a person who
suspends, cancels and starts new runs, an operator that may die after any of its actions. What must hold of every single plan stands
in `Rules`, what must hold of the whole in `World`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import restore
from restore_operator import status
from restore_operator.actions import CreateJob, DeleteJob, ExpireJob, Plan, SuspendJob
from restore_operator.api import DatabaseRestore, RestoreStatus
from restore_operator.job import job_name
from restore_operator.observed import Job, Observed, Pod, time_of
from restore_operator.reconcile import CANCEL_PATIENCE, TARGET_RETRY, plan
from restorer.report import Report, Totals

START = datetime(2030, 1, 1, tzinfo=UTC)
DEADLINE = 3600

# How often each is drawn, beside the others.
HAPPENINGS = {
    "the pod ends well": 4, "the pod fails": 2, "the target is busy": 4, "the report is lost": 2, "the Job vanishes when done": 2,
    "somebody deletes a Job": 2,
    "somebody deletes a Job and it takes its time": 2,
    "cancelled at the command line": 1, "another operator was late": 1,
    "garbage is collected": 8, "the status is wiped": 1,
    "1 s": 4, "40 s": 6, "200 s": 2, "half the deadline": 2, "the deadline": 1,
    "suspend": 4, "resume": 5, "cancel": 1, "a new run": 2, "target taken": 1, "target free": 3,
}  # fmt: skip
LOOKS = {"looks": 12, "does not look": 4, "loses its patch": 4, "dies at once": 1, "dies after an action": 2}


def _weighted(of: dict[str, int]) -> st.SearchStrategy[str]:
    return st.sampled_from([name for name, weight in of.items() for _ in range(weight)])


STEPS = st.lists(st.tuples(_weighted(HAPPENINGS), _weighted(LOOKS)), min_size=20, max_size=60)


@given(script=STEPS)
@settings(max_examples=600, deadline=None)
def test_whatever_happens_in_whatever_order(script: list[tuple[str, str]]) -> None:
    world = World()
    world.look()
    for happening, look in script:
        world.happens(happening)
        match look:
            case "looks":
                world.look()
            case "loses its patch":
                world.look(patch_is_lost=True)
            case "dies at once":
                world.look(dies_after=0)
            case "dies after an action":
                world.look(dies_after=1)
        world.must_hold()
    world.left_alone()


@dataclass
class Rules:
    """What must hold of one plan, whatever came before it."""

    restore: DatabaseRestore
    observed: Observed
    now: datetime
    made: Plan

    def __post_init__(self) -> None:
        spec, known = self.restore.spec, self.restore.status
        self.run, self.same = spec.run_id, known.run_id == spec.run_id
        self.over = status.is_over(known, self.run)
        mine = [j for j in self.observed.jobs if j.run == self.run]
        self.attempt = max([j.attempt for j in mine] + [known.attempt if self.same else 0])
        self.job = next((j for j in mine if j.attempt == self.attempt), None)
        self.active = [j for j in self.observed.jobs if j.active]
        self.strays = [j for j in self.active if j is not self.job]
        told = time_of(known.start_time) if self.same else None
        self.start = told or min((j.created for j in mine if j.created), default=None)
        self.left = DEADLINE - (self.now - self.start).total_seconds() if self.start else DEADLINE
        self.creates = [a for a in self.made.actions if isinstance(a, CreateJob)]
        self.deletes = {a.name for a in self.made.actions if isinstance(a, DeleteJob)}
        self.suspends = {a.name: a.suspend for a in self.made.actions if isinstance(a, SuspendJob)}

    def check(self) -> None:
        self.of_every_plan()
        self.of_what_is_created()
        if self.over:
            self.of_the_end()
        elif self.strays:
            assert {j.name for j in self.strays if not j.deleting} == self.deletes, (
                "what runs on of another run is stopped"
            )
            assert not self.creates
        elif self.job is not None and not self.job.active:
            self.of_a_verdict(self.job)
        elif self.job is not None:
            self.of_an_active_job(self.job)
        else:
            self.of_no_job()

    def of_every_plan(self) -> None:
        said, again = self.made.status, self.made.requeue_after
        assert said.run_id == self.run
        if again is None:
            assert self.over and not self.active, "there is a next look until there is nothing more to see"
        else:
            assert 0 < again <= 600
            assert self.over or self.start is None or said.phase in status.TERMINAL or again <= max(self.left, 1)
        if any(not j.suspended or (j.pods_alive and self.restore.spec.suspend) for j in self.active) or self.creates:
            assert self.made.holds, "who writes has the target"
        if self.same and self.restore.status.start_time:
            assert said.start_time == self.restore.status.start_time, "a run starts once"
        for action in self.made.actions:
            if isinstance(action, ExpireJob):
                assert self.over and action.name not in {j.name for j in self.active}

    def of_what_is_created(self) -> None:
        assert len(self.creates) <= 1
        for made in self.creates:
            assert not self.over and not self.active, "one Job at a time"
            assert made.attempt == self.attempt + 1, "an attempt's name is never used again"
            assert made.attempt == self.made.status.attempt
            assert made.cancel == self.restore.spec.cancel
            assert made.cancel or 0 < made.remaining <= max(self.left, 1)
            assert made.cancel or not (self.restore.spec.suspend or self.observed.ahead)

    def of_the_end(self) -> None:
        assert self.made.status.phase == self.restore.status.phase, "terminal is terminal"
        assert self.deletes == {j.name for j in self.active if not j.deleting}

    def of_a_verdict(self, job: Job) -> None:
        spec, phase = self.restore.spec, self.made.status.phase
        report = next((p.report for p in self.observed.pods_of(job)), None)
        if report is not None and report.reason == "TargetBusy":
            waited = (self.now - (job.finished or self.now)).total_seconds()
            if spec.cancel:
                assert phase == "Cancelled" or self.creates
            elif self.left <= 0:
                assert phase == "Failed"
            elif spec.suspend:
                assert phase == "Suspended" and not self.creates
            elif waited < TARGET_RETRY or self.observed.ahead:
                assert phase == "Queued" and not self.creates and not self.made.holds
            else:
                assert self.creates, "a target that was held is tried again"
        elif report is not None and report.outcome:
            wanted = "Cancelled" if job.cancels and report.outcome == "Failed" else report.outcome
            assert phase == wanted and not self.creates, "what the pod reported is the verdict"
        elif job.state == "Failed":
            assert phase == ("Cancelled" if job.cancels else "Failed")
        else:
            held = spec.suspend or spec.cancel or self.left <= 0
            assert phase == "Succeeded" or (not held and (self.creates or phase == "Queued")), "its report is asked for"

    def of_an_active_job(self, job: Job) -> None:
        spec, phase = self.restore.spec, self.made.status.phase
        assert phase not in status.TERMINAL, "the pod ends before the run does"
        if job.deleting:
            assert not self.made.actions or not (self.deletes or self.suspends)
        elif spec.cancel and not job.cancels:
            assert self.deletes == {job.name}
        elif spec.cancel:
            waited = (self.now - (job.created or self.now)).total_seconds()
            assert self.deletes == ({job.name} if waited >= CANCEL_PATIENCE else set()), (
                "a dead database is not waited for"
            )
        elif self.left <= 0:
            assert self.deletes == {job.name}, "the deadline holds, suspended or not"
        elif spec.suspend:
            assert phase == "Suspended" and not self.deletes
            assert job.suspended or self.suspends == {job.name: True}
        elif job.suspended:
            assert self.suspends == ({} if self.observed.ahead else {job.name: False})
        else:
            assert not self.deletes and not self.suspends, "what runs is let run"

    def of_no_job(self) -> None:
        spec, phase = self.restore.spec, self.made.status.phase
        if spec.cancel:
            assert phase == "Cancelled" or (self.creates and self.attempt)
        elif self.left <= 0:
            assert phase == "Failed" and not self.creates
        elif spec.suspend:
            assert phase == "Suspended" and not self.creates and not self.made.holds
        elif self.observed.ahead:
            assert phase == "Queued" and not self.creates and not self.made.holds
        else:
            assert self.creates, "what may start is started"


def _restore() -> dict[str, Any]:
    made = restore(activeDeadlineSeconds=DEADLINE)
    made["metadata"] |= {"uid": "u-1", "generation": 1, "creationTimestamp": "2030-01-01T00:00:00Z"}
    return made


class World:
    def __init__(self) -> None:
        self.now = START
        self.body = _restore()
        self.asked = DatabaseRestore.model_validate(self.body)
        self.status = RestoreStatus()
        self.jobs: dict[str, Job] = {}
        self.pods: dict[str, Pod] = {}
        self.ahead = False
        self.uids = 0
        self.ledger: dict[str, str] = {}  # run -> how it ended
        self.loads: dict[str, int] = {}
        self.over: dict[str, str] = {}  # run -> the terminal phase that was stored
        self.last: Plan | None = None

    # -- the operator --------------------------------------------------------------------------------------------------

    def restore(self) -> DatabaseRestore:
        return self.asked.model_copy(update={"status": self.status})

    def look(self, dies_after: int | None = None, patch_is_lost: bool = False) -> None:
        asked = self.restore()
        world = Observed(
            tuple(self.jobs.values()), tuple(self.pods.values()), ahead=("lms/other",) if self.ahead else ()
        )
        made = plan(asked, world, self.now)
        assert made == plan(asked, world, self.now), "the same world makes the same plan"
        Rules(asked, world, self.now, made).check()
        self.last = made
        run = asked.spec.run_id
        for n, action in enumerate(made.actions):
            if dies_after is not None and n >= dies_after:
                return
            match action:
                case CreateJob(attempt, remaining, cancel):
                    assert run not in self.over, "nothing is started once the end of the run is stored"
                    assert remaining > 0
                    self.create(asked, attempt, cancel)
                case DeleteJob(name, uid):
                    if name in self.jobs and self.jobs[name].uid == uid:
                        self.jobs[name] = dataclasses.replace(self.jobs[name], deleting=True)
                case SuspendJob(name, suspend):
                    alive = self.jobs[name].pods_alive if suspend else 1
                    self.jobs[name] = dataclasses.replace(self.jobs[name], suspended=suspend, pods_alive=alive)
                case ExpireJob(name):
                    assert run in self.over, "a Job may go only when its verdict is stored"
                    self.jobs[name] = dataclasses.replace(self.jobs[name], ttl=True)
        if dies_after is None and not patch_is_lost:
            self.store(run, made.status)

    def create(self, asked: DatabaseRestore, attempt: int, cancel: bool) -> None:
        name = job_name(asked, attempt)
        if name in self.jobs:  # 409: adopted
            return
        self.uids += 1
        run = asked.spec.run_id
        self.jobs[name] = Job(
            name, f"j-{self.uids}", run, attempt, "Active", created=self.now, cancels=cancel, pods_alive=1
        )

    def store(self, run: str, said: RestoreStatus) -> None:
        before = self.status
        if status.is_over(before, run):
            assert said.phase == before.phase, "terminal is terminal"
        for c in said.conditions:
            old = before.condition(c.type)
            if old is not None and old.status == c.status:
                assert c.last_transition_time == old.last_transition_time, "moves only with the status"
        self.status = RestoreStatus.model_validate(status.as_json(said))  # as the API server would hand it out
        if status.is_over(said, run):
            self.over[run] = str(said.phase)
            if said.phase == "Succeeded":
                assert self.ledger.get(run) == "Succeeded", "never says it succeeded when it did not"

    # -- the controllers, the pods, the ledger -------------------------------------------------------------------------

    def running(self) -> list[Job]:
        """A Job that is being deleted, too: its pod may be quicker."""
        return [j for j in self.jobs.values() if j.active and not j.suspended]

    def happens(self, what: str) -> None:
        ways = {
            "the pod ends well": "good",
            "the pod fails": "bad",
            "the target is busy": "busy",
            "the report is lost": "report lost",
        }
        times = {"1 s": 1, "40 s": 40, "200 s": 200, "half the deadline": DEADLINE // 2, "the deadline": DEADLINE}
        if what in ways:
            if self.running():
                self.a_pod_ends(ways[what])
        elif what in times:
            self.now += timedelta(seconds=times[what])
        else:
            self.acts(what)

    def acts(self, what: str) -> None:
        match what:
            case "the Job vanishes when done":
                if running := self.running():
                    self.a_pod_ends("good")
                    self.loses(running[0].name)
            case "somebody deletes a Job":
                if self.jobs:
                    self.loses(sorted(self.jobs)[-1])
            case "somebody deletes a Job and it takes its time":
                if self.jobs:
                    name = sorted(self.jobs)[-1]
                    self.jobs[name] = dataclasses.replace(self.jobs[name], deleting=True)
            case "another operator was late":
                if not any(j.active for j in self.jobs.values()):
                    self.create(self.asked, max([j.attempt for j in self.jobs.values()], default=0) + 1, False)
            case "cancelled at the command line":
                self.ledger.setdefault(self.body["spec"].get("runID", "1"), "Cancelled")
            case "garbage is collected":
                self.the_garbage_collector_runs()
            case "the status is wiped":
                self.status = RestoreStatus()
                self.over.pop(self.body["spec"].get("runID", "1"), None)
            case "suspend" | "resume":
                self.spec(suspend=what == "suspend")
            case "cancel":
                self.spec(cancel=True)
            case "a new run":
                number = int(self.body["spec"].get("runID", "1")) + 1
                self.spec(runID=str(number), cancel=False, suspend=False)
            case "target taken" | "target free":
                self.ahead = what == "target taken"
            case _:
                raise AssertionError(what)

    def loses(self, name: str) -> None:
        self.jobs.pop(name)
        self.pods.pop(name, None)

    def spec(self, **changes: Any) -> None:
        self.body["spec"] |= changes
        self.body["metadata"]["generation"] += 1
        self.asked = DatabaseRestore.model_validate(self.body)

    def a_pod_ends(self, how: str) -> None:
        job = self.running()[0]
        run, totals = job.run, Totals(tables=1, read=5, inserted=5)
        if run in self.ledger:  # finished before: its report again, and nothing touched
            good = self.ledger[run] == "Succeeded"
            report = Report(
                "r", outcome=self.ledger[run], reason="AlreadyCompleted" if good else self.ledger[run], message="m"
            )
        elif job.cancels:
            self.ledger[run], good = "Cancelled", False
            report = Report("r", outcome="Cancelled", reason="Cancelled", message="m", totals=totals)
        elif how == "busy":
            good, report = False, Report("r", outcome="Failed", reason="TargetBusy", message="held")
        else:
            good = how != "bad"
            self.loads[run] = self.loads.get(run, 0) + 1
            self.ledger[run] = "Succeeded" if good else "Failed"
            report = Report(
                "r", outcome=self.ledger[run], reason="" if good else "LoadFailed", message="m", totals=totals
            )
        state = "Complete" if good else "Failed"
        self.jobs[job.name] = dataclasses.replace(job, state=state, finished=self.now)
        kept = None if how == "report lost" else report
        code = 0 if good else 2
        self.pods[job.name] = Pod(
            job.name + "-p", "p", job.name, "Succeeded", exit_code=code, report=kept, finished=self.now
        )

    def the_garbage_collector_runs(self) -> None:
        for job in [j for j in self.jobs.values() if j.suspended]:
            self.jobs[job.name] = dataclasses.replace(job, pods_alive=0)
        for name in [j.name for j in self.jobs.values() if j.deleting or (j.ttl and not j.active)]:
            self.loses(name)

    # -- what must hold ------------------------------------------------------------------------------------------------

    def must_hold(self) -> None:
        self.one_active_job()
        self.no_second_load()
        self.kstatus_is_never_told_two_things()

    def one_active_job(self) -> None:
        active = [j.name for j in self.jobs.values() if j.active]
        assert len(active) <= 1, active

    def no_second_load(self) -> None:
        assert all(count == 1 for count in self.loads.values())

    def kstatus_is_never_told_two_things(self) -> None:
        truth = {c.type: c.status for c in self.status.conditions}
        if truth:
            assert truth["Ready"] == truth["Succeeded"]
            assert (truth["Reconciling"], truth["Stalled"], truth["Succeeded"]) in {
                ("True", "False", "Unknown"),
                ("False", "False", "True"),
                ("False", "True", "False"),
            }

    def left_alone(self) -> None:
        """Left alone, everything comes to its end."""
        self.ahead = False
        if self.body["spec"].get("suspend"):
            self.spec(suspend=False)
        for _ in range(60):
            self.look()
            assert self.last is not None
            if self.last.requeue_after is None:
                break
            self.now += timedelta(seconds=min(self.last.requeue_after, 30))
            self.the_garbage_collector_runs()
            if self.running():
                self.a_pod_ends("good")
        assert self.status.phase in status.TERMINAL, self.status
        assert self.status.run_id == self.body["spec"].get("runID", "1")
        assert not [j for j in self.jobs.values() if j.active]
        self.one_active_job()
        self.no_second_load()
