"""What is asked about rows, as conditions and queries over a row `s`, whether it stands in a stage (screening.py, keys.py) or came
along with the question (asking.py); `t` is a row of the table, `p` a parent."""

from __future__ import annotations

from collections.abc import Collection

from psycopg import sql

from restorer.database.problems import named
from restorer.database.relation import EQUALS, Relation, Relations, columns, equal, is_parent
from restorer.load.staged import identity
from restorer.model import ForeignKey, Problem, Table, Unique

_ORDERED = frozenset(["int2", "int4", "int8", "numeric", "date", "timestamp", "timestamptz"])  # quickly compared


def checks(table: Table, given: Collection[str]) -> list[tuple[sql.Composed, Problem]]:
    """(the condition that one of the table's CHECK constraints fails, what is wrong then) for those on columns in `given`."""
    return [
        (sql.SQL("NOT ({})").format(sql.SQL(check.expression)), named("23514", constraint=check.name))
        for check in table.checks
        if check.columns and set(check.columns) <= set(given)
    ]


# An EXISTS that is asked of one row after the other, in an expression, must not be answered from a hash of the whole table, made anew
# for each batch: with an OFFSET in it the planner leaves it as it is.
EACH = sql.SQL(" OFFSET 0")


def screenable(fk: ForeignKey, given: Collection[str]) -> bool:
    """Whether rows that bring the columns `given` show which parent they have, and this role may look for it."""
    return fk.readable and set(fk.columns) <= set(given)


def missing(fk: ForeignKey, relations: Relations, *, each: bool = False) -> sql.Composed:
    """The row `s` refers to a parent (MATCH SIMPLE: no null; FULL: not all null) that the table has not. `each`: see EACH."""
    parent = relations.get(fk.to_schema, fk.to_table)
    there = sql.SQL("EXISTS (SELECT FROM {} p WHERE {} AND {}{})").format(
        parent.read, is_parent("p", "s", fk), parent.current("p"), EACH if each else sql.SQL("")
    )
    return sql.SQL("({}) AND NOT {}").format(refers(fk), there)


def locked_parents(fk: ForeignKey, relations: Relations, rows: sql.Composable) -> sql.Composed:
    """Query for the keys of the parents that rows of `rows` refer to by a plain foreign key; each is locked (FOR KEY SHARE)."""
    wanted = sql.SQL("SELECT DISTINCT {} FROM {} AS s WHERE {}").format(columns(fk.columns, "s"), rows, refers(fk))
    # An array goes through the index in order; there is none of several columns.
    among = sql.SQL("ARRAY({})" if len(fk.columns) == 1 else "{}").format(wanted)
    parent = relations.get(fk.to_schema, fk.to_table).read
    return sql.SQL("SELECT {0} FROM ONLY {1} AS p WHERE ({0}) OPERATOR({2}) ANY ({3}) FOR KEY SHARE OF p").format(
        columns(fk.to_columns, "p"), parent, sql.SQL(EQUALS), among
    )


def not_among(fk: ForeignKey, there: sql.Identifier) -> sql.Composed:
    """The row `s` refers to a parent that is not among the keys in `there`."""
    return sql.SQL("({}) AND NOT ({}) OPERATOR({}) ANY (SELECT * FROM {})").format(
        refers(fk), columns(fk.columns, "s"), sql.SQL(EQUALS), there
    )


def refers(fk: ForeignKey) -> sql.Composed:
    """The row `s` refers to somebody at all."""
    nulls = [sql.SQL("{} IS NOT NULL").format(sql.Identifier("s", c)) for c in fk.columns]
    return sql.SQL(" OR " if fk.match == "f" else " AND ").join(nulls)


def visible(table: Table, given: tuple[str, ...]) -> list[Unique]:
    """The table's keys that set queries can look at in rows that bring the columns `given`, the identity first."""
    first = identity(table, given)
    others = [
        u for u in table.uniques if u.columns and not u.partial and u is not first and set(u.columns) <= set(given)
    ]
    return [first, *others] if first else others


def joined(unique: Unique) -> sql.Composed:
    """The rows `t` and `s` share this key."""
    if not unique.nulls_not_distinct:
        return equal("t", unique.columns, "s", unique.columns)
    pairs = [
        sql.SQL("{} IS NOT DISTINCT FROM {}").format(sql.Identifier("t", c), sql.Identifier("s", c))
        for c in unique.columns
    ]
    return sql.SQL(" AND ").join(pairs)


def within(unique: Unique, table: Table, target: Relation) -> sql.Composable:
    """The key of the row `s` is not larger than all of the table's. Files are mostly in the order of their keys: then one look at
    the end of the index spares one into it for almost every row."""
    kind = table.column(unique.columns[0]).type
    if len(unique.columns) > 1 or unique.nulls_not_distinct or kind.kind != "b" or kind.name not in _ORDERED:
        return sql.SQL("true")
    name = unique.columns[0]
    return sql.SQL("{} <= (SELECT max({}) FROM {})").format(
        sql.Identifier("s", name), sql.Identifier(name), target.read
    )


def whole(unique: Unique) -> sql.Composable:
    """The condition that a row's key can be like another one's: with a null in it, it is like none."""
    if unique.nulls_not_distinct:
        return sql.SQL("true")
    return sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(sql.Identifier(c)) for c in unique.columns)


def array(fields: bytes) -> str:
    """The literal of an array of these fields, which stand between newlines. Raises UnicodeDecodeError."""
    return "{" + fields.decode().replace("\n", ",") + "}"


def beside_parameters(text: str) -> str:
    """SQL in which a percent sign must not look like a parameter."""
    return text.replace("%", "%%")
