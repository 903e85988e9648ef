"""The report as JSON: whole on one line, or cut to the 4,096 bytes of a termination message.

The kubelet keeps the last 4,096 bytes of the termination log, so a longer one would lose its head. `compact` cuts,
least important first, and always leaves valid JSON with the outcome and the totals. Once it has to cut, zeros and empty
fields go first: absent means zero or empty, and `msgspec.json.decode(data, type=Report)` fills them in.
"""

from __future__ import annotations

from typing import Any

import msgspec

from restorer.report import Check, FallbackLevel, RejectSample, Report, TableReport

LIMIT = 4096  # bytes of a termination message that the kubelet keeps
LONG = 400  # bytes of JSON that one text may take once there is not room for everything

Json = dict[str, Any]
_ROWS: dict[str, type[msgspec.Struct]] = {
    "tables": TableReport,
    "rejectedSample": RejectSample,
    "verification": Check,
    "fallback": FallbackLevel,
}


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
        self.full["tables"] = sorted(self.full["tables"], key=_importance)
        self.failed_tables = sum(_importance(table)[0] == 0 for table in self.full["tables"])
        self.full["verification"] = sorted(self.full["verification"], key=lambda check: bool(check["passed"]))
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
    """Without zeros and empty fields, but for the totals, the outcome, and what every row must have."""
    kept = {key: value for key, value in report.items() if value or key in ("run", "totals", "outcome")}
    for key, row_type in _ROWS.items():
        must = {field.encode_name for field in msgspec.structs.fields(row_type) if field.required}
        kept[key] = [{k: v for k, v in row.items() if v or k in must} for row in kept.get(key, [])]
    return kept


def _short(value: Any, longest: int) -> Any:
    """The value with every text cut, at a character's boundary, to `longest` bytes of JSON."""
    match value:
        case str():
            if len(msgspec.json.encode(value)) - 2 <= longest:
                return value
            low, high = 0, longest  # characters that surely fit, that may
            while low < high:
                middle = (low + high + 1) // 2
                if len(msgspec.json.encode(value[:middle])) - 2 <= longest - 3:  # 3 bytes: the ellipsis
                    low = middle
                else:
                    high = middle - 1
            return value[:low] + "…"
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
