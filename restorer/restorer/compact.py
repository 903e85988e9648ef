"""The report as JSON: whole on one line, or cut to the 4,096 bytes of a termination message.

The kubelet keeps the last 4,096 bytes of the termination log, so a longer one would lose its head. `compact` cuts,
least important first, and always leaves valid JSON with the outcome and the totals. Once it has to cut, zeros and empty
fields go first: absent means zero or empty, and `msgspec.json.decode(data, type=Report)` fills them in.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .report import Report

LIMIT = 4096  # bytes of a termination message that the kubelet keeps
LONG = 400  # bytes of JSON that one text may take once there is not room for everything

Json = dict[str, Any]


def line(report: Report) -> bytes:
    """The report as one line of JSON, without a line end."""
    try:
        return msgspec.json.encode(report)
    except UnicodeEncodeError:  # a file name that is no UTF-8
        return msgspec.json.encode(_clean(msgspec.to_builtins(report)))


def compact(report: Report, limit: int = LIMIT) -> bytes:
    """The report as JSON of at most `limit` bytes (1,024 at least). Whole when it fits; else cut, in this order: texts
    over 400 bytes, passed verifications, the rejected sample's tail, warnings, tables without failure, all texts,
    tables and verifications that failed. `tablesOmitted` says how many tables are missing."""
    if limit < 1024:
        raise ValueError("a report does not fit into less than 1,024 bytes")
    if len(whole := line(report)) <= limit:
        return whole
    draft = _Draft(report, limit)
    for name, least in (
        ("verification", draft.failed_checks),
        ("rejectedSample", 1),
        ("warnings", 0),
        ("tables", draft.failed_tables),
    ):
        if draft.fits() or draft.fit(name, least):
            return draft.drawn()
    for longest in (200, 100, 50, 24):
        draft.shorten(longest)
        if draft.fits():
            return draft.drawn()
    for name in ("tables", "verification", "rejectedSample", "fallback"):
        if draft.fit(name, 0):
            break
    return draft.drawn()


class _Draft:
    """A report that is being cut: how many items of each list are kept, and how long a text may be."""

    def __init__(self, report: Report, limit: int) -> None:
        self.limit = limit
        self.omitted = report.tables_omitted
        self.full = _lean(_clean(msgspec.to_builtins(report)))
        self.full["tables"] = sorted(self.full.get("tables", []), key=_importance)
        self.failed_tables = sum(_importance(table)[0] == 0 for table in self.full["tables"])
        self.full["verification"] = sorted(self.full.get("verification", []), key=lambda check: bool(check["passed"]))
        self.failed_checks = sum(not check["passed"] for check in self.full["verification"])
        lists = ("tables", "verification", "rejectedSample", "warnings", "fallback")
        self.keep = {name: len(self.full.get(name, [])) for name in lists}
        self.shorten(LONG)

    def shorten(self, longest: int) -> None:
        self.full = _short(self.full, longest)

    def drawn(self) -> bytes:
        cut = {name: value for name, value in self.full.items() if name not in self.keep and name != "tablesOmitted"}
        cut |= {name: self.full[name][:count] for name, count in self.keep.items() if count}
        if missing := self.omitted + len(self.full["tables"]) - self.keep["tables"]:
            cut["tablesOmitted"] = missing
        return msgspec.json.encode(cut)

    def fits(self) -> bool:
        return len(self.drawn()) <= self.limit

    def fit(self, name: str, least: int) -> bool:
        """Keeps as many items of a list as fit, `least` at least; whether that was enough."""
        low, high = min(least, self.keep[name]), self.keep[name]
        while low < high:
            self.keep[name] = (low + high + 1) // 2
            if self.fits():
                low = self.keep[name]
            else:
                high = self.keep[name] - 1
        self.keep[name] = low
        return self.fits()


def _importance(table: Json) -> tuple[int, int, int]:
    """Failures first, then unfinished tables, then by rejected and conflicting records, then by size."""
    state = table.get("state")
    rank = 0 if state == "Failed" or table.get("error") else 1 if state != "Done" else 2
    return rank, -table.get("rejected", 0) - table.get("conflict", 0), -table.get("read", 0)


def _lean(report: Json) -> Json:
    """Without zeros and empty fields, but for the totals and the outcome."""
    kept = {key: value for key, value in report.items() if value or key in ("totals", "outcome")}
    for key in ("tables", "rejectedSample", "verification", "fallback"):
        if key in kept:
            kept[key] = [{k: v for k, v in row.items() if v or k == "passed"} for row in kept[key]]
    return kept


def _short(value: Any, longest: int) -> Any:
    """The value with every text cut, at a character's boundary, to `longest` bytes of JSON."""
    match value:
        case str():
            if len(msgspec.json.encode(value)) - 2 <= longest:
                return value
            room, kept = longest - 3, 0  # 3 bytes: the ellipsis
            for kept, character in enumerate(value):  # noqa: B007
                room -= len(msgspec.json.encode(character)) - 2
                if room < 0:
                    break
            return value[:kept] + "…"
        case dict():
            return {key: _short(item, longest) for key, item in value.items()}
        case list():
            return [_short(item, longest) for item in value]
    return value


def _clean(value: Any) -> Any:
    """The value with lone surrogates spelled out: they cannot be encoded."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case dict():
            return {key: _clean(item) for key, item in value.items()}
        case list():
            return [_clean(item) for item in value]
    return value
