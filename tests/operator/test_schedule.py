"""What a look at a schedule decides, by a clock that a test holds in its hand."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from manifests import schedule
from restore_operator.api import ClusterSpec
from restore_operator.kube import RESTORES, SCHEDULES, Conflict, FakeKube, Json, Kind
from restore_operator.queue import ScheduleKey
from restore_operator.schedule import Agenda, Child, Delete, Say, Start, agenda, child_name, make_restore
from restore_operator.schedule_api import DatabaseRestoreSchedule, ScheduleStatus
from restore_operator.schedule_sync import ScheduleSyncer

MADE = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DATA = Path(__file__).resolve().parents[1] / "data" / "schedule"


def given_schedule(status: ScheduleStatus | None = None, **changes: Any) -> DatabaseRestoreSchedule:
    manifest = schedule(**changes)
    manifest["metadata"] |= {"uid": "s-1", "generation": 1, "creationTimestamp": MADE.strftime("%Y-%m-%dT%H:%M:%SZ")}
    read = DatabaseRestoreSchedule.model_validate(manifest)
    return read.model_copy(update={"status": status}) if status else read


def child(scheduled: datetime, **what: Any) -> Child:
    name = child_name("nightly", scheduled)
    return Child(name, f"uid-{name}", scheduled, **what)


def over(scheduled: datetime, *, succeeded: bool = True) -> Child:
    return child(
        scheduled,
        over=True,
        succeeded=succeeded,
        reason="Succeeded" if succeeded else "LoadFailed",
        completed=scheduled + MINUTE,
    )


def started(made: Agenda) -> list[datetime]:
    return [action.scheduled for action in made.actions if isinstance(action, Start)]


def deleted(made: Agenda) -> list[str]:
    return [action.name for action in made.actions if isinstance(action, Delete)]


def said(made: Agenda) -> list[str]:
    return [action.reason for action in made.actions if isinstance(action, Say)]


def conditions(made: Agenda) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in made.status.conditions}


NIGHT = datetime(2026, 1, 2, 2, 30, tzinfo=UTC)


TOLD = ScheduleStatus(last_schedule_time="2026-01-02T02:30:00Z")


def test_before_its_time_nothing_happens_and_the_next_look_is_in_time() -> None:
    made = agenda(given_schedule(), [], NIGHT - timedelta(seconds=40))
    assert made.actions == () and made.again == 40
    assert made.status.next_schedule_time == "2026-01-02T02:30:00Z"
    assert conditions(made) == {
        "Ready": ("True", "Scheduled"),
        "Stalled": ("False", "Scheduled"),
        "LastRestoreSucceeded": ("Unknown", "NeverRun"),
    }


def test_at_its_time_it_starts_once() -> None:
    made = agenda(given_schedule(), [], NIGHT)
    assert started(made) == [NIGHT] and said(made) == ["RestoreCreated"]
    assert made.status.last_schedule_time == "2026-01-02T02:30:00Z"
    again = agenda(given_schedule(made.status), [child(NIGHT)], NIGHT + MINUTE)
    assert again.actions == () and [a.name for a in again.status.active] == ["nightly-202601020230"]
    assert agenda(given_schedule(again.status), [], NIGHT + 2 * MINUTE).actions == ()  # somebody deleted it


def test_a_lost_status_does_not_start_it_twice() -> None:
    made = agenda(given_schedule(), [child(NIGHT)], NIGHT + MINUTE)
    assert made.actions == () and made.status.last_schedule_time == "2026-01-02T02:30:00Z"


def test_a_lost_status_does_not_lose_what_was_missed() -> None:
    """Of three nights the last one has its restore, made by a look that told the others as missed and then died."""
    third = NIGHT + timedelta(days=2)
    for suspended in (False, True):
        made = agenda(given_schedule(suspend=suspended), [child(third)], third + MINUTE)
        assert made.actions == ()
        assert made.status.last_schedule_time == "2026-01-04T02:30:00Z"
        assert made.status.last_missed_time == "2026-01-03T02:30:00Z"
    made = agenda(given_schedule(), [over(NIGHT), over(NIGHT + timedelta(days=1)), child(third)], third + MINUTE)
    assert made.status.last_missed_time is None
    now = MADE + timedelta(days=1)
    made = agenda(given_schedule(schedule="* * * * *"), [child(now)], now)
    assert made.status.last_missed_time == "2026-01-02T11:59:00Z"


class Fleeting(FakeKube):
    """A restore of the name that ours must have is there when ours is made, and gone before it can be looked at."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        if kind is RESTORES and self.times:
            self.times -= 1
            raise Conflict(409, "already there")
        return await super().create(kind, namespace, body)


