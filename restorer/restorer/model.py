"""The nouns that travel between modules: what the database says of a table, and what is planned for it.

Plain immutable msgspec structs, so that a plan can be sent to worker processes as it stands.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Layout = Literal["array", "ndjson", "document"]
Compression = Literal["", "gz", "zst"]


class TableFile(msgspec.Struct, frozen=True):
    """One table's records on the volume. `path` is absolute; `member` is the JSON path of the array inside a
    document (`{"users": […]}` -> ("users",)), empty otherwise. `size`: bytes on disk (for a member of a document the
    bytes of its array)."""

    name: str
    path: str
    size: int
    layout: Layout
    compression: Compression = ""
    member: tuple[str, ...] = ()
    expected_records: int | None = None  # from the manifest
    unpacked: int = 0  # bytes of the decompressed file, once preflight knows; 0 when it is not compressed

    @property
    def stream_bytes(self) -> int:
        """What offsets run up to."""
        return self.unpacked or self.size


class ColumnType(msgspec.Struct, frozen=True):
    """A column's type, domains resolved. `name` is pg_type.typname of the base type (int4, text, timestamptz, …).
    `kind`: pg_type.typtype of the base (b base, e enum, c composite, r range, m multirange). `element`: of an array.
    `length`: varchar(n)/char(n); `precision`, `scale`: numeric(p,s) or time/timestamp(p); `labels`: of an enum.
    `sql`: how SQL spells the column's own type (format_type, the domain's name where it is one)."""

    name: str
    kind: str = "b"
    element: ColumnType | None = None
    length: int | None = None
    precision: int | None = None
    scale: int | None = None
    labels: tuple[str, ...] = ()
    domain: str = ""
    sql: str = ""


class Column(msgspec.Struct, frozen=True):
    name: str
    type: ColumnType
    not_null: bool = False
    has_default: bool = False  # a DEFAULT expression or an identity
    generated: bool = False  # GENERATED ALWAYS AS (…) STORED/VIRTUAL: never written
    identity: Literal["", "a", "d"] = ""  # pg_attribute.attidentity
    sequence: str = ""  # the sequence owned by the column, schema-qualified and quoted, or ""
    sequence_locked: bool = False  # this role may not read and move it


class Unique(msgspec.Struct, frozen=True):
    """A unique index that can refuse a row. `columns` is empty when it is on expressions; `partial` when it has a predicate."""

    name: str
    columns: tuple[str, ...]
    primary: bool = False
    deferrable: bool = False
    partial: bool = False
    nulls_not_distinct: bool = False


class ForeignKey(msgspec.Struct, frozen=True):
    """`schema`.`table`.`columns` -> `to_schema`.`to_table`.`to_columns`; `match` f full, s simple. `cascade`: ON DELETE CASCADE.
    `readable`: this role may SELECT from the referenced table and sees all its rows (no row security), one row is the parent (no
    PERIOD), and there must be one (not NOT ENFORCED). `oid`: pg_constraint's.
    `plain`: between two ordinary tables, columns of one base type or enum and one collation, the index's too, compared by its own `=`,
    MATCH SIMPLE, checked at once, and the role may lock the rows referred to. `operators`: what makes a row the parent (parent's
    column first), one for each column, with its schema."""

    name: str
    schema: str
    table: str
    columns: tuple[str, ...]
    to_schema: str
    to_table: str
    to_columns: tuple[str, ...]
    match: str = "s"
    cascade: bool = False
    readable: bool = True
    oid: int = 0
    plain: bool = False
    operators: tuple[str, ...] = ()


class CheckConstraint(msgspec.Struct, frozen=True):
    name: str
    expression: str  # pg_get_expr of conbin: bare column names
    columns: tuple[str, ...] = ()  # those it looks at; none where set queries cannot see all that it looks at


class Table(msgspec.Struct, frozen=True):
    """A table as the catalog shows it. `rls`: row security would apply to this role. `changing`: BEFORE INSERT triggers
    may change a row before its constraints are looked at. `ruled`: rules rewrite INSERT, which COPY passes by. `undoable`:
    a row that was put in can be taken out again and leaves no trace there: no triggers or rules for INSERT or DELETE, also
    of partitions, which have no keys of their own and are all here; a publication of deletes would know which row it was. `analyzable`:
    this role may ANALYZE it, with its partitions."""

    schema: str
    name: str
    oid: int
    columns: tuple[Column, ...]
    uniques: tuple[Unique, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    checks: tuple[CheckConstraint, ...] = ()
    exclusions: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    partitioned: bool = False
    rls: bool = False
    published: tuple[str, ...] = ()
    privileges: tuple[str, ...] = ()  # of SELECT INSERT UPDATE DELETE TRUNCATE, those the role has
    changing: bool = False
    ruled: bool = False
    undoable: bool = True
    analyzable: bool = True

    @property
    def primary_key(self) -> tuple[str, ...]:
        return next((u.columns for u in self.uniques if u.primary), ())

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)


class ColumnPlan(msgspec.Struct, frozen=True):
    """JSON key -> column. The plan lists them in COPY order: plain columns, then date/time columns, then json/jsonb."""

    key: str
    column: Column


class TablePlan(msgspec.Struct, frozen=True):
    """What is to be done with one table file.

    columns  those that COPY writes: the keys seen in the sampled records, and every column whose missing key means NULL
    late     columns with a default whose key was not seen in the sample: a record that has one all the same is loaded
             by the `wide` plan, all others get the default
    ignored  keys that are known but not written (generated columns)
    group    number of the table's strongly connected component of foreign keys; `after`: groups to be done first
    cyclic   rows may refer to rows of the same group, and so may have to wait for them
    """

    file: TableFile
    table: Table
    columns: tuple[ColumnPlan, ...]
    late: tuple[ColumnPlan, ...] = ()
    ignored: tuple[str, ...] = ()
    group: int = 0
    cyclic: bool = False
    after: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def wide(self) -> TablePlan:
        return msgspec.structs.replace(self, columns=copy_order(self.columns + self.late), late=())


_DATES = {"date", "timestamp", "timestamptz"}
_DOCUMENTS = {"json", "jsonb"}


def copy_order(columns: tuple[ColumnPlan, ...]) -> tuple[ColumnPlan, ...]:
    """Plain columns, then dates, then JSON: the converter checks the dates of a row as one run, and doubles quotes in
    what comes last."""

    def rank(c: ColumnPlan) -> int:
        return 2 if c.column.type.name in _DOCUMENTS else 1 if c.column.type.name in _DATES else 0

    return tuple(sorted(columns, key=rank))


class Problem(msgspec.Struct, frozen=True):
    """Why one record cannot be loaded. `message` names type and column, never a value."""

    reason: str
    sqlstate: str = ""
    column: str = ""
    constraint: str = ""
    message: str = ""
