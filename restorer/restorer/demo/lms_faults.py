"""Every way a record of the generated LMS is bad, and what a restore must make of it.

A bad record is a good one with a number of its own, so that nobody refers to it, and one thing broken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from .lms_rows import Make, Record, World

Kind = Literal[
    "wrong_type", "null_required", "unknown_enum", "check", "too_long", "impossible_date", "out_of_range",
    "missing_parent", "nul", "lone_surrogate", "broken_json", "broken_line", "unknown_column", "duplicate_same",
    "duplicate_other", "unique_other", "deep",
]  # fmt: skip
Outcome = Literal["inserted", "duplicate", "conflict", "rejected"]

# Under onConflict Skip into empty tables. `deep` is valid, only too deep for most decoders: PostgreSQL takes it.
OUTCOMES: dict[Kind, Outcome] = {
    "duplicate_same": "duplicate", "duplicate_other": "conflict", "unique_other": "conflict", "deep": "inserted",
}  # fmt: skip
DEEP = 2_000  # levels; json decoders give up past 1,000

NO_UUID = "00000000-0000-4000-8000-00000000dead"
NO_CUID = "clkhongtontai0000000000000"
NO_INT = 2_000_000_000
BAD_DATE = "2024-02-30T08:00:00.000Z"
LONG = "dài quá " * 40 + "!"


class Fault(NamedTuple):
    """`column`: the JSON key that is broken, or several with commas for `unique_other`; `value`: what is put there."""

    kind: Kind
    column: str = ""
    value: Any = None


def outcome(kind: Kind) -> Outcome:
    """What becomes of a record of this kind under onConflict Skip."""
    return OUTCOMES.get(kind, "rejected")


def bad_record(fault: Fault, make: Make, fresh: int, earlier: int, variant: int) -> bytes:
    """One bad record as bytes. `fresh`: a row number nobody else uses; `earlier`: a good row already written."""
    encode = msgspec.json.encode
    kind, column, value = fault
    if kind == "duplicate_same":
        return encode(make(earlier))
    if kind == "duplicate_other":
        return encode(make(earlier) | {column: value})
    record = make(fresh)
    if kind == "unique_other":
        taken = make(earlier)
        return encode(record | {key: taken[key] for key in column.split(",")})
    if kind == "unknown_column":
        return encode(record | {"cộtLạ": 1})
    if kind == "broken_json":
        return _broken(encode(record), variant)
    if kind == "broken_line":
        return encode(record)[: 20 + variant % 30]
    if kind == "lone_surrogate":
        record[column] = "@surrogate@"
        return encode(record).replace(b"@surrogate@", b"n\\u1eeda c\\u1eb7p \\ud83d")
    if kind == "deep":
        record[column] = "@deep@"
        return encode(record).replace(b'"@deep@"', b"[" * DEEP + b"]" * DEEP)
    record[column] = value
    return encode(record)


def _broken(record: bytes, variant: int) -> bytes:
    """JSON that no decoder takes, while brackets and quotes still say where the record ends."""
    match variant % 3:
        case 0:
            return record.replace(b'":', b'" ', 1)
        case 1:
            return record[:-1] + b',"x":tru}'
        case _:
            return record[:-1] + b",}"


def file_rows(
    w: World, make: Make, faults: tuple[Fault, ...], good: int, bad: int
) -> Iterator[list[Record] | tuple[Kind, bytes]]:
    """The file's records in order: lists of good ones, and (kind, bytes) for each bad one among them.

    Bad ones stand evenly, none among the first 20 and the last 5; the kinds take turns. Unknown columns only come in
    the middle third of a large file: what a preflight sees at a file's ends refuses the whole restore.
    """
    total, step = good + bad, (good + bad - 25) / max(bad, 1)
    turn = written = 0
    for j in range(bad + 1):
        upto = min(int(20 + (j + 0.5) * step) - j, good) if j < bad else good
        for start in range(written, upto, 256):
            yield [make(i) for i in range(start, min(start + 256, upto))]
        written = max(written, upto)
        if j == bad:
            return
        seen_early = total < 5_000 or not total / 3 < written + j < total * 2 / 3
        while faults[turn % len(faults)].kind == "unknown_column" and seen_early:
            turn += 1
        fault = faults[turn % len(faults)]
        h = w.mix(j + 1)
        earlier = written - 1 - h % min(written, 40 if h & 1 else written)  # near and far
        yield fault.kind, bad_record(fault, make, good + j, earlier, turn // len(faults))
        turn += 1
