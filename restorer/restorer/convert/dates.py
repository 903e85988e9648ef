"""Dates and times: which spellings may go to PostgreSQL as they stand, and what becomes of the others.

PostgreSQL reads ISO 8601 with a four-digit year itself (Date/Time Types, "Date/Time Input"), but it drops the offset
of a value for `timestamp`, `date` and `time` without a word. Here one instant is one value however it is spelled: an
offset is converted to UTC for the types without a zone, and handed over for those with one. Sessions run at UTC, so a
`timestamptz` without an offset is UTC. JavaScript's expanded years (`+012345-…`, `-000044-…`, where year 0 is 1 BC)
are respelled. Whatever is not ISO 8601 (`01/02/2024`, `now`, `epoch`) is refused rather than guessed at; numbers too,
because seconds and milliseconds look alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from restorer.convert.field import Text, Unfit, mismatch, string

# A day that exists in the Gregorian calendar, the leap day only in years that are surely leap years.
_DAY = (
    r"(?!0000)[0-9]{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31"
    r"|(?<=[02468][048]-|[13579][26]-)02-29(?<![0-9]00-02-29))"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_ANY_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_ANY_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
_OFFSET = r"(?:Z|[+-][0-9]{2}:?[0-9]{2})"

#: Raw JSON strings that PostgreSQL reads as they are meant, right or wrong day: enough for the verbatim way.
LOOSE = {
    "date": rf'"{_ANY_DAY}(?:T{_CLOCK}Z)?"',  # PostgreSQL's date leaves 24:00:00 in the day that it ends
    "timestamp": rf'"{_ANY_DAY}[T ]{_ANY_CLOCK}Z?"',
    "timestamptz": rf'"{_ANY_DAY}[T ]{_ANY_CLOCK}{_OFFSET}"',
    "time": rf'"{_ANY_CLOCK}"',
    "timetz": rf'"{_ANY_CLOCK}{_OFFSET}"',
}
#: Raw JSON strings that are surely a value of the type.
SURE = {
    "date": rf'"{_DAY}(?:T{_CLOCK}Z)?"',
    "timestamp": rf'"{_DAY}[T ]{_CLOCK}Z?"',
    "timestamptz": rf'"{_DAY}[T ]{_CLOCK}(?:Z|[+-](?:0[0-9]|1[0-4]):?[0-5][0-9])"',
    "time": rf'"{_CLOCK}"',
    "timetz": rf'"{_CLOCK}(?:Z|[+-](?:0[0-9]|1[0-4]):?[0-5][0-9])"',
}

_TIME = (
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?P<fraction>\.[0-9]+)?)?"
    r" ?(?P<zone>Z|[+-][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2})?)?)?"
)
_ISO = re.compile(
    rf"(?P<year>[+-][0-9]{{6}}|[0-9]{{4,6}})-(?P<month>[0-9]{{2}})-(?P<day>[0-9]{{2}})(?:[T ]{_TIME}|Z)?(?P<era> BC)?"
)
_ISO_TIME = re.compile(rf"T?{_TIME}")
_INFINITY = ("infinity", "-infinity")
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# PostgreSQL ends at 294276 AD for timestamps, 5874897 AD for dates, and begins in 4714 BC (astronomical -4713).
_LAST_YEAR = {"date": 999_999, "timestamp": 294_276, "timestamptz": 294_276}
_FIRST_YEAR = -4713
_DAY_SECONDS = 86_400


def date_text(type_name: str) -> Text:
    """The converter for date, timestamp, timestamptz, time or timetz."""
    read: Callable[[str, str], str] = _time if type_name in ("time", "timetz") else _calendar

    def convert(raw: bytes) -> str:
        if raw[0] != 0x22:
            raise mismatch(raw, type_name)
        return read(string(raw), type_name)

    return convert


def _calendar(text: str, type_name: str) -> str:
    match = _ISO.fullmatch(text)
    if match is None:
        if text.lower() in _INFINITY:
            return text
        raise Unfit("InvalidDate", "22007", f"not an ISO 8601 {type_name}")
    year, month, day = _year(match, type_name), int(match["month"]), int(match["day"])
    if not (1 <= month <= 12 and 1 <= day <= _days(year, month)):
        raise _no_such(type_name)
    if not _FIRST_YEAR <= year <= _LAST_YEAR[type_name]:
        raise _no_such(type_name)
    seconds = _seconds(match, type_name) if match["hour"] else 0
    offset = _offset(match, type_name)
    if type_name == "timestamptz":
        # PostgreSQL applies the offset itself; only the year may need another spelling.
        return (
            text if match["year"][0] not in "+-" and year > 0 else _spell(year, month, day, match, match["zone"] or "")
        )
    if offset or (type_name == "date" and match["hour"]):
        seconds, fraction = _rounded(seconds, match)
        shifted = _day_number(year, month, day) * _DAY_SECONDS + seconds - offset
        year, month, day = _civil(shifted // _DAY_SECONDS)
        return _date(year, month, day, "" if type_name == "date" else f" {_clock(shifted)}{fraction}")
    if match["year"][0] not in "+-" and year > 0:
        return text
    return _spell(year, month, day, match, "")


def _time(text: str, type_name: str) -> str:
    match = _ISO_TIME.fullmatch(text) or _ISO.fullmatch(text)
    if match is None or not match["hour"]:
        raise Unfit("InvalidDate", "22007", f"not an ISO 8601 {type_name}")
    seconds, offset = _seconds(match, type_name), _offset(match, type_name)
    if "year" in match.re.groupindex:
        year, month, day = _year(match, type_name), int(match["month"]), int(match["day"])
        if not (1 <= month <= 12 and 1 <= day <= _days(year, month)):
            raise _no_such(type_name)
        seconds, fraction = _rounded(seconds, match)
    else:
        fraction = match["fraction"] or ""
    if offset and type_name == "time":
        seconds -= offset
    elif "year" not in match.re.groupindex:  # a bare 24:00:00 or second of 60 is PostgreSQL's to read
        zone = match["zone"] or "Z" if type_name == "timetz" else ""
        return f"{match['hour']}:{match['minute']}:{match['second'] or '00'}{fraction}{zone}"
    return _clock(seconds) + fraction + (match["zone"] or "Z" if type_name == "timetz" else "")


def _year(match: re.Match[str], type_name: str) -> int:
    """The astronomical year: 0 is 1 BC (ISO 8601, ECMAScript "Expanded Years")."""
    year = int(match["year"])
    if match["year"] == "-000000":
        raise _no_such(type_name)
    if match["era"]:
        if year < 1:
            raise _no_such(type_name)
        return 1 - year
    return year


def _seconds(match: re.Match[str], type_name: str) -> int:
    """Seconds since midnight. PostgreSQL takes 24:00:00 and a second of 60; so does this."""
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    total = hour * 3600 + minute * 60 + second
    fraction = bool((match["fraction"] or "").strip(".0"))
    if minute > 59 or second > 60 or (second == 60 and fraction) or total + fraction > _DAY_SECONDS:
        raise _no_such(type_name)
    return total


def _offset(match: re.Match[str], type_name: str) -> int:
    """The zone's seconds east of UTC; 0 where there is none. PostgreSQL takes less than 16 hours."""
    zone = match["zone"]
    if zone is None or zone == "Z":
        return 0
    digits = zone[1:].replace(":", "").ljust(6, "0")
    hours, minutes, seconds = int(digits[:2]), int(digits[2:4]), int(digits[4:])
    if hours > 15 or minutes > 59 or seconds > 59:
        raise _no_such(type_name)
    total = hours * 3600 + minutes * 60 + seconds
    return -total if zone[0] == "-" else total


