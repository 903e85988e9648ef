"""One look at one schedule: read it and its restores, decide, act, write the status if it differs.

As with restores everything is read live and actions come before the status. A restore's name is made of its time: one that a look
made whose status was lost is found again, never made twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime

import pydantic
import structlog

from . import observed, reasons, schedule, status
from .api import Condition, Metadata
from .events import make_event
from .kube import EVENTS, RESTORES, SCHEDULES, Conflict, Json, KubeApi, KubeError, Refused
from .queue import ScheduleKey
from .schedule import Agenda, Delete, Say, Start
from .schedule_api import KIND, DatabaseRestoreSchedule, ScheduleStatus

log = structlog.get_logger()

TRIES = 2  # to make a restore whose name is taken by one that is gone a moment later
RETRY_REFUSED = 20.0  # seconds until a restore that was not admitted is tried again


class ScheduleSyncer:
    """`await syncer.look(key)` -> seconds until the next look; None: only when something changes. `gone` is told of a schedule
    that is not there: the event of its end may be lost."""

    def __init__(
        self,
        kube: KubeApi,
        *,
        gone: Callable[[ScheduleKey], None] = lambda key: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube, self._gone, self._clock = kube, gone, clock

    async def look(self, key: ScheduleKey) -> float | None:
        body = await self._kube.get(SCHEDULES, key.namespace, key.name)
        if body is None:
            self._gone(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            return None  # its restores go by their owner reference
        try:
            found = DatabaseRestoreSchedule.model_validate(body)
        except pydantic.ValidationError as error:
            await self._unreadable(body, error)
            return None
        labels = f"{schedule.SCHEDULE_LABEL}={key.name}"
        items = await self._kube.list(RESTORES, key.namespace, labels=labels)
        children = [schedule.child_of(item) for item in observed.owned_by(items, found.metadata.uid)]
        made = await self._act(found, schedule.agenda(found, children, self._clock()))
        stored = await self._write(body, made.status)
        if not stored:
            return 0.0
        again = made.again
        if again is not None and again >= schedule.RESYNC:
            return again * random.uniform(0.5, 1.0)  # spread, and never past what is due
        return again

    async def _act(self, found: DatabaseRestoreSchedule, made: Agenda) -> Agenda:
        meta = found.metadata
        for action in made.actions:
            match action:
                case Delete(name, uid):
                    await self._kube.delete(RESTORES, meta.namespace, name, uid)
                case Say():
                    await self._say(meta, action)
                case Start(scheduled):
                    try:
                        await self._start(found, scheduled)
                    except (Refused, Foreign) as error:
                        return await self._not_created(found, made, error)
        return made

    async def _start(self, found: DatabaseRestoreSchedule, scheduled: datetime) -> None:
        """Raises Refused when the API server does not take it, Foreign when its name is taken."""
        manifest = schedule.make_restore(found, scheduled)
        name, space = manifest["metadata"]["name"], found.metadata.namespace
        for _ in range(TRIES):
            try:
                await self._kube.create(RESTORES, space, manifest)
                return
            except Conflict:
                there = await self._kube.get(RESTORES, space, name)
            if there is not None:
                if observed.owned_by([there], found.metadata.uid):
                    return  # by a look whose status was lost
                raise Foreign(409, f"a restore {name} is there that is not this schedule's: delete it")
        raise Foreign(409, f"a restore {name} that is not this schedule's comes and goes: find out who makes it")

    async def _not_created(self, found: DatabaseRestoreSchedule, made: Agenda, error: KubeError) -> Agenda:
        """The due time stays due: it is tried again until it succeeds, the next one comes, or its deadline passes."""
        message = f"the restore cannot be made: {error.message}"[:1024]
        await self._say(found.metadata, Say("Warning", schedule.NOT_CREATED, message))
        before = {"last_schedule_time": found.status.last_schedule_time}
        said = _stuck(made.status.model_copy(update=before), found.metadata, schedule.NOT_CREATED, message, self._now())
        return Agenda((), said, min(RETRY_REFUSED, made.again or RETRY_REFUSED))

    async def _say(self, meta: Metadata, what: Say) -> None:
        event = make_event(KIND, meta, "", what.kind, what.reason, what.message, self._now())
        try:
            await self._kube.create(EVENTS, meta.namespace, event)
        except (Conflict, Refused):
            pass  # said already; or the namespace is going away

    async def _write(self, body: Json, wanted: ScheduleStatus) -> bool:
        """-> whether the schedule is still as it was read, or gone; else it is to be looked at again."""
        patch = status.merge_patch(body.get("status") or {}, wanted.as_json())
        if not patch:
            return True
        meta = body["metadata"]
        guarded = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": patch}
        try:
            await self._kube.patch(SCHEDULES, meta["namespace"], meta["name"], guarded, sub="status")
        except Conflict:
            return False
        return True

    async def _unreadable(self, body: Json, error: pydantic.ValidationError) -> None:
        """A spec that the API server took and this operator cannot read: a CRD of another version."""
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        message = f"{'; '.join(problems)[:900]}: mend the spec, or bring CRD and operator to the same version"
        old = ScheduleStatus.model_validate(body.get("status") or {})
        meta = Metadata.model_validate(body["metadata"])
        await self._write(body, _stuck(old, meta, reasons.VALIDATION_FAILED, message, self._now()))

    def _now(self) -> str:
        return observed.stamp(self._clock())


class Foreign(KubeError):
    """A restore of the name that ours must have, which is not ours."""


def _stuck(said: ScheduleStatus, meta: Metadata, reason: str, message: str, now: str) -> ScheduleStatus:
    """Ready=False and Stalled=True, for what the schedule itself does not show."""
    known = {c.type: c for c in said.conditions}
    for kind, truth in (("Ready", "False"), ("Stalled", "True")):
        old = known.get(kind)
        known[kind] = Condition.model_validate(
            {
                "type": kind,
                "status": truth,
                "observedGeneration": meta.generation,
                "lastTransitionTime": old.last_transition_time if old is not None and old.status == truth else now,
                "reason": reason,
                "message": message,
            }
        )
    return said.model_copy(update={"conditions": list(known.values()), "observed_generation": meta.generation})
