"""A backup folder, a database and a restore between them, in a few words each.

    at.schema("CREATE TABLE t (id int PRIMARY KEY)").file("t", [{"id": 1}]).run(on_conflict="Update")

Every run is checked for what holds for all of them: totals add up, and every record is accounted for.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from restorer.database.connection import target_label
from restorer.errors import RestoreError
from restorer.events import AnyEvent, BatchLoaded, RunStarted
from restorer.report import Check, Report, TableReport
from restorer.run import Request, execute
from restorer.spec import RestoreSpec

Record = dict[str, Any]


class Result:
    """A finished run: its report, its error, and the ledger's rejects."""

    def __init__(self, restore: Restore, run: str, report: Report, error: RestoreError | None) -> None:
        self.restore, self.run, self.report, self.error = restore, run, report, error
        self.tables: dict[str, TableReport] = {t.name: t for t in report.tables}

    def counts(self, table: str = "t") -> dict[str, int]:
        """The outcomes that are not 0, without `read`."""
        t = self.tables[table]
        found = {n: getattr(t, n) for n in ("inserted", "updated", "duplicate", "conflict", "rejected")}
        assert t.read == sum(found.values()), found
        return {n: count for n, count in found.items() if count}

    @property
    def levels(self) -> set[str]:
        return {f.level for f in self.report.fallback if f.batches}

    def rejects(self, table: str = "t") -> list[tuple[int, str, str]]:
        """(ordinal, reason, SQLSTATE)"""
        return [(r["ordinal"], r["reason"], r["sqlstate"]) for r in self.whole_rejects(table)]

    def whole_rejects(self, table: str = "t") -> list[Record]:
        with self.restore.db.cursor(row_factory=psycopg.rows.dict_row) as cur:
            cur.execute(
                "SELECT * FROM dbrestore.rejects WHERE run = %s AND table_name = %s ORDER BY ordinal", (self.run, table)
            )
            return cur.fetchall()

    def check(self, name: str, table: str | None = None) -> Check:
        return next(c for c in self.report.verification if c.check == name and table in (None, c.table))


class Restore:
    """A database `db` and a folder `root`. Each `run` is a new run unless `name` says which."""

    def __init__(self, dsn: str, db: psycopg.Connection[Any], root: Path) -> None:
        self.dsn, self.db, self.root = dsn, db, root
        self.events: list[AnyEvent] = []
        self._names = (f"test/{n}" for n in itertools.count(1))
        self.label = target_label(dsn)
        self.roles: list[str] = []

    def schema(self, *statements: str) -> Restore:
        for statement in statements:
            self.db.execute(statement)
        return self

    def file(self, name: str, records: list[Any] | bytes) -> Restore:
        """`records` as a JSON array, or the bytes of the file."""
        data = records if isinstance(records, bytes) else json.dumps(records, ensure_ascii=False).encode()
        (self.root / (name if "." in name else f"{name}.json")).write_bytes(data)
        return self

    def run(
        self,
        *,
        name: str | None = None,
        batch: int = 5000,
        limit: int | None = 100,
        restart: bool = False,
        wait: float = 0.0,
        dsn: str | None = None,
        emit: Callable[[AnyEvent], None] | None = None,
        **spec: Any,
    ) -> Result:
        """`limit`: percent of rejects."""
        spec.setdefault("rejects", {"limit_percent": limit})
        spec.setdefault("load", {"batch_rows": batch})
        spec.setdefault("retry", {"max_elapsed_seconds": 20})
        run = name or next(self._names)
        self.events = []

        def note(event: AnyEvent) -> None:
            self.events.append(event)
            if emit is not None:
                emit(event)

        request = Request(RestoreSpec(**spec), self.root, dsn or self.dsn, run, restart=restart, wait=wait)
        report, error = execute(request, note)
        assert report.totals.balanced() or report.outcome == "Interrupted", report.totals  # rows may wait for parents
        for table in report.tables:
            if table.state == "Done":
                assert table.read == sum(
                    (table.inserted, table.updated, table.duplicate, table.conflict, table.rejected)
                ), table
        return Result(self, run, report, error)

    def ok(self, **options: Any) -> Result:
        """A run that must succeed."""
        result = self.run(**options)
        assert result.error is None, result.error.line()
        return result

    def ok_hurried(self, **options: Any) -> Result:
        """A run that must succeed although a statement or a transaction may not take long: what comes before it begins is subject
        to that as well, so where the machine stood still just then it begins once more."""
        result = self.run(**options)
        begun = any(isinstance(event, RunStarted) for event in self.events)
        if result.error is not None and not begun and re.search("57014|25P04", result.error.line()):
            return self.ok(**options)
        assert result.error is None, result.error.line()
        return result

    def stopped(self, batches: int, **options: Any) -> Result:
        """A run that ctrl-C stops once so many batches are committed."""
        left = itertools.count(1)

        def stop(event: AnyEvent) -> None:
            if isinstance(event, BatchLoaded) and next(left) == batches:
                raise KeyboardInterrupt

        result = self.run(emit=stop, **options)
        assert result.error is not None and result.error.exit_code == 143
        return result

    def role(self, *grants: str) -> str:
        """A role that owns nothing but may create schemas; `{}` in `grants` is its name. -> how it connects"""
        name = f"role_{self.db.info.dbname}"
        self.schema(
            f"CREATE ROLE {name} LOGIN PASSWORD 'x'", f"GRANT CREATE ON DATABASE {self.db.info.dbname} TO {name}"
        )
        self.schema(*(g.format(name) for g in grants))
        self.roles.append(name)
        return make_conninfo(self.dsn, user=name, password="x")

    def rows(self, query: str = "SELECT * FROM t ORDER BY 1") -> list[tuple[Any, ...]]:
        return self.db.execute(query).fetchall()

    def value(self, query: str) -> Any:
        row = self.db.execute(query).fetchone()
        assert row is not None
        return row[0]


@pytest.fixture
def at(dsn: str, db: psycopg.Connection[Any], tmp_path: Path) -> Iterator[Restore]:
    folder = tmp_path / "backup"
    folder.mkdir()
    restore = Restore(dsn, db, folder)
    yield restore
    for role in restore.roles:
        restore.schema(f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")
