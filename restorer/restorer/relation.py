"""Where a table's rows are written and where they are looked for. In a dry run these are not the same."""

from __future__ import annotations

import msgspec
from psycopg import sql

from .model import Table


class Relation(msgspec.Struct, frozen=True):
    """`write`: what COPY and INSERT name. `read`: what a FROM clause names: the table, or (dry run) the table and its
    temporary stand-in together; `apart` says that these differ, so that a row that is there cannot be written to."""

    write: sql.Composable
    read: sql.Composable
    apart: bool = False


def of_table(schema: str, name: str) -> Relation:
    identifier = sql.Identifier(schema, name)
    return Relation(identifier, identifier)


class Relations:
    """The relation of every table that is read or written; those not told otherwise are the tables themselves."""

    def __init__(self, overrides: dict[tuple[str, str], Relation] | None = None) -> None:
        self._overrides = overrides or {}

    def get(self, schema: str, name: str) -> Relation:
        return self._overrides.get((schema, name)) or of_table(schema, name)

    def of(self, table: Table) -> Relation:
        return self.get(table.schema, table.name)


def columns(names: tuple[str, ...], alias: str = "") -> sql.Composed:
    """`a, b` or `s.a, s.b`, quoted."""
    return sql.SQL(", ").join(sql.Identifier(alias, n) if alias else sql.Identifier(n) for n in names)


def equal(left: str, left_names: tuple[str, ...], right: str, right_names: tuple[str, ...]) -> sql.Composed:
    """`l.a = r.x AND l.b = r.y`."""
    pairs = zip(left_names, right_names, strict=True)
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, a), sql.Identifier(right, b)) for a, b in pairs
    )
