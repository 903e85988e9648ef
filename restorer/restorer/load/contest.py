"""Who has a key in a file whose segments are loaded side by side: asked at the end, not decided by who is quicker.

A worker that finds a key taken by a row of the same run cannot know whether that row stays: it may come from a later segment,
and then the record at hand is the first. So the record waits in the ledger, and replay.py settles all that do in the file's
order. What comes to nothing by itself (an unreadable value, a parent that is nowhere) holds no key and does not wait; a row
that was there before the run stays whatever comes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from psycopg import sql

from restorer.database.origins import Origins
from restorer.database.relation import equal, is_parent
from restorer.load.conditions import joined
from restorer.load.hold import behind
from restorer.load.keys import Keyed
from restorer.load.staged import identity
from restorer.model import ForeignKey, Table, TablePlan, Unique


def orderly(plan: TablePlan) -> bool:
    """Whether the file's order can be kept over several segments: set queries see every key of every record, one of which says
    which row a record became, and a row that was quicker than an earlier one can be taken out again. Without keys no order
    shows."""
    table, planned = plan.table, tuple(c.column.name for c in plan.columns)
    if not table.uniques and not table.exclusions:
        return True
    return (
        identity(table, planned) is not None
        and not plan.cyclic
        and table.undoable
        and not (table.exclusions or table.rls)
        and all_seen(plan)
        and {"SELECT", "DELETE"} <= set(table.privileges)
    )


def all_seen(plan: TablePlan) -> bool:
    """Whether set queries see the value of every key that a record's row will have."""
    return all(_seen(unique, plan.table, tuple(c.column.name for c in plan.columns)) for unique in plan.table.uniques)


def _seen(unique: Unique, table: Table, planned: tuple[str, ...]) -> bool:
    """Whether the values of this key come from the records. A default in a key of one column makes a value of its own for each
    row (a sequence, a random UUID), which meets no other; one in a key of several may well be the same for all."""
    if not unique.columns or unique.partial or unique.nulls_not_distinct:
        return False
    columns = [table.column(name) for name in unique.columns]
    if len(columns) == 1 and columns[0].has_default:
        return True
    return all(c.name in planned and not c.generated and not c.has_default for c in columns)


class Holder(NamedTuple):
    """A row of the table that has a key of the row `ordinal`: who wrote it, where it stands (PostgreSQL documentation, System
    Columns), and the first value of the key that says which row it is, as the server writes it."""

    ordinal: int
    xmin: str
    table: int
    ctid: str
    name: str


class Contested(Keyed):
    """Rows whose keys other rows of the same run have as well."""

    def contested(self, origins: Origins, held: Collection[int]) -> dict[int, Collection[int]]:
        """Takes out the rows that have a key of an earlier row here, or of a row that this run put into the table, and all that
        come behind one of them. `held`: keys of rows of the same batch that wait already. So a row of the table that came with
        the same batch as one that waits, and has a key of it, came before it. -> ordinal -> hashes of its keys"""
        found = set[int]()
        for unique in self._uniques():
            found.update(o for o, first in self._clusters(unique) if o != first)
            rows = self._run(
                "SELECT s.{ord} FROM {s} AS s, {t} AS t WHERE {join} AND {ours}",
                join=joined(unique), ours=origins.wrote("t"),
            )  # fmt: skip
            found.update(row[0] for row in rows)
        return self.set_aside(found, held)

    def set_aside(self, these: Collection[int], held: Collection[int]) -> dict[int, Collection[int]]:
        """Takes out these rows, and those that come behind them or behind the holders of `held`. -> as `contested`"""
        if not these and not held:
            return {}
        keys = self.hashes()
        out = {*these, *behind(keys, these, held)}
        self.remove(sorted(out))
        return {o: keys[o] for o in out}

    def holders(self) -> list[Holder]:
        """The rows of the table that have a key of a row here, each as often as it has one."""
        found = list[Holder]()
        name = sql.Identifier("t", self._identity.columns[0]) if self._identity else sql.SQL("''")
        for unique in self._uniques():
            rows = self._run(
                "SELECT s.{ord}, t.xmin::text, t.tableoid::bigint, t.ctid::text, {name}::text FROM {s} AS s, {t} AS t WHERE {join}",
                name=name, join=joined(unique),
            )  # fmt: skip
            found += [Holder(*row) for row in rows]
        return found

    def evict(self, holders: Collection[Holder], children: Collection[ForeignKey], *, all_of_it: bool) -> list[int]:
        """Takes those of `holders` out of the table that came with the rows here, or (`all_of_it`) all that came in the same
        transactions as these. `children`: foreign keys of other tables; a row that one refers to stays.
        -> ordinals of the rows here that they came with"""
        if self._identity is None:  # nothing says which row is which
            return []
        found = self._run(
            "DELETE FROM {t} AS t USING {s} AS s WHERE {join} AND {alike} AND {which}{free} RETURNING s.{ord}",
            join=equal("t", self._identity.columns, "s", self._identity.columns),
            alike=self._same("t", "s"),
            which=_by_xmin(holders) if all_of_it else _by_place(holders),
            free=sql.SQL("").join(_no_child(fk) for fk in children),
        )
        return [row[0] for row in found]


def _no_child(fk: ForeignKey) -> sql.Composed:
    return sql.SQL(" AND NOT EXISTS (SELECT FROM {} AS c WHERE {})").format(
        sql.Identifier(fk.schema, fk.table), is_parent("t", "c", fk)
    )


def _by_xmin(holders: Collection[Holder]) -> sql.Composed:
    return sql.SQL("t.xmin = ANY ({}::xid[])").format(sql.Literal(sorted({h.xmin for h in holders})))


def _by_place(holders: Collection[Holder]) -> sql.Composed:
    """As text, so that no plan begins with these places and goes through all rows of the stage for each."""
    places = sorted({f"{h.table} {h.ctid} {h.xmin}" for h in holders})
    return sql.SQL("format('%s %s %s', t.tableoid::bigint, t.ctid, t.xmin) = ANY ({})").format(sql.Literal(places))
