"""Parents that are looked up once: a probe that found and locked them stands for the triggers of the foreign keys.

The trigger of a foreign key looks for the parent of each row and locks it (`SELECT … FOR KEY SHARE`), which takes a third of a
load into tables full of references. A probe has found those parents already. Where it locks them as well, nothing can happen to
them before the batch commits, and the triggers have nothing to say; session_replication_role = replica keeps them from being
called (PostgreSQL documentation, "Client Connection Defaults"). It takes a superuser, or whoever was granted SET on it, and is
done only while nothing else could be passed by: no trigger or rule for INSERT but those foreign keys, and nothing that is
called for a row (a default, a CHECK, an expression of an index, a domain) is somebody's own function, which may do anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from psycopg import sql

from restorer.database.catalog import foreign_keys_of
from restorer.database.connection import Connection
from restorer.model import Table

_HAS_PARAMETER_PRIVILEGES = 150000


class Voucher:
    """For INSERTs and COPYs into one table; an UPDATE has triggers of its own."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._keys = {name for fk in table.foreign_keys for name in fk.columns}
        self._parents = sorted({(fk.to_schema, fk.to_table) for fk in table.foreign_keys})
        self.of_itself = (table.schema, table.name) in self._parents  # rows may be each other's parents
        self._eligible = bool(table.foreign_keys) and all(fk.plain and fk.readable for fk in table.foreign_keys)
        self._eligible &= not (table.triggers or table.partitioned or table.ruled or table.rls)
        self._asked: Connection | None = None
        self._allowed = False

    def shown_by(self, columns: Collection[str]) -> bool:
        """Whether a stage of these columns shows which parents its rows have."""
        return self._keys <= set(columns)

    def may(self, conn: Connection, brought: Collection[str]) -> bool:
        """Whether another look at the parents can stand for the triggers, in this transaction, for rows that bring the columns
        `brought`: the tables are locked, so that nothing becomes of them what was not looked at."""
        if not self._eligible:
            return False
        if self._asked is not conn:
            self._asked, self._allowed = conn, _allowed(conn)
        return self._allowed and self._nothing_else(conn, brought)

    def _nothing_else(self, conn: Connection, brought: Collection[str]) -> bool:
        """The locks are those that COPY and the look at the parents take in a moment, by the same names."""
        parents = sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(*parent)) for parent in self._parents)
        table = sql.Identifier(self._table.schema, self._table.name)
        conn.execute(
            sql.SQL("LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE; LOCK TABLE {} IN ROW SHARE MODE").format(table, parents)
        )
        if foreign_keys_of(conn, self._table) != list(self._table.foreign_keys):
            return False
        oid, oids = self._table.oid, [fk.oid for fk in self._table.foreign_keys]
        row = conn.execute(_SOMETHING_ELSE, {"table": oid, "keys": oids, "brought": list(brought)}).fetchone()
        return row is not None and not row[0]


# A dependency on a function or operator is noted for those that are not PostgreSQL's own (documentation, pg_depend). An expression
# that casts to a domain depends on that type alone, whatever its constraints call. Before 15 the expression of a generated column has
# its dependencies noted as the table's.
_SOMETHING_ELSE = """
WITH RECURSIVE types AS (SELECT a.atttypid AS oid FROM pg_attribute a WHERE a.attrelid = %(table)s::oid AND a.attnum > 0 AND NOT a.attisdropped
       UNION SELECT of.oid FROM types JOIN pg_type y ON y.oid = types.oid, LATERAL (VALUES (y.typelem), (y.typbasetype)) of (oid) WHERE of.oid <> 0)
SELECT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = %(table)s::oid AND t.tgtype & 4 <> 0
         AND NOT (t.tgisinternal AND t.tgenabled = 'O' AND t.tgconstraint = ANY (%(keys)s::oid[])))
  OR EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = %(table)s::oid AND r.ev_type = '3')
  OR EXISTS (SELECT FROM types JOIN pg_type y ON y.oid = types.oid WHERE y.typtype NOT IN ('b', 'e', 'd'))
  OR EXISTS (SELECT FROM (
         SELECT 'pg_class'::regclass, %(table)s::oid
         UNION ALL SELECT 'pg_class'::regclass, i.indexrelid FROM pg_index i WHERE i.indrelid = %(table)s::oid
         UNION ALL SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint c
         WHERE c.conrelid = %(table)s::oid OR c.contypid IN (SELECT oid FROM types)
         UNION ALL SELECT 'pg_type'::regclass, y.oid FROM types JOIN pg_type y ON y.oid = types.oid WHERE y.typtype = 'd'
         UNION ALL SELECT 'pg_attrdef'::regclass, f.oid FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
         WHERE f.adrelid = %(table)s::oid AND a.attname <> ALL (%(brought)s)) called (classid, objid)
       JOIN pg_depend d ON d.classid = called.classid AND d.objid = called.objid
       WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
         OR d.refclassid = 'pg_type'::regclass AND d.classid <> 'pg_type'::regclass AND d.refobjid NOT IN (SELECT oid FROM types)
            AND (SELECT typtype FROM pg_type WHERE oid = d.refobjid) <> 'e')"""


# When what stands between the two fails the transaction is rolled back, and the setting with it.
WITHOUT_TRIGGERS = "SET LOCAL session_replication_role = replica"
WITH_TRIGGERS = (
    "pg_catalog.set_config('session_replication_role', 'origin', true)"  # an expression, for a query that asks more
)


@contextmanager
def without_triggers(conn: Connection) -> Iterator[None]:
    """For what goes in here."""
    conn.execute(WITHOUT_TRIGGERS)
    yield
    conn.execute(f"SELECT {WITH_TRIGGERS}")


def _allowed(conn: Connection) -> bool:
    granted = (
        "has_parameter_privilege('session_replication_role', 'SET')"
        if conn.info.server_version >= _HAS_PARAMETER_PRIVILEGES
        else "(SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
    )
    row = conn.execute(
        f"SELECT current_setting('session_replication_role') = 'origin' AND {granted}".encode()
    ).fetchone()
    return row is not None and bool(row[0])
