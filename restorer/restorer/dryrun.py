"""A dry run's targets: temporary tables shaped like the real ones. Every record is really copied; nothing is kept.

The stand-ins have the columns, types, defaults, CHECK constraints and unique indexes of their tables, but no triggers, and
no foreign keys: those are looked up by the set queries of the Merge rung, over the table and its stand-in together.
"""

from __future__ import annotations

from psycopg import sql

from .connection import Connection
from .model import TablePlan
from .relation import Relation, Relations, of_table


def stand_ins(conn: Connection, plans: tuple[TablePlan, ...], *, cleaned: bool) -> Relations:
    """Creates them on `conn`, for as long as it lives. `cleaned`: the restore would empty the tables first, so that what is
    in them now does not count."""
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
        for column in plan.table.columns:
            if column.sequence and not column.identity:  # nextval() of the real sequence would be kept
                counter = sql.Identifier("pg_temp", f"{name}_{column.name}"[:63])
                conn.execute(sql.SQL("CREATE TEMP SEQUENCE {}").format(sql.Identifier(f"{name}_{column.name}"[:63])))
                conn.execute(
                    sql.SQL("ALTER TABLE {} ALTER {} SET DEFAULT nextval({}::regclass)").format(
                        stand_in, sql.Identifier(column.name), sql.Literal(counter.as_string(conn))
                    )
                )
        both = sql.SQL("(SELECT * FROM {} UNION ALL SELECT * FROM {})").format(real, stand_in)
        overrides[plan.table.schema, plan.name] = Relation(stand_in, stand_in if cleaned else both, apart=not cleaned)
    return Relations(overrides)
