"""Sequences owned by loaded columns, put where the next value is free: forward only."""

from __future__ import annotations

from psycopg import sql

from restorer.database.connection import Connection
from restorer.database.relation import of_table
from restorer.model import TablePlan

# last_value is the next value itself until nextval was called for the first time (is_called)
_STATE = (
    "SELECT x.m, CASE WHEN s.is_called THEN s.last_value + p.seqincrement ELSE s.last_value END AS next, p.seqincrement AS step "
    "FROM (SELECT max({column})::bigint AS hi, min({column})::bigint AS lo FROM {table}) r, {sequence} s, pg_sequence p, "
    "LATERAL (SELECT CASE WHEN p.seqincrement > 0 THEN r.hi ELSE r.lo END AS m) x WHERE p.seqrelid = {name}::regclass"
)


def owned(plans: tuple[TablePlan, ...]) -> list[tuple[TablePlan, str, str]]:
    """(plan, column, sequence) for every loaded table's column that owns a sequence."""
    return [(p, c.name, c.sequence) for p in plans for c in p.table.columns if c.sequence]


def _state(plan: TablePlan, column: str, sequence: str) -> sql.Composed:
    return sql.SQL(_STATE).format(
        column=sql.Identifier(column),
        table=of_table(plan.table.schema, plan.name).read,
        sequence=sql.SQL(sequence),  # pg_get_serial_sequence quotes it
        name=sql.Literal(sequence),
    )


def advance(conn: Connection, plan: TablePlan, column: str, sequence: str) -> None:
    """Moves the sequence to the farthest value of its column, unless it is past it already."""
    conn.execute(
        sql.SQL(
            "SELECT setval({}::regclass, m) FROM ({}) q WHERE m IS NOT NULL AND CASE WHEN step > 0 THEN m >= next ELSE m <= next END"
        ).format(sql.Literal(sequence), _state(plan, column, sequence))
    )


def next_is_free(conn: Connection, plan: TablePlan, column: str, sequence: str) -> tuple[bool, str, str]:
    """(whether the next value is past all in the column, what it should be at least, what it is)"""
    row = conn.execute(_state(plan, column, sequence)).fetchone()
    if row is None or row[0] is None:
        return True, "", ""
    farthest, following, step = row
    return (following > farthest if step > 0 else following < farthest), str(farthest + step), str(following)
