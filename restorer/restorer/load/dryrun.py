"""A dry run's targets: temporary tables shaped like the real ones. Every record is really copied; nothing is kept.

The stand-ins have the columns, types, defaults, CHECK constraints, unique indexes and partition bounds of their tables, but no triggers, and
no foreign keys: those are looked up by the set queries of the Merge rung, over the table and its stand-in together.
"""

from __future__ import annotations

import contextlib
import re

import psycopg
from psycopg import sql

from restorer.database.connection import Connection
from restorer.database.relation import STAND_IN, Relation, Relations, of_table
from restorer.load.staged import identity
from restorer.model import TablePlan

_NEXTVAL = re.compile(r"nextval\('((?:[^']|'')*)'::regclass\)")


def stand_ins(conn: Connection, plans: tuple[TablePlan, ...], *, cleaned: bool, updates: bool) -> Relations:
    """Creates them on `conn`, for as long as it lives. `cleaned`: the restore would empty the tables first, so that what is
    in them now does not count. `updates`: rows that are there get the content of the records (policy Update)."""
    overrides = {}
    for number, plan in enumerate(plans):
        real = of_table(plan.table.schema, plan.name).write
        name = f"dbrestore_dry_{number}"
        conn.execute(
            sql.SQL(
                "CREATE TEMP TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING GENERATED INCLUDING IDENTITY)"
            ).format(sql.Identifier(name), real)
        )
        stand_in = sql.Identifier("pg_temp", name)
        _own_sequences(conn, plan.table.oid, name)
        if plan.table.partitioned:
            _within_the_partitions(conn, plan.table.oid, stand_in)
        key = identity(plan.table, tuple(c.name for c in plan.table.columns))
        both = sql.SQL("(SELECT false AS {0}, * FROM {1} UNION ALL SELECT true, * FROM {2})").format(
            sql.Identifier(STAND_IN), real, stand_in
        )
        overrides[plan.table.schema, plan.name] = (
            Relation(stand_in, stand_in)
            if cleaned
            else Relation(stand_in, both, real, key.columns)
            if updates and key
            else Relation(stand_in, both)
        )
    return Relations(overrides)


def _within_the_partitions(conn: Connection, oid: int, stand_in: sql.Identifier) -> None:
    """A row that fits no partition is a CHECK's matter here; PostgreSQL gives it the same SQLSTATE."""
    row = conn.execute(
        "SELECT count(*), bool_or(d IS NULL), string_agg('(' || d || ')', ' OR ') FROM pg_partition_tree(%s::oid::regclass) p, "
        "LATERAL (SELECT pg_get_partition_constraintdef(p.relid) AS d) x WHERE p.isleaf",
        (oid,),
    ).fetchone()
    assert row is not None
    leaves, takes_all, bounds = row
    if not takes_all:
        fits = sql.SQL(bounds if leaves else "false")
        conn.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT no_partition CHECK (").format(stand_in) + fits + sql.SQL(")")
        )


def _own_sequences(conn: Connection, oid: int, name: str) -> None:
    """Defaults that call nextval() get a temporary sequence that goes on from the real one: what the real one gives out
    is never taken back."""
    found = conn.execute(
        "SELECT a.attname::text, pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d "
        "JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum "
        "WHERE d.adrelid = %s AND a.attgenerated = '' AND pg_get_expr(d.adbin, d.adrelid) LIKE '%%nextval(%%'",
        (oid,),
    ).fetchall()
    for number, (column, expression) in enumerate(found):
        counter = f"{name}_{number}"
        conn.execute(sql.SQL("CREATE TEMP SEQUENCE {}").format(sql.Identifier(counter)))
        if real := _NEXTVAL.search(expression):
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege), conn.transaction():
                state = sql.SQL("SELECT setval({}::regclass, last_value, is_called) FROM {}")
                conn.execute(state.format(sql.Literal(f"pg_temp.{counter}"), sql.SQL(real[1].replace("''", "'"))))
        default = _NEXTVAL.sub(f"nextval('pg_temp.{counter}'::regclass)", expression)
        conn.execute(
            sql.SQL("ALTER TABLE {} ALTER {} SET DEFAULT {}").format(
                sql.Identifier("pg_temp", name), sql.Identifier(column), sql.SQL(default)
            )
        )
