"""What the operator's port says of schedules: out of their statuses, so that it is there again after a restart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from restorer.watch.families import Family

from .families import (
    OF_SCHEDULES,
    SCHEDULE_ACTIVE,
    SCHEDULE_INFO,
    SCHEDULE_LAST,
    SCHEDULE_MISSED,
    SCHEDULE_NEXT,
    SCHEDULE_READY,
    SCHEDULE_SUCCESS,
    SCHEDULE_SUSPENDED,
)
from .observed import time_of
from .queue import ScheduleKey
from .schedule import first_due
from .schedule_api import DatabaseRestoreSchedule


@dataclass(frozen=True)
class _Seen:
    """What is kept of a schedule."""

    labels: tuple[str, str, str]
    values: tuple[tuple[Family, float], ...]


class Schedules(Collector):
    """The schedules that are there, as their statuses were last seen."""

    def __init__(self) -> None:
        self._seen: dict[ScheduleKey, _Seen] = {}

    def see(self, schedule: DatabaseRestoreSchedule) -> None:
        spec, status = schedule.spec, schedule.status
        ready = next((c.status for c in status.conditions if c.type == "Ready"), None)
        due = None if spec.suspend else first_due(schedule)
        values = (
            (SCHEDULE_SUSPENDED, float(spec.suspend)),
            (SCHEDULE_READY, None if ready is None else float(ready == "True")),
            (SCHEDULE_ACTIVE, float(len(status.active))),
            (SCHEDULE_LAST, _seconds(status.last_schedule_time)),
            (SCHEDULE_SUCCESS, _seconds(status.last_successful_time)),
            (SCHEDULE_MISSED, _seconds(status.last_missed_time)),
            (SCHEDULE_NEXT, due.timestamp() if due else None),
        )
        self._seen[ScheduleKey(schedule.metadata.namespace, schedule.metadata.name)] = _Seen(
            (spec.schedule, spec.time_zone, spec.concurrency_policy),
            tuple((family, value) for family, value in values if value is not None),
        )

    def forget(self, key: ScheduleKey) -> None:
        self._seen.pop(key, None)

    def collect(self) -> Iterable[Metric]:
        made = {family: family.gauge() for family in OF_SCHEDULES}
        for key, seen in self._seen.items():
            who = (key.namespace, key.name)
            made[SCHEDULE_INFO].add_metric([*who, *seen.labels], 1)
            for family, value in seen.values:
                made[family].add_metric(who, value)
        return made.values()


def _seconds(moment: str | None) -> float | None:
    found = time_of(moment)
    return found.timestamp() if found else None
