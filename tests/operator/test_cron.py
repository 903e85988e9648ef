"""When a cron expression comes: plain days, changes of the clock, and what names no moment at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from restore_operator.cron import BadSchedule, BadTimeZone, Cron

BERLIN, LORD_HOWE, NEW_YORK = "Europe/Berlin", "Australia/Lord_Howe", "America/New_York"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def coming(expression: str, zone: str, after: str, count: int) -> list[str]:
    return [f"{moment:%m-%d %H:%M}" for moment in islice(Cron(expression, zone).after(at(after)), count)]


# In UTC. Berlin: 2026-03-29 02:00 becomes 03:00 (01:00 UTC); 2026-10-25 03:00 becomes 02:00 (01:00 UTC).
CASES = [
    ("every night", "30 2 * * *", "UTC", "2026-01-01", ["01-01 02:30", "01-02 02:30"]),
    ("every night in winter and summer", "0 12 * * *", BERLIN, "2026-03-28", ["03-28 11:00", "03-29 10:00"]),
    ("a night that the gap swallows comes right after it", "30 2 * * *", BERLIN, "2026-03-28T12:00", ["03-29 01:00", "03-30 00:30"]),
    ("several in the gap come once", "0,30 2 * * *", BERLIN, "2026-03-28T12:00", ["03-29 01:00", "03-30 00:00"]),
    ("a night that the overlap has twice comes once", "30 2 * * *", BERLIN, "2026-10-24T12:00", ["10-25 00:30", "10-26 01:30"]),
    ("asked within the overlap's second half", "45 2 * * *", BERLIN, "2026-10-25T01:20", ["10-26 01:45"]),
    ("every half hour is real time in a gap", "*/30 * * * *", BERLIN, "2026-03-29T00:15", ["03-29 00:30", "03-29 01:00", "03-29 01:30"]),
    ("every half hour is real time in an overlap", "*/30 * * * *", BERLIN, "2026-10-25T00:15", ["10-25 00:30", "10-25 01:00", "10-25 01:30"]),
    ("a change of half an hour", "15 2 * * *", LORD_HOWE, "2026-10-03T12:00", ["10-03 15:30", "10-04 15:15"]),
    ("first of the month", "@monthly", "UTC", "2026-01-31", ["02-01 00:00", "03-01 00:00"]),
    ("a weekday by name", "0 3 * * sun", NEW_YORK, "2026-07-01", ["07-05 07:00", "07-12 07:00"]),
    ("the 29th of February", "0 0 29 2 *", "UTC", "2026-01-01", ["02-29 00:00", "02-29 00:00"]),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "zone", "after", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_when_it_comes(expression: str, zone: str, after: str, expected: list[str]) -> None:
    assert coming(expression, zone, after, len(expected)) == expected


@pytest.mark.parametrize(
    "expression", ["", "* * * *", "0 0 * * * *", "60 * * * *", "5-2 * * * *", "0 0 30 2 *", "0 0 31 4,6 *", "x y z a b", "0 0 1 foo *", "@reboot"]
)  # fmt: skip
def test_an_expression_that_names_no_moment_is_refused_by_name(expression: str) -> None:
    with pytest.raises(BadSchedule, match=r"^'.*[a-z]$"):
        Cron(expression)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "Europe", "../etc/passwd", "/etc/localtime"])
def test_a_zone_that_is_none_is_refused_by_name(zone: str) -> None:
    with pytest.raises(BadTimeZone, match="tz database"):
        Cron("0 0 * * *", zone)


def _local(day: datetime, hour: int, minute: int, zone: ZoneInfo) -> datetime:
    """What the clock on the wall means: the first time it shows it, or where a gap swallows it, the first minute after."""
    wall = day.replace(hour=hour, minute=minute, second=0, tzinfo=None)
    while True:
        moment = wall.replace(tzinfo=zone, fold=0)
        if moment.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == wall:
            return moment.astimezone(UTC)
        wall += timedelta(minutes=1)


_zones = st.sampled_from(
    [BERLIN, LORD_HOWE, NEW_YORK, "UTC", "Asia/Kathmandu", "America/Santiago", "Africa/Casablanca"]
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 23), st.integers(0, 59), _zones, st.integers(0, 700), st.integers(0, 86_399))
def test_a_fixed_time_comes_once_a_day_whatever_the_clock_does(
    hour: int, minute: int, zone: str, day: int, second: int
) -> None:
    start = at("2025-01-01") + timedelta(days=day, seconds=second)
    found = list(islice(Cron(f"{minute} {hour} * * *", zone).after(start), 5))
    first = start.astimezone(ZoneInfo(zone)).replace(tzinfo=None) - timedelta(days=1)
    expected = [_local(first + timedelta(days=n), hour, minute, ZoneInfo(zone)) for n in range(9)]
    assert found == [moment for moment in expected if moment > start][:5]


_expressions = st.sampled_from(
    ["* * * * *", "*/7 * * * *", "30 2 * * *", "0 */5 * * *", "15,45 1-3 * * *", "0 0 * * 1", "@yearly", "0 0 29 2 *"]
)


@settings(max_examples=100, deadline=None)
@given(_expressions, _zones, st.integers(0, 500 * 1440), st.integers(0, 30 * 1440), st.integers(1, 20))
def test_the_last_of_too_many_is_the_last(expression: str, zone: str, start: int, length: int, most: int) -> None:
    cron, after = Cron(expression, zone), at("2025-01-01") + timedelta(minutes=start)
    until = after + timedelta(minutes=length)
    everything = cron.between(after, until, 100_000)
    found = cron.between(after, until, most)
    assert found == (everything if len(everything) <= most else [*everything[:most], everything[-1]])


def test_a_year_of_minutes_is_not_counted_one_by_one() -> None:
    cron = Cron("* * * * *")
    found = cron.between(at("2025-01-01"), at("2026-01-01"), 100)
    assert len(found) == 101 and found[-1] == at("2026-01-01")
