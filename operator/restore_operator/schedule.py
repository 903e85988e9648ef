"""DatabaseRestoreSchedule -> what is due, what is to go, what is said, when to look again. Pure.

Due times are accounted for once each, as CronJob's controller does it: of several that went by only the last is started, the
others are told as missed; so is one whose startingDeadlineSeconds have passed. Under Forbid a due time waits for the restore
before it, until the next one takes its place; under Replace the restore before it goes first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from . import observed
from .api import API_VERSION, KIND, Condition, Metadata, RestoreStatus
from .cron import BadSchedule, BadTimeZone, Cron
from .observed import stamp, time_of
from .schedule_api import KIND as SCHEDULE_KIND
from .schedule_api import PER_RUN, ActiveRef, DatabaseRestoreSchedule, ScheduleStatus
from .status import Truth, is_over

Json = dict[str, Any]

SCHEDULE_LABEL = "dbrestore.io/schedule"
SCHEDULED_AT = "dbrestore.io/scheduled-at"  # annotation of a child: RFC 3339
MOST_MISSED = 100  # that are counted one by one
RESYNC = 300.0  # seconds until the next look, at most
GONE = 2.0  # seconds until it is looked whether a replaced restore is gone

# Reasons of conditions and events.
SCHEDULED = "Scheduled"
SUSPENDED = "Suspended"
INVALID_SCHEDULE = "InvalidSchedule"
INVALID_TIME_ZONE = "InvalidTimeZone"
CREATED = "RestoreCreated"
PRUNED = "RestorePruned"
REPLACED = "RestoreReplaced"
STILL_ACTIVE = "RestoreStillActive"
MISSED = "MissedSchedule"
TOO_MANY_MISSED = "TooManyMissedTimes"
NOT_CREATED = "RestoreNotCreated"
NEVER_RUN = "NeverRun"
RUNNING = "Running"
LAST_RUN = "LastRestoreSucceeded"  # the condition's type
REASONS = (
    SCHEDULED, SUSPENDED, INVALID_SCHEDULE, INVALID_TIME_ZONE, NOT_CREATED, NEVER_RUN, RUNNING, CREATED, PRUNED, REPLACED,
    STILL_ACTIVE, MISSED, TOO_MANY_MISSED,
)  # fmt: skip


@dataclass(frozen=True)
class Child:
    """A restore that this schedule made."""

    name: str
    uid: str
    scheduled: datetime
    over: bool = False
    succeeded: bool = False
    reason: str = ""
    message: str = ""
    completed: datetime | None = None
    deleting: bool = False


@dataclass(frozen=True)
class Start:
    """Make the restore of this scheduled time."""

    scheduled: datetime


@dataclass(frozen=True)
class Delete:
    name: str
    uid: str


@dataclass(frozen=True)
class Say:
    """An event."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = Start | Delete | Say


@dataclass(frozen=True)
class Agenda:
    """What is to be done, said, and in how many seconds to look again; None: only when something changes."""

    actions: tuple[Action, ...]
    status: ScheduleStatus
    again: float | None


@dataclass
class _Accounts:
    """Where the due times stand: what is started, what is missed, what waits."""

    start: datetime | None = None
    missed: datetime | None = None
    actions: list[Action] = field(default_factory=list)
    again: float | None = None


def child_of(item: Json) -> Child:
    """A restore as the API server hands it out -> the few facts that matter here."""
    meta, status = Metadata.model_validate(item["metadata"]), RestoreStatus.model_validate(item.get("status") or {})
    at = item["metadata"].get("annotations", {}).get(SCHEDULED_AT) or meta.creation_timestamp
    said, run = status.condition("Succeeded"), item["spec"].get("runID", "")
    return Child(
        name=meta.name,
        uid=meta.uid,
        scheduled=time_of(at) or datetime.fromtimestamp(0, UTC),
        over=is_over(status, run),
        succeeded=is_over(status, run) and status.phase == "Succeeded",
        reason=said.reason if said else "",
        message=status.message,
        completed=time_of(status.completion_time),
        deleting=meta.deletion_timestamp is not None,
    )


def run_id(scheduled: datetime) -> str:
    """The run of a scheduled time: 20261124T0230Z."""
    return scheduled.astimezone(UTC).strftime("%Y%m%dT%H%MZ")


def child_name(schedule: str, scheduled: datetime) -> str:
    """At most 63 characters (a schedule's name has at most 50): `nightly-202611240230`, in UTC."""
    return f"{schedule}-{scheduled.astimezone(UTC):%Y%m%d%H%M}"


def make_restore(schedule: DatabaseRestoreSchedule, scheduled: datetime) -> Json:
    """The manifest of the restore that is due."""
    meta, template = schedule.metadata, schedule.spec.template
    spec = template.spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    own = {SCHEDULE_LABEL: meta.name, **observed.OWNED}
    owner = {
        "apiVersion": API_VERSION,
        "kind": SCHEDULE_KIND,
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
        "blockOwnerDeletion": False,  # true would need a right on the schedule's finalizers
    }
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": child_name(meta.name, scheduled),
            "namespace": meta.namespace,
            "labels": dict(template.metadata.labels) | own,
            "annotations": dict(template.metadata.annotations) | {SCHEDULED_AT: stamp(scheduled)},
            "ownerReferences": [owner],
        },
        "spec": {key: value for key, value in spec.items() if key not in PER_RUN} | {"runID": run_id(scheduled)},
    }