def _spell(year: int, month: int, day: int, match: re.Match[str], zone: str) -> str:
    if not match["hour"]:
        return _date(year, month, day, zone)
    clock = f" {match['hour']}:{match['minute']}:{match['second'] or '00'}{match['fraction'] or ''}"
    return _date(year, month, day, clock + zone)


def _date(year: int, month: int, day: int, rest: str) -> str:
    """The day as PostgreSQL spells it, `rest` between it and the era."""
    return f"{year:04d}-{month:02d}-{day:02d}{rest}" if year > 0 else f"{1 - year:04d}-{month:02d}-{day:02d}{rest} BC"


def _rounded(seconds: int, match: re.Match[str]) -> tuple[int, str]:
    """Seconds and fraction with at most six digits, rounded as a timestamp is: .9999999 is the next second."""
    fraction = match["fraction"] or ""
    if len(fraction) <= 7:
        return seconds, fraction
    text = f"{float(fraction):.6f}"
    return seconds + int(text[0]), text[1:]


def _clock(seconds: int) -> str:
    """The time of the day, of any number of seconds since some midnight."""
    seconds %= _DAY_SECONDS
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _days(year: int, month: int) -> int:
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return _DAYS[month - 1] + leap


def _day_number(year: int, month: int, day: int) -> int:
    """Days since 0000-03-01 of the proleptic Gregorian calendar, any year (H. Hinnant, "chrono-Compatible Low-Level
    Date Algorithms"); Python's own dates end at year 9999 and know no BC."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year


def _civil(number: int) -> tuple[int, int, int]:
    """The inverse of _day_number: (astronomical year, month, day)."""
    era, day_of_era = divmod(number, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return era * 400 + year_of_era + (month <= 2), month, day_of_year - (153 * shifted + 2) // 5 + 1


def _no_such(type_name: str) -> Unfit:
    return Unfit("InvalidDate", "22008", f"a {type_name} that no calendar or clock has")
