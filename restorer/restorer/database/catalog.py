"""What the database says: tables, columns with their base types, keys, foreign keys, triggers, row security.

Everything is read from pg_catalog by set queries, a handful for a whole schema, whatever the number of tables.
Source of the names: the "System Catalogs" chapter of the PostgreSQL documentation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, cast

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import RowFactory, namedtuple_row

from restorer.model import CheckConstraint, Column, ColumnType, ForeignKey, Table, Unique

_TABLES = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS partitioned,
       row_security_active(c.oid) AS rls,
       ARRAY(SELECT p FROM unnest('{{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}}'::text[]) p WHERE has_table_privilege(c.oid, p)) AS privileges,
       ARRAY(SELECT t.tgname::text FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
             ORDER BY 1) AS triggers,
       EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 7 = 7) AS changing,
       EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type = '3' AND r.ev_enabled <> 'D') AS ruled,
       (c.relkind = 'p' OR NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid)) AND NOT EXISTS (
         SELECT FROM (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) below (oid) JOIN pg_class b ON b.oid = below.oid
         WHERE b.relkind = 'f'
         OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = b.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 12 <> 0)
         OR EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = b.oid AND r.ev_type IN ('3', '4') AND r.ev_enabled <> 'D')
         OR (b.oid <> c.oid AND EXISTS (SELECT FROM pg_index x WHERE x.indrelid = b.oid AND (x.indisunique OR x.indisexclusion)
             AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = x.indexrelid)))
         OR (b.relkind = 'r' AND EXISTS (SELECT FROM pg_publication WHERE pubdelete) AND NOT (b.relreplident IN ('f', 'i')
             OR (b.relreplident = 'd' AND EXISTS (SELECT FROM pg_index x WHERE x.indrelid = b.oid AND x.indisprimary))))) AS undoable,
       ARRAY(SELECT p.pubname::text FROM pg_publication p WHERE p.puballtables OR EXISTS (
             SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = c.oid) ORDER BY 1) AS published,
       EXISTS (SELECT FROM pg_database d WHERE d.datname = current_database() AND pg_has_role(d.datdba, 'USAGE')) OR NOT EXISTS (
         SELECT FROM (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) below (oid) JOIN pg_class b ON b.oid = below.oid
         WHERE NOT (pg_has_role(b.relowner, 'USAGE') OR {maintain})) AS analyzable
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.relname"""

_COLUMNS = """
SELECT a.attrelid::bigint AS oid, a.attname AS name, a.atttypid::bigint AS type, a.atttypmod AS typmod,
       a.attnotnull AS not_null, a.attgenerated <> '' AS generated, a.attidentity::text AS identity,
       (a.atthasdef AND a.attgenerated = '') OR a.attidentity <> '' AS has_default,
       format_type(a.atttypid, a.atttypmod) AS sql,
       COALESCE(s.name, '') AS sequence,
       NOT COALESCE(has_sequence_privilege(s.name, 'SELECT') AND has_sequence_privilege(s.name, 'UPDATE'), true) AS sequence_locked
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT pg_get_serial_sequence(format('%%I.%%I', n.nspname, c.relname), a.attname) AS name) s
WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum"""

_TYPES = """
SELECT t.oid::bigint AS oid, t.typname AS name, t.typtype::text AS kind, t.typbasetype::bigint AS base, t.typtypmod AS typmod,
       t.typnotnull AS not_null, t.typdefault IS NOT NULL AS has_default,
       CASE WHEN t.typcategory = 'A' THEN t.typelem::bigint ELSE 0 END AS element, format_type(t.oid, NULL) AS sql,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels
FROM pg_type t WHERE t.oid = ANY (%s::oid[])"""

