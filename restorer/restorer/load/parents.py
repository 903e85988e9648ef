"""The parents of rows that went in by COPY: each looked for once, by the keys that the converter saw, and locked.

It is what the triggers of the foreign keys do for each row, in a third of a load into tables full of references (vouching.py says
when they may be passed by). The rows are in by then; where a parent is not to be found the transaction is undone and somebody else
sees to the batch. So it need not be certain why: two spellings of one key also count as one parent too few.
"""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import sql

from restorer.convert.exact import rule
from restorer.convert.field import MISSING, NULL
from restorer.database.connection import Connection
from restorer.database.relation import EQUALS, Relations
from restorer.load.conditions import array, beside_parameters
from restorer.load.vouching import WITH_TRIGGERS, WITHOUT_TRIGGERS
from restorer.model import ForeignKey, Table, TablePlan


class Orphaned(Exception):
    """Not every parent was found."""


def parent_keys(plan: TablePlan) -> tuple[str, ...]:
    """The columns of the table's foreign keys. Empty where their values do not tell which parents a row has: keys of several
    columns, columns that nobody brings (they may have defaults), values that are stored otherwise than they are written."""
    planned = {c.column.name: c.column for c in plan.columns}
    columns = dict.fromkeys(name for fk in plan.table.foreign_keys for name in fk.columns)
    if any(len(fk.columns) > 1 for fk in plan.table.foreign_keys) or not columns.keys() <= planned.keys():
        return ()
    return tuple(columns) if all(rule(planned[name].type).way == "verbatim" for name in columns) else ()


class Parents:
    """Of the rows of one batch, which goes in between `begin` and `end`. `foreign_keys`: all of the table's, each of one column."""

    def __init__(self, conn: Connection, table: Table, relations: Relations, columns: Iterable[str]) -> None:
        """`columns`: what `parent_keys` says, in the order in which `saw` gets their values."""
        self._conn, self._table, self._relations = conn, table, relations
        self._seen: dict[str, set[bytes]] = {name: set() for name in columns}

    def begin(self) -> None:
        """From here on no trigger is called."""
        self._conn.execute(WITHOUT_TRIGGERS)

    def saw(self, values: Iterable[Iterable[bytes]]) -> None:
        """`values`: what occurs in each of the columns, as JSON."""
        for seen, more in zip(self._seen.values(), values, strict=False):  # none of a record that is too large
            seen.update(more)

    def end(self) -> None:
        """Raises Orphaned. The parents that were found are locked until the transaction ends, as the triggers would lock them."""
        wanted = [self._wanted(fk) for fk in self._table.foreign_keys]
        found = [self._found(fk) for fk in self._table.foreign_keys]
        statement = sql.SQL("SELECT {}, {}").format(sql.SQL(", ").join(found), sql.SQL(WITH_TRIGGERS))
        try:
            row = self._conn.execute(statement, [literal for literal, _ in wanted]).fetchone()
        except psycopg.DataError:  # a key that had to be converted
            raise Orphaned from None
        if row is None or [*row[: len(wanted)]] != [count for _, count in wanted]:
            raise Orphaned

    def _wanted(self, fk: ForeignKey) -> tuple[str, int]:
        """(the keys as an array's literal, how many they are)"""
        # A record without a key that has a default goes in by itself.
        keys = b"\n".join([b"", *(self._seen[fk.columns[0]] - {NULL, MISSING})])
        if _otherwise(keys):
            raise Orphaned
        try:
            return array(keys[1:]), keys.count(b"\n")
        except UnicodeDecodeError:
            raise Orphaned from None

    def _found(self, fk: ForeignKey) -> sql.Composed:
        parent = self._relations.get(fk.to_schema, fk.to_table).read
        # An index takes an array in order, in one pass; the planner does not know how long it is.
        return sql.SQL(
            "(SELECT pg_catalog.count(*) FROM (SELECT FROM ONLY {parent} AS p WHERE p.{key} OPERATOR({equals})"
            " ANY (ARRAY(SELECT pg_catalog.unnest(%s::{type}[]))) FOR KEY SHARE OF p) found)"
        ).format(
            parent=_beside_parameters(parent),
            key=_beside_parameters(sql.Identifier(fk.to_columns[0])),
            equals=sql.SQL(EQUALS),
            type=_beside_parameters(sql.SQL(self._table.column(fk.columns[0]).type.sql)),
        )


def _otherwise(keys: bytes) -> bool:
    """Whether an array's literal would read one of the keys otherwise than JSON does: an object, a list, an escape but for the
    backslash's own and the quote's."""
    escapes = b"\\" in keys and b"\\" in keys.replace(rb"\\", b"").replace(rb"\"", b"")
    return escapes or b"\n{" in keys or b"\n[" in keys


def _beside_parameters(name: sql.Composable) -> sql.SQL:
    return sql.SQL(beside_parameters(name.as_string(None)))
