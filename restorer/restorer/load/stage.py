"""The Merge rung's table: rows wait in a temporary table while set queries say which of them can go in.

One statement finds all the rows with a null, another all that have no parent, another all whose key is there already:
a batch with a hundred bad rows costs what one with a single bad row costs. ON CONFLICT could not do it: it does not
take deferrable constraints (55000), a second key (23505), duplicates inside one statement (21000), or an identity
column GENERATED ALWAYS on update (428C9).
"""

from __future__ import annotations

from psycopg import sql

from restorer.database.connection import Connection
from restorer.database.relation import columns, equal
from restorer.load.contest import Contested


class Suppressed(Exception):
    """The server took fewer rows than it was given, and said nothing: a trigger returned NULL, or a rule stepped in."""


class Stage(Contested):
    """A temporary table for rows of `table`. `given`: the columns that these rows bring (the others get their default).

    Lives in the caller's transaction. Rows found wanting are taken out and handed back; what stays can go in.
    """

    def _which(self, which: list[int] | None) -> sql.Composable:
        return sql.SQL("true") if which is None else sql.SQL("s.{} = ANY ({})").format(self.ord, sql.Literal(which))

    def update_clause(self, which: list[int] | None = None) -> sql.Composed | None:
        """`UPDATE t SET … FROM stage`: the rows that are there (policy Update) get what the stage's rows, or those in
        `which`, bring. None when there is nothing that may be updated."""
        fixed = {c.name for c in self.table.columns if c.identity == "a"} | set(
            self._identity.columns if self._identity else ()
        )
        settable = tuple(n for n in self.given if n not in fixed)
        if not self._identity or not settable:
            return None
        if self._target.real is not None:
            self._adopt(which)
        assign = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(n), sql.Identifier("s", n)) for n in settable
        )
        return sql.SQL("UPDATE {} AS t SET {} FROM {} AS s WHERE {} AND {}").format(
            self._target.write, assign, self.name,
            equal("t", self._identity.columns, "s", self._identity.columns), self._which(which),
        )  # fmt: skip

    def _adopt(self, which: list[int] | None) -> None:
        """A dry run: the stand-in gets the rows that are about to be updated as the table has them."""
        assert self._identity is not None
        assert self._target.real is not None
        every = columns(tuple(c.name for c in self.table.columns if not c.generated))
        of_it = columns(tuple(c.name for c in self.table.columns if not c.generated), "t")
        self._run(
            "INSERT INTO {w} ({every}) OVERRIDING SYSTEM VALUE SELECT {of_it} FROM {real} AS t "
            "WHERE EXISTS (SELECT FROM {s} AS s WHERE {join} AND {which}) AND NOT EXISTS (SELECT FROM {w} AS n WHERE {known})",
            w=self._target.write, every=every, of_it=of_it, real=self._target.real, which=self._which(which),
            join=equal("t", self._identity.columns, "s", self._identity.columns),
            known=equal("n", self._target.key, "t", self._target.key),
        )  # fmt: skip

    def insert_clause(self, which: list[int] | None = None, *, new: bool = False) -> sql.Composed:
        """`INSERT INTO t (…) OVERRIDING SYSTEM VALUE SELECT … FROM stage`, in the file's order. `new`: only rows that the
        table has not."""
        only = self._which(which)
        if new and self._identity:
            only = sql.SQL("{} AND NOT EXISTS (SELECT FROM {} AS t WHERE {})").format(
                only, self._target.read, equal("t", self._identity.columns, "s", self._identity.columns)
            )
        given = sql.SQL(" ({})").format(columns(self.given)) if self.given else sql.SQL("")
        return sql.SQL("INSERT INTO {}{} OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s WHERE {} ORDER BY s.{}").format(
            self._target.write, given, columns(self.given, "s"), self.name, only, self.ord
        )

    def insert(self, which: list[int] | None = None) -> int:
        """-> how many rows the server says it took"""
        return self._conn.execute(self.insert_clause(which)).rowcount

    def absent(self) -> list[int] | None:
        """After `insert`: ordinals of the rows whose key the table has not; None where there is no key to tell by."""
        if self._identity is None:
            return None
        return [
            row[0]
            for row in self._run(
                "SELECT s.{ord} FROM {s} AS s WHERE NOT EXISTS (SELECT FROM {t} AS t WHERE {join})",
                join=equal("t", self._identity.columns, "s", self._identity.columns),
            )
        ]

    def compare(self) -> tuple[int, int, list[int]]:
        """(same, different, missing): how many of the rows the table has with the same content, how many with other
        content, and the ordinals of those it has not. Without a key a row is there when one with the same content is."""
        if self._identity:
            there = sql.SQL("t.{} IS NOT NULL").format(sql.Identifier(self._identity.columns[0]))
            join, same = equal("t", self._identity.columns, "s", self._identity.columns), self._same("s", "t")
            source = sql.SQL("SELECT s.{} AS o, {} AS there, {} AS same FROM {} AS s LEFT JOIN {} AS t ON {}")
            rows = source.format(self.ord, there, same, self.name, self._target.read, join)
        else:
            with self._hash_joins(True):
                missing = [
                    row[0]
                    for row in self._run(
                        "SELECT s.{ord} FROM {s} AS s WHERE NOT EXISTS (SELECT FROM {t} AS t WHERE {a} = {b} AND {same})",
                        a=self._digest("t"), b=self._digest("s"), same=self._same("s", "t"),
                    )
                ]  # fmt: skip
            return self.count() - len(missing), 0, missing
        row = self._run(
            "SELECT count(*) FILTER (WHERE there), count(*) FILTER (WHERE there AND NOT same), "
            "array_agg(o) FILTER (WHERE NOT there) FROM ({rows}) x",
            rows=rows,
        ).fetchone()
        assert row is not None
        matched, different, missing = row
        return matched - different, different, list(missing or ())

    def _digest(self, alias: str) -> sql.Composed:
        """A hash of what the rows bring, alike for the same content; types that spell one value in several ways are left
        out. IS NOT DISTINCT FROM alone would hold every row against every other one."""
        texts = [
            sql.SQL("{}::text").format(sql.Identifier(alias, c.name))
            for c in self.table.columns
            if c.name in set(self.given) and c.type.name not in ("numeric", "float4", "float8", "jsonb")
        ]
        return sql.SQL("hashtextextended(ROW({})::text, 0)").format(sql.SQL(", ").join(texts))


def write_together(
    conn: Connection, parts: list[tuple[Stage, list[int] | None]], *, update: bool
) -> list[tuple[int, int]]:
    """(inserted, updated) for each stage (all its rows, or some), by ONE statement: foreign keys are checked at its end
    (PostgreSQL documentation, CREATE TABLE, NOT DEFERRABLE), so rows may refer to each other whatever is done to them.
    `update`: rows that are there are updated (policy Update)."""
    clauses, counts = [], []
    for n, (stage, which) in enumerate(parts):
        for kind, clause in (
            ("i", stage.insert_clause(which, new=update)),
            ("u", stage.update_clause(which) if update else None),
        ):
            name = sql.SQL(f"{kind}{n}")
            if clause is None:
                counts.append(sql.SQL("0").format())
                continue
            clauses.append(sql.SQL("{} AS ({} RETURNING 1)").format(name, clause))
            counts.append(sql.SQL("(SELECT count(*) FROM {})").format(name))
    query = sql.SQL("WITH {} SELECT {}").format(sql.SQL(", ").join(clauses), sql.SQL(", ").join(counts))
    row = conn.execute(query).fetchone()
    assert row is not None
    return list(zip(row[::2], row[1::2], strict=True))