@pytest.mark.parametrize(("times", "restores"), [(1, 1), (2, 0)])
def test_a_time_is_accounted_for_only_when_its_restore_is_there(times: int, restores: int) -> None:
    async def look() -> None:
        kube = Fleeting(times)
        made = await kube.create(SCHEDULES, "lms", schedule(namespace="lms"))
        now = datetime.fromisoformat(made["metadata"]["creationTimestamp"]) + timedelta(days=1, minutes=1)
        again = await ScheduleSyncer(kube, clock=lambda: now).look(ScheduleKey("lms", made["metadata"]["name"]))
        there = await kube.list(RESTORES, "lms")
        told = (await kube.get(SCHEDULES, "lms", made["metadata"]["name"]) or {})["status"]
        assert len(there) == restores
        assert ("lastScheduleTime" in told) == bool(restores)
        assert again is not None and (restores or again <= 20)

    asyncio.run(look())


def test_of_several_missed_only_the_last_is_started_and_the_others_are_told() -> None:
    made = agenda(given_schedule(), [], NIGHT + timedelta(days=3, hours=5))
    assert started(made) == [NIGHT + timedelta(days=3)] and said(made) == ["MissedSchedule", "RestoreCreated"]
    told = made.actions[0]
    assert (
        isinstance(told, Say)
        and told.message == "3 scheduled times were missed: from 2026-01-02T02:30:00Z to 2026-01-04T02:30:00Z"
    )
    assert made.status.last_missed_time == "2026-01-04T02:30:00Z"


def test_more_than_100_missed_are_told_and_the_last_is_started() -> None:
    now = MADE + timedelta(days=300)
    made = agenda(given_schedule(schedule="* * * * *"), [], now)
    assert started(made) == [now] and said(made) == ["TooManyMissedTimes", "RestoreCreated"]
    assert agenda(given_schedule(made.status, schedule="* * * * *"), [over(now)], now).actions == ()


def test_past_its_deadline_it_is_missed() -> None:
    late = given_schedule(startingDeadlineSeconds=60)
    assert started(agenda(late, [], NIGHT + timedelta(seconds=60))) == [NIGHT]
    made = agenda(late, [], NIGHT + timedelta(seconds=61))
    assert started(made) == [] and said(made) == ["MissedSchedule"]
    assert made.status.last_missed_time == "2026-01-02T02:30:00Z" and made.status.last_schedule_time is None
    assert agenda(given_schedule(made.status, startingDeadlineSeconds=60), [], NIGHT + timedelta(hours=1)).actions == ()


def test_forbid_waits_for_the_one_before_and_starts_when_it_is_over() -> None:
    before, tomorrow = child(NIGHT), NIGHT + timedelta(days=1)
    made = agenda(given_schedule(), [before], tomorrow)
    assert started(made) == [] and said(made) == ["RestoreStillActive"]
    after = agenda(given_schedule(made.status), [over(NIGHT)], tomorrow + timedelta(hours=1))
    assert started(after) == [tomorrow]
    superseded = agenda(given_schedule(made.status), [over(NIGHT)], tomorrow + timedelta(days=1))
    assert started(superseded) == [tomorrow + timedelta(days=1)] and said(superseded) == [
        "MissedSchedule",
        "RestoreCreated",
    ]


def test_forbid_looks_again_when_the_deadline_of_what_waits_passes() -> None:
    late = given_schedule(startingDeadlineSeconds=60)
    tomorrow = NIGHT + timedelta(days=1)
    made = agenda(late, [child(NIGHT)], tomorrow)
    assert made.again == 61
    assert said(agenda(late, [child(NIGHT)], tomorrow + timedelta(seconds=61))) == ["MissedSchedule"]


def test_replace_deletes_the_one_before_and_starts_when_it_is_gone() -> None:
    replacing, tomorrow = given_schedule(TOLD, concurrencyPolicy="Replace"), NIGHT + timedelta(days=1)
    before = child(NIGHT)
    made = agenda(replacing, [before], tomorrow)
    assert deleted(made) == [before.name] and started(made) == [] and said(made) == ["RestoreReplaced"]
    going = agenda(replacing, [replace(before, deleting=True)], tomorrow + MINUTE)
    assert going.actions == () and going.again == 2
    assert started(agenda(given_schedule(going.status, concurrencyPolicy="Replace"), [], tomorrow + MINUTE)) == [
        tomorrow
    ]


