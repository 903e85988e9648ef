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
from restorer.database.relation import equal
from restorer.load.hold import behind
from restorer.load.keys import Keyed
from restorer.model import TablePlan


def orderly(plan: TablePlan) -> bool:
    """Whether the file's order can be kept over several segments: set queries see every key, and a row that was quicker than
    an earlier one can be taken out again as if it had never been. Without keys no order shows."""
    table = plan.table
    if not table.uniques and not table.exclusions:
        return True
    return (
        not plan.cyclic
        and table.undoable
        and not (table.exclusions or table.rls or table.ruled)
        and all(u.columns and not u.partial for u in table.uniques)
        and {"SELECT", "DELETE"} <= set(table.privileges)
    )


class Holder(NamedTuple):
    """A row of the table that has a key of the row `ordinal`: who wrote it, and where it stands (PostgreSQL documentation,
    System Columns)."""

    ordinal: int
    xmin: str
    table: int
    ctid: str


class Contested(Keyed):
    """Rows whose keys other rows of the same run have as well."""

    def contested(
        self, origins: Origins, held: Collection[int], ordinal: int | None = None
    ) -> dict[int, Collection[int]]:
        """Takes out the rows that have a key of an earlier row here, or of a row that this run put into the table (of these only
        `ordinal`, if told), and all that come behind one of them. `held`: keys of rows of the same batch that wait already. So
        a row of the table that came with the same batch as one that waits, and has a key of it, came before it.
        -> ordinal -> hashes of its keys"""
        found = set[int]()
        only = sql.SQL("") if ordinal is None else sql.SQL(" AND s.{} = {}").format(self.ord, sql.Literal(ordinal))
        for unique in self._uniques():
            if ordinal is None:
                found.update(o for o, first in self._clusters(unique) if o != first)
            rows = self._run(
                "SELECT s.{ord} FROM {s} AS s, {t} AS t WHERE {join}{only} AND {ours}",
                join=self._joined(unique), only=only, ours=origins.wrote("t"),
            )  # fmt: skip
            found.update(row[0] for row in rows)
        if not found and not held:
            return {}
        keys = self.hashes()
        found.update(behind(keys, found, held))
        self.remove(sorted(found))
        return {o: keys[o] for o in found}

    def holders(self) -> list[Holder]:
        """The rows of the table that have a key of a row here, each as often as it has one."""
        found = list[Holder]()
        for unique in self._uniques():
            rows = self._run(
                "SELECT s.{ord}, t.xmin::text, t.tableoid::bigint, t.ctid::text FROM {s} AS s, {t} AS t WHERE {join}",
                join=self._joined(unique),
            )  # fmt: skip
            found += [Holder(*row) for row in rows]
        return found

    def evict(self, holders: Collection[Holder]) -> list[int]:
        """Takes those of `holders` out of the table that came with the rows here. -> ordinals of these"""
        alike = self._same("t", "s")
        if self._identity:
            alike = sql.SQL("{} AND {}").format(alike, equal("t", self._identity.columns, "s", self._identity.columns))
        found = self._run(
            "DELETE FROM {t} AS t USING {s} AS s WHERE t.ctid = ANY ({places}::tid[]) AND t.tableoid = ANY ({tables}::oid[]) "
            "AND {alike} RETURNING s.{ord}",
            places=sql.Literal(sorted({h.ctid for h in holders})),
            tables=sql.Literal(sorted({h.table for h in holders})),
            alike=alike,
        )
        return [row[0] for row in found]