_UNIQUES = """
SELECT i.indrelid::bigint AS oid, c.relname AS name, i.indisprimary AS primary, NOT i.indimmediate AS deferrable,
       i.indpred IS NOT NULL AS partial, 0 = ANY (i.indkey) AS expression, {nulls} AS nulls_not_distinct,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k(num, pos)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num ORDER BY k.pos) AS columns
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY (%s::oid[]) AND i.indisunique AND i.indislive ORDER BY NOT i.indisprimary, c.relname"""

_FOREIGN_KEYS = """
SELECT o.conrelid::bigint AS oid, o.conname AS name, n.nspname AS schema, c.relname AS table, rn.nspname AS to_schema, rc.relname AS to_table,
       o.confmatchtype::text AS match, o.confdeltype = 'c' AS cascade,
       has_schema_privilege(rn.oid, 'USAGE') AND has_table_privilege(rc.oid, 'SELECT') AND NOT row_security_active(rc.oid)
         AND to_jsonb(o)->>'conperiod' IS DISTINCT FROM 'true' AND to_jsonb(o)->>'conenforced' IS DISTINCT FROM 'false' AS readable,
       ARRAY(SELECT quote_ident(en.nspname) || '.' || e.oprname FROM unnest(o.conpfeqop) WITH ORDINALITY k(op, pos)
             JOIN pg_operator e ON e.oid = k.op JOIN pg_namespace en ON en.oid = e.oprnamespace ORDER BY k.pos) AS operators,
       o.oid::bigint AS constraint, o.confmatchtype = 's' AND NOT o.condeferrable AND c.relkind = 'r' AND rc.relkind = 'r'
         AND has_table_privilege(rc.oid, 'UPDATE')
         AND NOT EXISTS (SELECT FROM pg_index i, unnest(i.indkey::int2[], i.indcollation::oid[]) x (num, coll)
             JOIN pg_attribute b ON b.attrelid = o.confrelid AND b.attnum = x.num WHERE i.indexrelid = o.conindid AND x.coll <> b.attcollation)
         AND NOT EXISTS (SELECT FROM unnest(o.conkey, o.confkey, o.conpfeqop) k(num, to_num, op)
             JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.num
             JOIN pg_attribute b ON b.attrelid = o.confrelid AND b.attnum = k.to_num
             JOIN pg_type y ON y.oid = a.atttypid JOIN pg_operator e ON e.oid = k.op
             WHERE (a.atttypid, a.attcollation) <> (b.atttypid, b.attcollation) OR y.typtype NOT IN ('b', 'e') OR y.typcategory = 'A'
             OR e.oprname <> '=' OR e.oprnamespace <> 'pg_catalog'::regnamespace OR NOT e.oprcanhash) AS plain,
       ARRAY(SELECT a.attname::text FROM unnest(o.conkey) WITH ORDINALITY k(num, pos)
             JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.num ORDER BY k.pos) AS columns,
       ARRAY(SELECT a.attname::text FROM unnest(o.confkey) WITH ORDINALITY k(num, pos)
             JOIN pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.num ORDER BY k.pos) AS to_columns
FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class rc ON rc.oid = o.confrelid JOIN pg_namespace rn ON rn.oid = rc.relnamespace
WHERE o.contype = 'f' AND o.conparentid = 0 AND {side} = ANY (%s::oid[]) ORDER BY o.conname"""

# the tables themselves, their partitions, and what inherits from them
_BELOW = """
WITH RECURSIVE below AS (SELECT unnest(%s::oid[]) AS oid UNION SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid)
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relispartition AS partition,
       (SELECT min(p.relname) FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = c.oid) AS parent
FROM below b JOIN pg_class c ON c.oid = b.oid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 2, 3"""

_CONSTRAINTS = """
SELECT o.conrelid::bigint AS oid, o.conname AS name, o.contype::text AS kind, pg_get_expr(o.conbin, o.conrelid) AS expression,
       ARRAY(SELECT a.attname::text FROM unnest(o.conkey) k(num) JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.num
             WHERE 0 < ALL (o.conkey)) AS columns -- not where the row as a whole is looked at, or a system column
FROM pg_constraint o WHERE o.contype IN ('c', 'x') AND o.conrelid = ANY (%s::oid[]) ORDER BY o.conname"""


