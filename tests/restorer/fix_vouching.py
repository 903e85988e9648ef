"""The same restore with the triggers of foreign keys and without."""

from __future__ import annotations

from typing import Any

import pytest
from fix_restore import Restore
from restorer.load import merging

Found = tuple[list[tuple[Any, ...]], dict[str, int], list[tuple[int, str, str]]]  # rows, counts, rejects


def both_ways(at: Restore, records: list[dict[str, Any]], policy: str, *statements: str) -> tuple[Found, Found]:
    """-> what becomes of table t's records without triggers, however few they are, and what with triggers. `statements`: make t and
    its parents p and q."""

    def load(worth: int) -> Found:
        at.schema("DROP TABLE IF EXISTS t, p, q", *statements)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(merging, "_WORTH", worth)
            result = at.file("t", records).ok(batch=7, on_conflict=policy)
        return at.rows(), result.counts(), result.rejects()

    return load(0), load(1 << 30)