def agenda(schedule: DatabaseRestoreSchedule, children: Iterable[Child], now: datetime) -> Agenda:
    """What a look at the schedule leads to. `children`: all that are there."""
    family = sorted(children, key=lambda child: (child.scheduled, child.name))
    status = _with_history(schedule.status, family)
    prune = _prune(schedule, family)
    try:
        cron = Cron(schedule.spec.schedule, schedule.spec.time_zone)
    except (BadSchedule, BadTimeZone) as error:
        reason = INVALID_SCHEDULE if isinstance(error, BadSchedule) else INVALID_TIME_ZONE
        where = "spec.schedule" if isinstance(error, BadSchedule) else "spec.timeZone"
        said = said_of(status, schedule, now, family, broken=(reason, f"{where}: {error}"))
        return Agenda((*prune, Say("Warning", reason, f"{where}: {error}")), said, None)
    if (lost := _missed_before(schedule, family, cron)) is not None:
        status = status.model_copy(update={"last_missed_time": stamp(lost)})
    if schedule.spec.suspend:
        return Agenda(tuple(prune), said_of(status, schedule, now, family), None)
    accounts = _account(schedule, status, family, cron, now)
    update: Json = {}
    if accounts.start is not None:
        update["last_schedule_time"] = stamp(accounts.start)
    if accounts.missed is not None:
        update["last_missed_time"] = stamp(accounts.missed)
    following = cron.next(now)
    update["next_schedule_time"] = stamp(following) if following else None
    said = said_of(status.model_copy(update=update), schedule, now, family)
    waits = [(following - now).total_seconds()] if following else []
    waits += [accounts.again] if accounts.again is not None else []
    return Agenda((*prune, *accounts.actions), said, min([RESYNC, *waits]))


def first_due(schedule: DatabaseRestoreSchedule) -> datetime | None:
    """The first scheduled time that the stored status does not account for, be it to come or past; None when none comes, or the
    schedule cannot be read."""
    try:
        cron = Cron(schedule.spec.schedule, schedule.spec.time_zone)
    except (BadSchedule, BadTimeZone):
        return None
    cursor = _accounted(schedule, schedule.status)
    return cron.next(cursor) if cursor is not None else None


def _accounted(schedule: DatabaseRestoreSchedule, status: ScheduleStatus) -> datetime | None:
    """Until when every scheduled time is run or told as missed. Before a schedule was made nothing is due."""
    told = max(filter(None, (status.last_schedule_time, status.last_missed_time)), default=None)
    return time_of(told or schedule.metadata.creation_timestamp)


def _missed_before(schedule: DatabaseRestoreSchedule, family: list[Child], cron: Cron) -> datetime | None:
    """The last time that a look told as missed when it made a restore, if its status was lost: the restore is a witness of its
    own time alone."""
    stored = _accounted(schedule, schedule.status)
    if stored is None or not family or (latest := family[-1].scheduled) <= stored:
        return None
    times = cron.between(stored, latest, MOST_MISSED)
    if len(times) > MOST_MISSED:
        return _before(latest)
    made = {child.scheduled for child in family}
    return max((time for time in times if time < latest and time not in made), default=None)


def _before(moment: datetime) -> datetime:
    """Past MOST_MISSED nobody has counted: the last one that went by is not known, only that it is before `moment`."""
    return moment - timedelta(minutes=1)


def _account(
    schedule: DatabaseRestoreSchedule, status: ScheduleStatus, family: list[Child], cron: Cron, now: datetime
) -> _Accounts:
    """Every due time that is not accounted for yet. `status`: with what the children tell of themselves."""
    spec, made = schedule.spec, _Accounts()
    due = cron.between(_accounted(schedule, status) or now, now, MOST_MISSED)
    if not due:
        return made
    *missed, last = due
    if missed:
        made.missed = missed[-1]
        if len(missed) == MOST_MISSED:
            made.missed = _before(last)
            text = (
                f"more than {MOST_MISSED} scheduled times were missed, from {stamp(missed[0])} to before {stamp(last)}"
            )
            made.actions.append(
                Say(
                    "Warning", TOO_MANY_MISSED, f"{text}: the operator was away, or the schedule suspended, for as long"
                )
            )
        else:
            many = f"{len(missed)} scheduled times were" if len(missed) > 1 else "a scheduled time was"
            made.actions.append(Say("Warning", MISSED, f"{many} missed: {_from_to(missed[0], missed[-1])}"))
    deadline = spec.starting_deadline_seconds
    if deadline is not None and now > last + timedelta(seconds=deadline):
        made.missed = last
        text = f"the restore of {stamp(last)} was not started within startingDeadlineSeconds ({deadline} s)"
        made.actions.append(Say("Warning", MISSED, text))
        return made
    active = [child for child in family if not child.over]
    if active and spec.concurrency_policy == "Forbid":
        text = f"the restore of {stamp(last)} waits: {active[-1].name} is still active, and concurrencyPolicy is Forbid"
        made.actions.append(Say("Normal", STILL_ACTIVE, text))
        if deadline is not None:
            made.again = (last + timedelta(seconds=deadline) - now).total_seconds() + 1
    elif active:
        made.again = GONE
        for child in active:
            if not child.deleting and _told(schedule, child):
                made.actions.append(Delete(child.name, child.uid))
                text = f"{child.name} makes way for the restore of {stamp(last)}"
                made.actions.append(Say("Normal", REPLACED, text))
    else:
        made.start = last
        name = child_name(schedule.metadata.name, last)
        made.actions += [
            Start(last),
            Say("Normal", CREATED, f"made {name} for {stamp(last)}"),
        ]  # told only once it is so
    return made