_ROW = cast("RowFactory[Any]", namedtuple_row)  # rows with the columns' names as attributes


class Server(msgspec.Struct, frozen=True):
    """`version`: server_version_num. `protected`: the database bears `dbrestore.protected = 'on'`."""

    version: int
    database: str
    user: str
    read_only: bool
    in_recovery: bool
    protected: bool
    encoding: str
    can_temp: bool


def read_server(conn: psycopg.Connection[Any]) -> Server:
    row = conn.execute(
        "SELECT current_setting('server_version_num')::int, current_database()::text, current_user::text,"
        " current_setting('default_transaction_read_only') = 'on', pg_is_in_recovery(),"
        " COALESCE(lower(current_setting('dbrestore.protected', true)) IN ('on', 'true', 'yes', '1'), false),"
        " pg_encoding_to_char(d.encoding)::text,"
        " has_database_privilege(d.oid, 'TEMP')"
        " FROM pg_database d WHERE d.datname = current_database()"
    ).fetchone()
    assert row is not None
    return Server(*row)


def read_tables(conn: psycopg.Connection[Any], schema: str) -> list[Table]:
    """Every table of `schema` that can hold rows of its own (partitions are reached through their parent)."""
    with conn.cursor(row_factory=_ROW) as cur:
        version = conn.info.server_version
        maintain = "has_table_privilege(b.oid, 'MAINTAIN')" if version >= 170000 else "false"
        tables = cur.execute(sql.SQL(_TABLES).format(maintain=sql.SQL(maintain)), (schema,)).fetchall()
        oids = [t.oid for t in tables]
        raw_columns = cur.execute(_COLUMNS, (oids,)).fetchall()
        types = _Types(cur, {c.type for c in raw_columns})
        nulls = "i.indnullsnotdistinct" if version >= 150000 else "false"
        uniques = _group(cur.execute(sql.SQL(_UNIQUES).format(nulls=sql.SQL(nulls)), (oids,)))
        foreign = _group(cur.execute(sql.SQL(_FOREIGN_KEYS).format(side=sql.SQL("o.conrelid")), (oids,)))
        constraints = _group(cur.execute(_CONSTRAINTS, (oids,)))
    columns: dict[int, list[Column]] = defaultdict(list)
    for c in raw_columns:
        domain_not_null, domain_default = types.domain_facts(c.type)
        columns[c.oid].append(
            Column(
                c.name,
                types.resolve(c.type, c.typmod, c.sql),
                not_null=c.not_null or domain_not_null,
                has_default=c.has_default or (domain_default and not c.generated),
                generated=c.generated,
                identity=c.identity,
                sequence=c.sequence,
                sequence_locked=c.sequence_locked,
            )
        )
    return [
        Table(
            t.schema,
            t.name,
            t.oid,
            tuple(columns[t.oid]),
            tuple(
                Unique(
                    u.name,
                    () if u.expression else tuple(u.columns),
                    u.primary,
                    u.deferrable,
                    u.partial,
                    u.nulls_not_distinct,
                )
                for u in uniques[t.oid]
            ),
            tuple(_foreign_key(f) for f in foreign[t.oid]),
            tuple(CheckConstraint(k.name, k.expression, tuple(k.columns)) for k in constraints[t.oid] if k.kind == "c"),
            tuple(k.name for k in constraints[t.oid] if k.kind == "x"),
            tuple(t.triggers),
            t.partitioned,
            t.rls,
            tuple(t.published),
            tuple(t.privileges),
            t.changing,
            t.ruled,
            t.undoable,
            t.analyzable,
        )
        for t in tables
    ]


