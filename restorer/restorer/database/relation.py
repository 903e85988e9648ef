"""Where a table's rows are written and where they are looked for. In a dry run these are not the same."""

from __future__ import annotations

import msgspec
from psycopg import sql

from restorer.model import ForeignKey, Table

EQUALS = "pg_catalog.="
STAND_IN = "dbrestore stand-in"  # column of `read` in a dry run that updates: whether the row is the stand-in's


class Relation(msgspec.Struct, frozen=True):
    """`write`: what COPY and INSERT name. `read`: what a FROM clause names: the table, or (dry run) the table and its
    temporary stand-in together. `real`: in a dry run that updates, the table itself: a row to be updated is copied from
    there into the stand-in first, and counts there alone from then on; `key` says which rows are the same."""

    write: sql.Composable
    read: sql.Composable
    real: sql.Composable | None = None
    key: tuple[str, ...] = ()

    def current(self, alias: str) -> sql.Composable:
        """The condition that a row of `read` still counts."""
        if self.real is None:
            return sql.SQL("true")
        return sql.SQL("({} OR NOT EXISTS (SELECT FROM {} n WHERE {}))").format(
            sql.Identifier(alias, STAND_IN), self.write, equal("n", self.key, alias, self.key)
        )


def of_table(schema: str, name: str) -> Relation:
    identifier = sql.Identifier(schema, name)
    return Relation(identifier, identifier)


class Relations:
    """The relation of every table that is read or written; those not told otherwise are the tables themselves."""

    def __init__(self, overrides: dict[tuple[str, str], Relation] | None = None) -> None:
        self._overrides = overrides or {}

    @property
    def real(self) -> bool:
        """No dry run."""
        return not self._overrides

    def get(self, schema: str, name: str) -> Relation:
        return self._overrides.get((schema, name)) or of_table(schema, name)

    def of(self, table: Table) -> Relation:
        return self.get(table.schema, table.name)


def columns(names: tuple[str, ...], alias: str = "") -> sql.Composed:
    """`a, b` or `s.a, s.b`, quoted."""
    return sql.SQL(", ").join(sql.Identifier(alias, n) if alias else sql.Identifier(n) for n in names)


def is_parent(parent: str, child: str, fk: ForeignKey) -> sql.Composed:
    """The row `parent` is the one that `child` refers to, by the operators of the constraint: what `=` stands for may be another
    one, where an extension's schema is not in the search_path or an index has operators of its own."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} OPERATOR({}) {}").format(sql.Identifier(parent, a), sql.SQL(op), sql.Identifier(child, b))
        for a, op, b in zip(fk.to_columns, fk.operators, fk.columns, strict=True)
    )


def equal(left: str, left_names: tuple[str, ...], right: str, right_names: tuple[str, ...]) -> sql.Composed:
    """`l.a = r.x AND l.b = r.y`."""
    pairs = zip(left_names, right_names, strict=True)
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, a), sql.Identifier(right, b)) for a, b in pairs
    )
