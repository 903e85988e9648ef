"""Set queries for what no order of loading can help: nulls, CHECK constraints, parents that are nowhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import psycopg
from psycopg import sql

from restorer.database.connection import kind_of
from restorer.database.message import in_one_message
from restorer.database.problems import named
from restorer.database.relation import EQUALS, columns, is_parent
from restorer.load.conditions import checks, locked_parents, missing, not_among, screenable
from restorer.load.staged import Staged
from restorer.model import ForeignKey, Problem

_APART = "dbrestore_checks"
_HASHED = 100_000  # rows of which a hash table surely fits into work_mem (session.py)


class Screened(Staged):
    """Rows found wanting are taken out and handed back."""

    def screen(self, *, vouching: bool = False) -> dict[int, Problem]:
        """Takes out what no order of loading can help: nulls, CHECK constraints, missing parents outside the cycle. Not
        where a BEFORE trigger may still mend the row: there only the server can tell. `vouching`: the parents of the rows
        that stay are locked, and stay as well (vouching.py)."""
        if self.table.changing:
            return {}
        return self._nulls() | self._checks() | (self.parentless() if vouching else self._orphans())

    def _nulls(self) -> dict[int, Problem]:
        """Only where the converter left nulls alone, because a trigger may fill them in."""
        if not self.table.triggers:
            return {}
        return self._failing(
            [
                (sql.SQL("{} IS NULL").format(sql.Identifier(c.name)), named("23502", column=c.name))
                for c in self.table.columns
                if c.not_null and c.name in set(self.given)
            ]
        )

    def _checks(self) -> dict[int, Problem]:
        """A CHECK may call anything: one that fails by itself is left to the Row rung."""
        tests = checks(self.table, self.given)
        if not tests:
            return {}
        try:
            return self._failing(tests, apart=True)
        except psycopg.Error as error:
            if kind_of(error) == "transient":
                raise
            self._conn.execute(f"ROLLBACK TO {_APART}; RELEASE {_APART}")
            return {}

    def _failing(self, tests: list[tuple[sql.Composed, Problem]], *, apart: bool = False) -> dict[int, Problem]:
        """`apart`: under a savepoint, which an error leaves in place."""
        if not tests:
            return {}
        case = sql.SQL(" ").join(
            sql.SQL("WHEN {} THEN {}").format(test, sql.Literal(i)) for i, (test, _) in enumerate(tests)
        )
        delete = self._sql(
            "DELETE FROM {s} WHERE (CASE {case} END) IS NOT NULL RETURNING {ord}, CASE {case} END", case=case
        )
        savepoint, release = sql.SQL(f"SAVEPOINT {_APART}"), sql.SQL(f"RELEASE {_APART}")
        found = in_one_message(self._conn, *([savepoint, delete, release] if apart else [delete]))
        return {ordinal: tests[which][1] for ordinal, which in found}

    def _orphans(self) -> dict[int, Problem]:
        bad: dict[int, Problem] = {}
        for fk in self.table.foreign_keys:
            if fk.name not in self._inner and screenable(fk, self.given):
                found = self._run("DELETE FROM {s} AS s WHERE {missing} RETURNING s.{ord}", missing=self._missing(fk))
                bad |= {row[0]: named("23503", constraint=fk.name) for row in found}
        return bad

    def parentless(self) -> dict[int, Problem]:
        """Takes out rows whose parent is missing, where all foreign keys are plain ones: each parent is looked for once, and locked
        as the trigger of the foreign key would (FOR KEY SHARE)."""
        bad: dict[int, Problem] = {}
        for fk in self.table.foreign_keys:
            there = sql.Identifier("there")
            found = self._run(
                "WITH {there} AS MATERIALIZED ({parents}) DELETE FROM {s} AS s WHERE {without} RETURNING s.{ord}",
                there=there, parents=locked_parents(fk, self._relations, self.name), without=not_among(fk, there),
            )  # fmt: skip
            bad |= {row[0]: named("23503", constraint=fk.name) for row in found}
        return bad

    def _missing(self, fk: ForeignKey) -> sql.Composed:
        return missing(fk, self._relations)

    def inner(self) -> list[ForeignKey]:
        """The foreign keys within the table's own cycle that set queries can look through."""
        return [fk for fk in self.table.foreign_keys if fk.name in self._inner and screenable(fk, self.given)]

    def refers_to(self, fk: ForeignKey) -> bool:
        return (self.table.schema, self.table.name) == (fk.to_schema, fk.to_table)

    def inner_orphans(self, stages: Iterable[Screened]) -> dict[int, Problem]:
        """Takes out rows whose parent, in the table's own cycle, is neither in its table nor in a stage of it among
        `stages` (all of the cycle)."""
        bad: dict[int, Problem] = {}
        for fk in self.inner():
            missing = self._missing(fk)
            others = [o for o in stages if o.refers_to(fk) and set(fk.to_columns) <= set(o.given)]
            hashed = sum(o.size for o in others) <= _HASHED and set(fk.operators) <= {EQUALS}
            for other in others:
                # NOT IN over a subquery is hashed whatever the planner's settings, but only while it fits into memory
                without = (
                    "{} AND ({}) NOT IN (SELECT {} FROM {} o WHERE ({}) IS NOT NULL)"
                    if hashed
                    else "{0} AND NOT EXISTS (SELECT FROM {3} o WHERE {5})"
                )
                keys = columns(fk.to_columns, "o")
                joined = is_parent("o", "s", fk)
                missing = sql.SQL(without).format(missing, columns(fk.columns, "s"), keys, other.name, keys, joined)
            with self._hash_joins(not hashed):
                found = self._run("DELETE FROM {s} AS s WHERE {missing} RETURNING s.{ord}", missing=missing)
            bad |= {row[0]: named("23503", constraint=fk.name) for row in found}
        return bad

    def lacking(self) -> bool:
        """Whether a row refers to one that its table, in the table's own cycle, has not (yet)."""
        found = (
            self._run("SELECT EXISTS (SELECT FROM {s} AS s WHERE {missing})", missing=self._missing(fk)).fetchone()
            for fk in self.inner()
        )
        return any(row is not None and row[0] for row in found)

    def waiting(self, fk: ForeignKey) -> list[int]:
        """Ordinals of the rows whose parent is not in its table yet."""
        with self._hash_joins(self.size > _HASHED):
            return [
                row[0] for row in self._run("SELECT s.{ord} FROM {s} AS s WHERE {missing}", missing=self._missing(fk))
            ]

    def edges(self, fk: ForeignKey, other: Screened) -> list[tuple[int, int]]:
        """(ordinal here, ordinal there) of rows that refer to a row of the stage `other`."""
        with self._hash_joins(True):
            found = self._run(
                "SELECT s.{ord}, o.{theirs} FROM {s} AS s JOIN {o} AS o ON {joined}",
                o=other.name,
                theirs=other.ord,
                joined=is_parent("o", "s", fk),
            )
            return [(a, b) for a, b in found]

    @contextlib.contextmanager
    def _hash_joins(self, wanted: bool) -> Iterator[None]:
        """Between stages, or for very many rows, hashing is right; against a table an index is (session.py)."""
        if wanted:
            self._conn.execute("SET LOCAL enable_hashjoin = on")
        yield
        if wanted:
            self._conn.execute("SET LOCAL enable_hashjoin = off")