def _from_to(first: datetime, last: datetime) -> str:
    return stamp(first) if first == last else f"from {stamp(first)} to {stamp(last)}"


def _prune(schedule: DatabaseRestoreSchedule, family: list[Child]) -> list[Action]:
    """Finished restores beyond the limits, the oldest first."""
    actions: list[Action] = []
    for succeeded, limit in (
        (True, schedule.spec.successful_restores_history_limit),
        (False, schedule.spec.failed_restores_history_limit),
    ):
        finished = [child for child in family if child.over and child.succeeded == succeeded and not child.deleting]
        beyond = finished[: max(len(finished) - limit, 0)]
        for child in (child for child in beyond if _told(schedule, child)):
            actions.append(Delete(child.name, child.uid))
            actions.append(Say("Normal", PRUNED, f"removed {child.name}: more than {limit} of its kind are there"))
    return actions


def _told(schedule: DatabaseRestoreSchedule, child: Child) -> bool:
    """Whether the stored status knows of it. One that no status tells of is the only witness that its time was accounted for:
    it stays until the next look, which the status' own change brings."""
    last = time_of(schedule.status.last_schedule_time)
    return last is not None and child.scheduled <= last


def _with_history(status: ScheduleStatus, family: list[Child]) -> ScheduleStatus:
    """What the children tell: also of one that was made by a look whose status was lost."""
    started = [stamp(child.scheduled) for child in family] + [status.last_schedule_time or ""]
    done = [stamp(c.completed) for c in family if c.succeeded and c.completed] + [status.last_successful_time or ""]
    active = [ActiveRef(name=child.name, uid=child.uid) for child in family if not child.over][:16]
    update: Json = {
        "active": active,
        "last_schedule_time": max(started) or None,
        "last_successful_time": max(done) or None,
        "next_schedule_time": None,
    }
    return status.model_copy(update=update)


def said_of(
    status: ScheduleStatus,
    schedule: DatabaseRestoreSchedule,
    now: datetime,
    family: list[Child],
    *,
    broken: tuple[str, str] | None = None,
) -> ScheduleStatus:
    """With its conditions: Ready and Stalled as kstatus reads them, and how the last restore went."""
    ready: tuple[Truth, str, str]
    if broken:
        ready, stalled = ("False", *broken), True
    elif schedule.spec.suspend:
        ready, stalled = ("True", SUSPENDED, "nothing is started; set spec.suspend to false to go on"), False
    else:
        following = f"the next restore is due at {status.next_schedule_time}" if status.next_schedule_time else ""
        ready, stalled = ("True", SCHEDULED, following or "no restore is due any more"), False
    wanted: dict[str, tuple[Truth, str, str]] = {
        "Ready": ready,
        "Stalled": ("True" if stalled else "False", ready[1], ready[2] if stalled else ""),
        LAST_RUN: _last_run(status, family),
    }
    known = {c.type: c for c in status.conditions}
    conditions = []
    for kind, (truth, reason, text) in wanted.items():
        old = known.get(kind)
        moved = old.last_transition_time if old is not None and old.status == truth else stamp(now)
        conditions.append(
            Condition(
                type=kind,
                status=truth,
                observed_generation=schedule.metadata.generation,
                last_transition_time=moved,
                reason=reason,
                message=text,
            )
        )
    return status.model_copy(update={"observed_generation": schedule.metadata.generation, "conditions": conditions})


def _last_run(status: ScheduleStatus, family: list[Child]) -> tuple[Truth, str, str]:
    finished = [child for child in family if child.over]
    if finished:
        last = finished[-1]
        truth: Truth = "True" if last.succeeded else "False"
        return truth, last.reason or NEVER_RUN, f"{last.name}: {last.message}"[:1024]
    old = next((c for c in status.conditions if c.type == LAST_RUN), None)
    if old is not None and old.reason not in (NEVER_RUN, RUNNING):
        return old.status, old.reason, old.message  # history limits may have taken the restore itself
    return ("Unknown", RUNNING, "") if status.active else ("Unknown", NEVER_RUN, "no restore has ended yet")
