"""A cron expression in a time zone -> the moments it names. Pure; cronsim does the counting.

As Debian's cron around a change of the clock: a fixed time that a gap swallows (02:30 when 02:00 becomes 03:00) comes at the first
minute after it, one that an overlap has twice comes once, the first time; where minute or hour is a `*`, what counts is real
time: nothing comes in a gap, and everything comes twice in an overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# Where the last moment before `now` is looked for, when there are too many to count: ever further back.
_WINDOWS = (timedelta(hours=2), timedelta(days=3), timedelta(days=70), timedelta(days=800))


class BadSchedule(ValueError):
    """The expression names no moment; the message says why."""


class BadTimeZone(ValueError):
    """There is no time zone of that name; the message names it."""


class Cron:
    """`Cron("30 2 * * *", "Europe/Berlin")`. Raises BadSchedule, BadTimeZone."""

    def __init__(self, expression: str, zone: str = "UTC") -> None:
        try:
            self._zone = ZoneInfo(zone)
        except (KeyError, ValueError, OSError):  # not there; no name at all; a folder of the database
            raise BadTimeZone(
                f"there is no time zone {zone!r}: give one of the tz database, as Europe/Berlin"
            ) from None
        self._expression = MACROS.get(expression.strip().lower(), expression)
        if len(self._expression.split()) != 5:
            raise BadSchedule(f"{expression!r} has not five fields: minute, hour, day of month, month, day of week")
        try:
            next(CronSim(self._expression, datetime(2000, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise BadSchedule(f"{expression!r}: {str(error)[:1].lower()}{str(error)[1:]}") from None
        except (StopIteration, RuntimeError, ValueError):
            raise BadSchedule(f"{expression!r} names a day that never comes") from None

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Every moment after this one, in UTC, strictly ascending; ends when none comes in 50 years."""
        last = moment
        for found in CronSim(self._expression, moment.astimezone(self._zone)):
            when = found.astimezone(UTC)
            # In an overlap cronsim counts on from the wall clock's time, which was there before; in a gap times fall together.
            if when > last:
                last = when
                yield when

    def next(self, moment: datetime) -> datetime | None:
        """The first moment after this one."""
        return next(self.after(moment), None)

    def between(self, after: datetime, until: datetime, most: int) -> list[datetime]:
        """Those after `after` and not after `until`. More than `most` of them: the first `most`, and the very last."""
        found: list[datetime] = []
        for moment in self.after(after):
            if moment > until:
                return found
            if len(found) == most:
                return [*found, self._last(moment, until)]
            found.append(moment)
        return found

    def _last(self, known: datetime, until: datetime) -> datetime:
        """The last moment not after `until`; `known` is one of them."""
        for window in _WINDOWS:
            if until - window <= known:
                break
            if found := self._until(until - window, until):
                return found
        return self._until(known, until) or known

    def _until(self, after: datetime, until: datetime) -> datetime | None:
        last = None
        for moment in self.after(after):
            if moment > until:
                break
            last = moment
        return last
