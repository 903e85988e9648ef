"""Figures as a person reads them."""

from __future__ import annotations


def number(value: int) -> str:
    """`1,234,567`."""
    return f"{value:,}"


def size(octets: int) -> str:
    """`412 MB`, in decimal units, three digits at least."""
    if octets < 1000:
        return f"{octets} B"
    amount = float(octets)
    for unit in ("kB", "MB", "GB", "TB"):
        amount /= 1000
        if amount < 999.5 or unit == "TB":
            return f"{amount:.1f} {unit}" if amount < 99.95 else f"{amount:,.0f} {unit}"
    raise AssertionError("not reached")


def duration(seconds: int) -> str:
    """`0:41`, `12:05`, `3:12:05`, `2d 3:12:05`."""
    minutes, rest = divmod(max(seconds, 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02}:{rest:02}" if hours or days else f"{minutes}:{rest:02}"
    return f"{days}d {clock}" if days else clock


def spoken(seconds: int) -> str:
    """`<1 s`, `41 s`, then as `duration`."""
    return duration(seconds) if seconds >= 60 else f"{seconds} s" if seconds > 0 else "<1 s"


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 table`, `24 tables`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
