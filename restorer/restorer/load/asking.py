"""A probe without a table: what it would see goes along with one query, as arrays.

To fill a temporary table, look through it for one thing after the other and have the commit empty it takes three times as long.
Rows that share a key with each other are found here, by the bytes of their keys: most keys are spelled in one way only. Where that
is wrong the COPY fails, or a row that was set aside meets one that it brought in (Keyed.meets_own); then a probe that is a stage
(sifting.py) is asked. So it is wherever a field reads otherwise in an array than in a line of COPY, or the query fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psycopg
from psycopg import sql

from restorer.convert.exact import only_the_server_can_read
from restorer.database.connection import Connection, kind_of
from restorer.database.problems import named
from restorer.database.relation import Relations, columns
from restorer.load.conditions import (
    EACH,
    array,
    beside_parameters,
    checks,
    joined,
    locked_parents,
    missing,
    not_among,
    screenable,
    visible,
    within,
)
from restorer.load.shaping import Shape
from restorer.load.sifting import Sifted
from restorer.load.staged import ordinal_name
from restorer.model import ForeignKey, Problem, Table, Unique

_NULL = b"null"
_TAKEN = -1  # beside the numbers of what can be wrong with a row


class Unanswered(Exception):
    """The query did not go through, or what it said was not all; the transaction must be undone."""


class Answer(NamedTuple):
    """`bad`: row -> what is wrong with it; `taken`: rows of which the table has a key; `shared`: rows that share one."""

    bad: dict[int, Problem]
    taken: set[int]
    shared: set[int]


class Asking:
    """The questions about rows of one table, of which a probe would have the columns `given`."""

    def __init__(self, table: Table, relations: Relations, given: Shape) -> None:
        self._table, self._relations, self._given = table, relations, given
        self._target = relations.of(table)
        self._uniques = visible(table, given)
        self._ord = sql.Identifier(ordinal_name(table))
        self._said: dict[bool, tuple[list[Problem], bytes]] = {}

    @staticmethod
    def possible(table: Table, given: Shape) -> bool:
        """Whether values of these columns can stand in arrays, and the server takes them all as they are; and whether rows tell by
        which transaction they came: those of a foreign partition do not."""
        types = [table.column(name).type for name in given]
        told = table.undoable or not table.partitioned
        return told and not any(only_the_server_can_read(kind) or kind.element for kind in types)

    def ask(self, conn: Connection, sifted: Sifted, *, vouching: bool) -> Answer:
        """What Stage.screen and Stage.colliding find. `vouching`: as for the former. Raises Unanswered."""
        if not sifted.indices:
            return Answer({}, set(), set())
        fields = sifted.columns()
        problems, query = self._said.get(vouching) or self._say(vouching)
        try:
            found = conn.execute(query, [array(each) for each in fields]).fetchall()
        except psycopg.Error as error:
            if kind_of(error) == "transient":
                raise
            raise Unanswered from error
        bad, taken, shared = dict[int, Problem](), set[int](), set[int]()
        for number, which in found:
            index = sifted.indices[number - 1]
            if which == _TAKEN:
                taken.add(index)
            else:
                bad[index] = problems[which]
        values = {name: each.split(b"\n") for name, each in zip(self._given, fields, strict=True)}
        for unique in self._uniques:
            shared.update(sifted.indices[at] for at in _shared([values[name] for name in unique.columns], unique))
        return Answer(bad, taken, shared - bad.keys())

    def _keys(self) -> Iterator[ForeignKey]:
        for fk in self._table.foreign_keys:
            if screenable(fk, self._given):
                yield fk

    def _say(self, vouching: bool) -> tuple[list[Problem], bytes]:
        """-> (what can be wrong with a row, the query that gives its number); kept, as each batch asks the same."""
        problems = self._problems(vouching)
        said = [problem for _, problem in problems], self._query([test for test, _ in problems], vouching)
        self._said[vouching] = said
        return said

    def _problems(self, vouching: bool) -> list[tuple[sql.Composed, Problem]]:
        """(condition, what is wrong with a row that meets it); the first one counts."""
        if self._table.changing:
            return []
        found = checks(self._table, self._given)
        for n, fk in enumerate(self._keys()):
            orphan = not_among(fk, _parents(n)) if vouching else missing(fk, self._relations, each=True)
            found.append((orphan, named("23503", constraint=fk.name)))
        return found

    def _query(self, tests: Sequence[sql.Composed], vouching: bool) -> bytes:
        rows = sql.Identifier("dbrestore rows")
        # The table's own columns say what collations the values have.
        head = sql.SQL(
            "WITH {} AS (SELECT {}, 0::bigint AS {} FROM {} WHERE false UNION ALL SELECT * FROM unnest("
        ).format(rows, columns(self._given), self._ord, self._target.read)
        parents = [
            sql.SQL(", {} AS MATERIALIZED ({})").format(_parents(n), locked_parents(fk, self._relations, rows))
            for n, fk in enumerate(self._keys() if vouching else ())
        ]
        cases = [*zip(tests, range(len(tests)), strict=True), *((self._taken(u), _TAKEN) for u in self._uniques)]
        whens = [sql.SQL("WHEN {} THEN {}").format(test, sql.Literal(which)) for test, which in cases]
        tail = sql.SQL(
            ") WITH ORDINALITY){} SELECT * FROM (SELECT s.{}, CASE {} END AS which FROM {} AS s OFFSET 0) found WHERE which IS NOT NULL"
        ).format(sql.SQL("").join(parents), self._ord, sql.SQL(" ").join(whens), rows)
        arrays = (f"%s::{beside_parameters(self._table.column(name).type.sql)}[]" for name in self._given)
        return "".join(
            [beside_parameters(head.as_string()), ", ".join(arrays), beside_parameters(tail.as_string())]
        ).encode()

    def _taken(self, unique: Unique) -> sql.Composed:
        return sql.SQL("{} AND EXISTS (SELECT FROM {} AS t WHERE {} AND {}{})").format(
            within(unique, self._table, self._target),
            self._target.read,
            joined(unique),
            self._target.current("t"),
            EACH,
        )


def _parents(number: int) -> sql.Identifier:
    return sql.Identifier(f"dbrestore parents {number}")


def _shared(fields: list[list[bytes]], unique: Unique) -> set[int]:
    """Positions of the keys that occur more than once; `fields`: of each of the key's columns."""
    keys: Sequence[object] = fields[0] if len(fields) == 1 else list(zip(*fields, strict=True))
    first = dict[object, int]()
    later = [at for at, key in enumerate(keys) if first.setdefault(key, at) != at]
    if not unique.nulls_not_distinct:  # with a null in it, a key is like none
        later = [at for at in later if not any(field[at] == _NULL for field in fields)]
    return {*later, *(first[keys[at]] for at in later)}