def foreign_keys_into(conn: psycopg.Connection[Any], tables: Iterable[Table]) -> list[ForeignKey]:
    """The foreign keys, of any schema, that point at one of `tables` or a partition of it, from any other table."""
    with conn.cursor(row_factory=_ROW) as cur:
        below = [row.oid for row in cur.execute(_BELOW, ([t.oid for t in tables],))]
        query = sql.SQL(_FOREIGN_KEYS).format(side=sql.SQL("NOT (o.conrelid = ANY (%s::oid[])) AND o.confrelid"))
        return [_foreign_key(f) for f in cur.execute(query, (below, below))]


def foreign_keys_of(conn: psycopg.Connection[Any], table: Table) -> list[ForeignKey]:
    """As `table.foreign_keys` was read, but now."""
    with conn.cursor(row_factory=_ROW) as cur:
        return [
            _foreign_key(f)
            for f in cur.execute(sql.SQL(_FOREIGN_KEYS).format(side=sql.SQL("o.conrelid")), ([table.oid],))
        ]


def heirs(conn: psycopg.Connection[Any], tables: Iterable[Table]) -> list[tuple[str, str, str]]:
    """(schema, name, parent) of tables that inherit from one of `tables`, without being a partition or one themselves:
    TRUNCATE and DELETE empty them too."""
    oids = [t.oid for t in tables]
    with conn.cursor(row_factory=_ROW) as cur:
        return [
            (r.schema, r.name, r.parent)
            for r in cur.execute(_BELOW, (oids,))
            if not r.partition and r.oid not in set(oids)
        ]


def _foreign_key(f: Any) -> ForeignKey:
    return ForeignKey(
        f.name,
        f.schema,
        f.table,
        tuple(f.columns),
        f.to_schema,
        f.to_table,
        tuple(f.to_columns),
        f.match,
        f.cascade,
        f.readable,
        f.constraint,
        f.plain,
        tuple(f.operators),
    )


def _group(rows: Iterable[Any]) -> defaultdict[int, list[Any]]:
    grouped: defaultdict[int, list[Any]] = defaultdict(list)
    for row in rows:
        grouped[row.oid].append(row)
    return grouped


class _Types:
    """pg_type rows by oid, with base types and elements fetched until nothing new turns up (a domain over an array of domains)."""

    def __init__(self, cur: psycopg.Cursor[Any], wanted: set[int]) -> None:
        self._rows: dict[int, Any] = {}
        while missing := wanted - self._rows.keys() - {0}:
            for row in cur.execute(_TYPES, (list(missing),)).fetchall():
                self._rows[row.oid] = row
            wanted = {oid for row in self._rows.values() for oid in (row.base, row.element)}

    def resolve(self, oid: int, typmod: int, spelled: str) -> ColumnType:
        row, domain = self._rows[oid], ""
        while row.kind == "d":
            domain = domain or row.sql
            typmod = row.typmod if typmod < 0 else typmod
            row = self._rows[row.base]
        element = self._rows.get(row.element) if row.element else None
        length = precision = scale = None
        if typmod >= 0:
            if row.name in ("varchar", "bpchar"):
                length = typmod - 4
            elif row.name in ("bit", "varbit"):
                length = typmod
            elif row.name == "numeric":
                packed = typmod - 4
                precision = (packed >> 16) & 0xFFFF
                scale = ((packed & 0x7FF) ^ 1024) - 1024  # 11 signed bits since PostgreSQL 15
            elif row.name in ("time", "timetz", "timestamp", "timestamptz"):
                precision = typmod
        return ColumnType(
            row.name,
            row.kind,
            self.resolve(row.element, typmod, element.sql) if element is not None else None,
            length,
            precision,
            scale,
            tuple(row.labels),
            domain,
            spelled,
        )

    def domain_facts(self, oid: int) -> tuple[bool, bool]:
        """(NOT NULL, DEFAULT) by any domain on the way to the base type."""
        row, not_null, default = self._rows[oid], False, False
        while row.kind == "d":
            not_null, default, row = not_null or row.not_null, default or row.has_default, self._rows[row.base]
        return not_null, default