def test_suspended_it_starts_nothing_but_still_prunes() -> None:
    made = agenda(
        given_schedule(TOLD, suspend=True),
        [over(NIGHT - timedelta(days=n)) for n in range(5)],
        NIGHT + timedelta(days=9),
    )
    assert started(made) == [] and len(deleted(made)) == 2 and made.again is None
    assert conditions(made)["Ready"] == ("True", "Suspended") and made.status.next_schedule_time is None


def test_history_limits_take_the_oldest_of_each_kind_and_never_an_active_one() -> None:
    days = [NIGHT - timedelta(days=n) for n in range(10, 0, -1)]
    children = [over(d, succeeded=n % 2 == 0) for n, d in enumerate(days[:-1])] + [child(days[-1])]
    made = agenda(given_schedule(TOLD), children, NIGHT - MINUTE)
    kept = {c.name for c in children} - set(deleted(made))
    assert kept == {children[n].name for n in (4, 6, 8, 7, 9)}
    none = agenda(
        given_schedule(TOLD, successfulRestoresHistoryLimit=0, failedRestoresHistoryLimit=0), children, NIGHT - MINUTE
    )
    assert {c.name for c in children} - set(deleted(none)) == {children[9].name}
    assert conditions(none)["LastRestoreSucceeded"] == ("True", "Succeeded")
    later = agenda(given_schedule(none.status), [children[9]], NIGHT - MINUTE)
    assert conditions(later)["LastRestoreSucceeded"] == ("True", "Succeeded")  # it remembers what is removed
    assert none.status.last_successful_time is not None
    assert later.status.last_successful_time == none.status.last_successful_time


def test_what_no_status_tells_of_is_not_removed_before_one_does() -> None:
    untold = given_schedule(successfulRestoresHistoryLimit=0)
    made = agenda(untold, [over(NIGHT)], NIGHT + MINUTE)
    assert deleted(made) == [] and made.status.last_schedule_time == "2026-01-02T02:30:00Z"
    assert deleted(agenda(given_schedule(made.status, successfulRestoresHistoryLimit=0), [over(NIGHT)], NIGHT + MINUTE))


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"schedule": "0 0 30 2 *"}, "InvalidSchedule", "spec.schedule: '0 0 30 2 *': bad day-of-month"),
        ({"timeZone": "Mars/Olympus"}, "InvalidTimeZone", "spec.timeZone: there is no time zone 'Mars/Olympus'"),
    ],
)
def test_what_names_no_time_is_a_condition(changes: Any, reason: str, words: str) -> None:
    made = agenda(given_schedule(**changes), [], NIGHT)
    assert conditions(made)["Stalled"] == ("True", reason) and conditions(made)["Ready"] == ("False", reason)
    assert made.status.conditions[0].message.startswith(words) and started(made) == [] and made.again is None


def test_a_look_that_finds_nothing_new_says_the_same() -> None:
    first = agenda(given_schedule(), [over(NIGHT)], NIGHT + MINUTE).status
    assert agenda(given_schedule(first), [over(NIGHT)], NIGHT + timedelta(hours=3)).status == first


def _made() -> dict[str, Any]:
    body = yaml.safe_load((DATA / "input.yaml").read_text(encoding="utf-8"))
    read = DatabaseRestoreSchedule.model_validate(body)
    night = NIGHT - timedelta(hours=1)  # in Berlin
    return {
        "restore.yaml": make_restore(read, night),
        "status.yaml": agenda(read, [over(night)], night + MINUTE).status.as_json(),
    }


def test_the_restore_and_the_status_are_as_they_were() -> None:
    for name, made in _made().items():
        assert made == yaml.safe_load((DATA / name).read_text(encoding="utf-8")), name
    ClusterSpec.model_validate(_made()["restore.yaml"]["spec"])


_TIMES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_EVERY = {"*/7 * * * *": 7, "0 * * * *": 60, "* * * * *": 1}


