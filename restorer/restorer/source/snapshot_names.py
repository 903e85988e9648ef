"""The time that a snapshot folder's name tells."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_NAME = re.compile(
    r"(?:[A-Za-z][A-Za-z]*[-_.])?"  # backup-, snapshot_, dump.
    r"(\d{4})[-_.]?(\d{2})[-_.]?(\d{2})"
    r"(?:[T _.-]?(\d{2})[-:_.]?(\d{2})(?:[-:_.]?(\d{2})(?:[.,](\d{1,9}))?)?)?"
    r"(?:Z|([+-])(\d{2})[-:]?(\d{2}))?"
)


def snapshot_time(name: str) -> datetime | None:
    """`20241219_103045`, `20241219103045`, `2024-12-19`, `2024-12-19T10-30-45Z`, … -> that time; UTC unless it says
    otherwise. None for any other name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, off_hour, off_minute = match.groups()
    try:
        time = datetime(
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0").ljust(6, "0")[:6]),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    if sign:
        offset = (int(off_hour) * 60 + int(off_minute)) * (1 if sign == "+" else -1)
        return datetime.fromtimestamp(time.timestamp() - offset * 60, UTC)
    return time
