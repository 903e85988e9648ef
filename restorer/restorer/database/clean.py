"""Cleaning the target: all tables in one statement, once per run, and never more than was asked for.

TRUNCATE goes without CASCADE and DELETE without following foreign keys out of the set: preflight refuses both when a table
outside the restore refers in (TRUNCATE … CASCADE and ON DELETE CASCADE would silently empty it).
"""

from __future__ import annotations

from psycopg import sql

from restorer.database.connection import Connection
from restorer.database.ledger import Ledger
from restorer.database.relation import of_table
from restorer.database.session import Session
from restorer.errors import LoadFailed
from restorer.model import ForeignKey, TablePlan
from restorer.spec import RestoreSpec

MARK = "cleaned"
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '10s'"
_AT_ONCE = 25  # tables looked into by one statement, which holds a lock on each, its indexes and partitions


def refusals(
    spec: RestoreSpec,
    label: str,
    protected: bool,
    plans: tuple[TablePlan, ...],
    into: list[ForeignKey],
    heirs: list[tuple[str, str, str]],
) -> list[str]:
    """Why this cleanup must not happen, one line each. `label`: host/database as it must be typed; `into`: foreign keys
    that point at the tables; `heirs`: tables that inherit from them (schema, name, parent)."""
    if spec.cleanup not in ("Truncate", "Delete"):
        return []
    problems = []
    if spec.confirm != label:
        said = f"{spec.confirm!r} was" if spec.confirm else "nothing was"
        problems.append(
            f"cleanup {spec.cleanup} empties tables of {label!r}, but {said} confirmed: say --confirm {label}"
        )
    if protected:
        problems.append(f"database {label!r} is protected: cleanup is refused while dbrestore.protected is 'on' there")
    ours = {(p.table.schema, p.table.name) for p in plans}
    for fk in into:
        if (fk.schema, fk.table) not in ours:
            danger = "would be emptied with it" if fk.cascade else "would lose its parents"
            problems.append(
                f"table {fk.schema}.{fk.table} refers to {fk.to_table} ({fk.name}) but is not part of this restore: it {danger}; "
                f"include it, or exclude {fk.to_table}"
            )
    problems += [
        f"table {schema}.{name} inherits from {parent} but is not part of this restore: it would be emptied with it; "
        f"include it, or exclude {parent}"
        for schema, name, parent in heirs
    ]
    need = "TRUNCATE" if spec.cleanup == "Truncate" else "DELETE"
    problems += [f"no {need} privilege on table {p.name}: grant it" for p in plans if need not in p.table.privileges]
    return problems


def not_empty(conn: Connection, plans: tuple[TablePlan, ...]) -> set[str]:
    """The tables that hold rows."""
    found = set[str]()
    plain = [plan for plan in plans if not plan.table.partitioned]
    parts = [plain[at : at + _AT_ONCE] for at in range(0, len(plain), _AT_ONCE)]
    for some in (*parts, *([plan] for plan in plans if plan.table.partitioned)):
        asked = (
            sql.SQL("EXISTS (SELECT FROM {})").format(of_table(plan.table.schema, plan.name).read) for plan in some
        )
        row = conn.execute(sql.SQL("SELECT {}").format(sql.SQL(", ").join(asked))).fetchone()
        assert row is not None
        found.update(plan.name for plan, full in zip(some, row, strict=True) if full)
    return found


def clean(session: Session, ledger: Ledger, spec: RestoreSpec, plans: tuple[TablePlan, ...]) -> None:
    """Empties the tables, in one transaction with the mark that says so in the ledger."""

    def step(_: Connection) -> None:
        with session.transaction(durable=True) as conn:
            ledger.fence(conn)
            if not ledger.mark(conn, MARK):
                return
            conn.execute(_LOCK_TIMEOUT)
            conn.execute(statement(spec.cleanup, plans))
            if spec.cleanup == "Delete" and (full := not_empty(conn, plans)):
                raise LoadFailed(
                    f"tables {', '.join(sorted(full))} still hold rows after cleanup Delete",
                    "a trigger or row security keeps them; use cleanup Truncate, or none",
                )

    session.retrying(step, what=f"cleanup {spec.cleanup}")


def statement(cleanup: str, plans: tuple[TablePlan, ...]) -> sql.Composed:
    """One TRUNCATE of all, or one statement that deletes from all: foreign keys among them are checked at its end, so no
    order has to be found, and cycles are no matter."""
    names = [of_table(p.table.schema, p.name).write for p in plans]
    if cleanup == "Truncate":
        return sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(names))
    deletes = [sql.SQL("{} AS (DELETE FROM {})").format(sql.Identifier(f"d{i}"), name) for i, name in enumerate(names)]
    return sql.SQL("WITH {} SELECT").format(sql.SQL(", ").join(deletes))
