"""Which table a file means and which column a key means. Pure.

In this order: the spec's `mappings` (a person said so), the exact name, `@@map`/`@map` of a schema.prisma beside the
backup, and last the same name in another case (createdAt = created_at), if that leaves exactly one candidate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

_MODEL = re.compile(r"^\s*model\s+(\w+)\s*\{(.*?)^\s*\}", re.M | re.S)
_FIELD = re.compile(r'^\s*(\w+)\s+\S+.*?(?<!@)@map\("((?:[^"\\]|\\.)*)"\)', re.M)
_TABLE_MAP = re.compile(r'^\s*@@map\("((?:[^"\\]|\\.)*)"\)', re.M)


class PrismaModel(msgspec.Struct, frozen=True):
    """`table`: the name in the database; `columns`: field name -> column name, only where they differ."""

    name: str
    table: str
    columns: dict[str, str]


def parse_prisma(text: str) -> dict[str, PrismaModel]:
    """The models of a schema.prisma by name. Comments are passed over; anything not understood is left out."""
    text = re.sub(r"(?m)^\s*//.*$", "", text)
    models = {}
    for name, body in _MODEL.findall(text):
        table = _TABLE_MAP.search(body)
        models[name] = PrismaModel(name, table[1] if table else name, dict(_FIELD.findall(body)))
    return models


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def match(name: str, candidates: Iterable[str], *explicit: str | None) -> str | None:
    """The candidate that `name` means. `explicit`: what a mapping or a Prisma model says, strongest first; one that
    names no candidate is an answer too: it is returned as it is, so that the caller can refuse it by its name."""
    known = set(candidates)
    mapping, prisma = (*explicit, None, None)[:2]
    if mapping is not None:
        return mapping
    if name in known:
        return name
    if prisma is not None and prisma in known:
        return prisma
    alike = [c for c in known if _folded(c) == _folded(name)]
    return alike[0] if len(alike) == 1 else None


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """The most alike candidate, for «did you mean»."""
    import difflib

    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.7)
    return found[0] if found else None
