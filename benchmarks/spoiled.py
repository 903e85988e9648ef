"""Bad records for the flat table: one in a hundred, of every kind in turn."""

from __future__ import annotations

import re
from collections import Counter

EVERY = 100  # one record of so many is bad
CHECK = "ALTER TABLE flat ADD CHECK (score >= 0)"  # without it no record could violate one

# kind -> (what to look for in a good record, what stands there instead); all of them are to be rejected
_REJECTED: dict[str, tuple[bytes, bytes]] = {
    "wrong type": (rb'"score":[0-9.]+', rb'"score":"high"'),
    "null": (rb'"full_name":"[^"]*"', rb'"full_name":null'),
    "too long": (rb'"email":"', rb'"email":"' + b"x" * 120),
    "bad date": (rb'"created_at":"2024-', rb'"created_at":"2024-13-'),
    "bad uuid": (rb'"public_id":"', rb'"public_id":"?'),
    "out of range": (rb'"balance":"', rb'"balance":"99999999999'),
    "check violated": (rb'"score":', rb'"score":-1'),
    "missing key": (rb'"email":"[^"]*",', b""),
    "unknown key": (rb'"active":', rb'"secret":1,"active":'),
    "NUL character": (rb'"body":"', rb'"body":"\\u0000'),
    "half a surrogate pair": (rb'"body":"', rb'"body":"\\ud800'),
}
KINDS = (*_REJECTED, "duplicate", "conflict")


class Spoiler:
    """Spoils records as they are written. `expected`: the counters a restore must report under onConflict Skip."""

    def __init__(self) -> None:
        self.expected: Counter[str] = Counter()
        self._last = b""

    def __call__(self, position: int, record: bytes) -> bytes:
        """What is to be written for the good record at `position` (from 0, one after the other)."""
        last, self._last = self._last, record
        self.expected["read"] += 1
        if position % EVERY != EVERY - 1:
            self.expected["inserted"] += 1
            return record
        kind = KINDS[position // EVERY % len(KINDS)]
        if kind == "duplicate":
            self.expected["duplicate"] += 1
            return last
        if kind == "conflict":
            self.expected["conflict"] += 1
            return last.replace(b'"balance":"', b'"balance":"1')
        self.expected["rejected"] += 1
        spoiled, times = re.subn(*_REJECTED[kind], record, count=1)
        assert times == 1, kind
        return spoiled
