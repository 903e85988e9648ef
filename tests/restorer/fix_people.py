"""A table of people, and a backup of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from command import write_backup

PEOPLE = [{"id": i, "name": f"n{i}", "boss": None if i == 1 else 1} for i in range(1, 201)]
Db = psycopg.Connection[Any]


@pytest.fixture
def people(db: Db) -> Db:
    db.execute("CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, boss int REFERENCES people)")
    return db


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return write_backup(tmp_path / "backup", people=PEOPLE)


def count(db: Db, table: str = "people") -> int:
    row = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


def accounted(report: dict[str, Any], **totals: int) -> None:
    t = report["totals"]
    assert t["read"] == t["inserted"] + t["updated"] + t["duplicate"] + t["conflict"] + t["rejected"]
    assert {k: t[k] for k in totals} == totals
