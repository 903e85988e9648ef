"""reconcile.plan under random orders of events, crashes and lost patches.

The world is a model: Jobs that a controller and a garbage collector move on, a ledger that makes a finished run final, a person who
suspends, cancels and starts new runs, an operator that may die after any of its actions.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from manifests import restore
from restore_operator import status
from restore_operator.api import DatabaseRestore, RestoreStatus
from restore_operator.job import job_name
from restore_operator.observed import Job, Observed, Pod
from restore_operator.reconcile import CreateJob, DeleteJob, ExpireJob, Plan, SuspendJob, plan
from restorer.report import Report, Totals

START = datetime(2030, 1, 1, tzinfo=UTC)
DEADLINE = 3600


def _restore() -> dict[str, Any]:
    made = restore(activeDeadlineSeconds=DEADLINE)
    made["metadata"] |= {"uid": "u-1", "generation": 1, "creationTimestamp": "2030-01-01T00:00:00Z"}
    return made


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.body = _restore()
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
        read = DatabaseRestore.model_validate(self.body)
        return read.model_copy(update={"status": self.status})

    @rule(dies_after=st.none() | st.integers(0, 3), patch_is_lost=st.booleans())
    def look(self, dies_after: int | None = None, patch_is_lost: bool = False) -> None:
        asked = self.restore()
        world = Observed(
            tuple(self.jobs.values()), tuple(self.pods.values()), ahead=("lms/other",) if self.ahead else ()
        )
        made = plan(asked, world, self.now)
        assert made == plan(asked, world, self.now), "the same world makes the same plan"
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
                    self.jobs[name] = dataclasses.replace(self.jobs[name], suspended=suspend)
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
        self.jobs[name] = Job(name, f"j-{self.uids}", run, attempt, "Active", created=self.now, cancels=cancel)

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
        return [j for j in self.jobs.values() if j.active and not j.suspended and not j.deleting]

    @precondition(lambda self: self.running())
    @rule(how=st.sampled_from(["good", "good", "bad", "busy", "report lost"]))
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

    @precondition(lambda self: self.running())
    @rule()
    def a_pod_ran_to_its_end_and_its_job_vanished(self) -> None:
        job = self.running()[0]
        self.a_pod_ends("good")
        self.jobs.pop(job.name)
        self.pods.pop(job.name)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def somebody_deletes_a_job(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.jobs)))
        self.jobs.pop(name)
        self.pods.pop(name, None)

    @rule()
    def the_garbage_collector_runs(self) -> None:
        for name in [j.name for j in self.jobs.values() if j.deleting or (j.ttl and not j.active)]:
            self.jobs.pop(name)
            self.pods.pop(name, None)

    @rule(seconds=st.sampled_from([1, 40, 200, DEADLINE]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def the_status_is_wiped(self) -> None:
        self.status = RestoreStatus()
        self.over.pop(self.body["spec"].get("runID", "1"), None)

    # -- a person, and other restores ----------------------------------------------------------------------------------

    def spec(self, **changes: Any) -> None:
        self.body["spec"] |= changes
        self.body["metadata"]["generation"] += 1

    @rule(on=st.booleans())
    def suspends(self, on: bool) -> None:
        self.spec(suspend=on)

    @rule()
    def cancels(self) -> None:
        self.spec(cancel=True)

    @rule()
    def starts_a_new_run(self) -> None:
        self.spec(runID=str(int(self.body["spec"].get("runID", "1")) + 1), cancel=False, suspend=False)

    @rule(on=st.booleans())
    def another_restore_has_the_target(self, on: bool) -> None:
        self.ahead = on

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def one_active_job(self) -> None:
        active = [j.name for j in self.jobs.values() if j.active]
        assert len(active) <= 1, active

    @invariant()
    def no_second_load(self) -> None:
        assert all(count == 1 for count in self.loads.values())

    @invariant()
    def always_a_next_look_or_the_end(self) -> None:
        if self.last is None:
            return
        if self.last.requeue_after is None:
            assert self.last.status.phase in status.TERMINAL
        else:
            assert self.last.requeue_after > 0

    @invariant()
    def kstatus_is_never_told_two_things(self) -> None:
        truth = {c.type: c.status for c in self.status.conditions}
        if truth:
            assert truth["Ready"] == truth["Succeeded"]
            assert (truth["Reconciling"], truth["Stalled"], truth["Succeeded"]) in {
                ("True", "False", "Unknown"),
                ("False", "False", "True"),
                ("False", "True", "False"),
            }

    def teardown(self) -> None:
        """Left alone, everything comes to its end."""
        self.ahead = False
        if self.body["spec"].get("suspend"):
            self.suspends(False)
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


TestStateMachine = World.TestCase
TestStateMachine.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