class Schedules(RuleBasedStateMachine):
    """A schedule under a clock, a crashing operator, restores that end and people who suspend and delete.

    Counts due times by itself (whole minutes, in UTC) and holds the operator to them.
    """

    @initialize(
        expression=st.sampled_from(sorted(_EVERY)),
        policy=st.sampled_from(["Forbid", "Replace"]),
        deadline=st.sampled_from([None, 90, 1800]),
        limits=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    )
    def begin(self, expression: str, policy: str, deadline: int | None, limits: tuple[int, int]) -> None:
        self.every, self.policy, self.deadline, self.limits = _EVERY[expression], policy, deadline, limits
        self.spec = {
            "schedule": expression,
            "concurrencyPolicy": policy,
            "startingDeadlineSeconds": deadline,
            "successfulRestoresHistoryLimit": limits[0],
            "failedRestoresHistoryLimit": limits[1],
        }
        self.status, self.now, self.suspend = ScheduleStatus(), MADE, False
        self.children: list[Child] = []
        self.started: list[datetime] = []
        self.told: set[datetime] = set()
        self.looked = MADE

    def due(self, until: datetime) -> list[datetime]:
        minutes = int((until - MADE) / MINUTE)
        return [
            MADE + n * MINUTE
            for n in range(1, minutes + 1)
            if (MADE.minute + n) % 60 % self.every == 0 or self.every == 1
        ]

    @rule(seconds=st.integers(1, 400))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(minutes=st.integers(5, 400))
    def the_operator_is_away(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @rule(lost=st.booleans())
    def look(self, lost: bool) -> None:
        """`lost`: the operator dies between its actions and the status."""
        made = agenda(given_schedule(self.status, suspend=self.suspend, **self.spec), self.children, self.now)
        kept_before = list(self.children)
        for action in made.actions:
            if isinstance(action, Delete):
                gone = next(c for c in self.children if c.name == action.name)
                if gone.over:
                    self.check_prune(gone, kept_before)
                else:
                    assert self.policy == "Replace"
                self.children.remove(gone)
            elif isinstance(action, Start):
                assert not [c for c in self.children if not c.over], "two active at a time"
                self.started.append(action.scheduled)
                self.children.append(child(action.scheduled))
            else:
                self.hear(action)
        if not lost:
            self.status = made.status
            self.looked = self.now
        if made.again is not None:
            assert 0 < made.again <= 300

    def check_prune(self, gone: Child, before: list[Child]) -> None:
        alike = sorted((c for c in before if c.over and c.succeeded == gone.succeeded), key=lambda c: c.scheduled)
        limit = self.limits[0 if gone.succeeded else 1]
        assert gone in alike[: max(len(alike) - limit, 0)], "deleted within its limit"

    def hear(self, action: Say) -> None:
        times = [datetime.fromisoformat(text) for text in _TIMES.findall(action.message)]
        if action.reason == "MissedSchedule":
            self.told |= {t for t in self.due(self.now) if times[0] <= t <= times[-1]}
        elif action.reason == "TooManyMissedTimes":
            self.told |= {t for t in self.due(self.now) if times[0] <= t < times[-1]}

    @precondition(lambda self: any(not c.over for c in self.children))
    @rule(succeeded=st.booleans())
    def a_restore_ends(self, succeeded: bool) -> None:
        self.children = [
            c if c.over else replace(over(c.scheduled, succeeded=succeeded), completed=self.now) for c in self.children
        ]

    @rule()
    def somebody_suspends_or_goes_on(self) -> None:
        self.suspend = not self.suspend
        self.looked = MADE  # nobody has looked since

    @precondition(lambda self: self.children and self.status.last_schedule_time)
    @rule(data=st.data())
    def somebody_deletes_one(self, data: st.DataObject) -> None:
        known = [c for c in self.children if c.scheduled <= datetime.fromisoformat(str(self.status.last_schedule_time))]
        if known:
            self.children.remove(data.draw(st.sampled_from(known)))

    @invariant()
    def every_due_time_is_run_once_or_told_as_missed_or_waits(self) -> None:
        assert len(self.started) == len(set(self.started)), "one time was run twice"
        assert not self.told & set(self.started), "what was run is told as missed"
        if self.looked != self.now or self.suspend:
            return
        open_ = [t for t in self.due(self.now) if t not in self.told and t not in self.started]
        if any(not c.over for c in self.children):
            assert len(open_) <= 1, "of those that wait only the last one may wait"
        elif self.policy == "Replace" and open_:
            assert len(open_) == 1  # the one before is gone now: the next look starts it

    @rule()
    def at_rest_nothing_is_open(self) -> None:
        """Once nothing is active and nobody holds it, two looks settle everything."""
        self.suspend = False
        self.a_restore_ends(True)
        self.look(False)
        self.look(False)
        open_ = [t for t in self.due(self.now) if t not in self.told and t not in self.started]
        assert open_ == []


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


if __name__ == "__main__":
    for file, content in _made().items():
        (DATA / file).write_text(yaml.safe_dump(content, sort_keys=False, width=110), encoding="utf-8")
