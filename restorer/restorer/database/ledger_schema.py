"""The schema that the ledger is kept in: its DDL, whether it is there, and what a role may do in it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import msgspec
import psycopg
from psycopg import sql

from restorer.database.connection import Connection
from restorer.errors import Refused
from restorer.spec import Ledger as LedgerSpec

SCRATCH = "pg_temp"  # PostgreSQL's alias for the session's own temporary schema
TABLES = ("runs", "owners", "target", "tables", "tasks", "rejects", "deferred", "waiting_keys", "origins", "samples")
LOOKED_AT = ("runs", "tables", "tasks", "rejects", "samples")  # by reports and lists
DEFAULT = LedgerSpec().schema_
RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")  # what a run does in it
_CREATE = "CREATE SCHEMA IF NOT EXISTS {schema};"


class _Found(msgspec.Struct, frozen=True):
    """`tables`: how many of the ledger's are there; `lacking`: what this role may not do there, of what was asked;
    `there`: the schema is; `may_create`: tables in it, and it if it is not; `role`, `schema`: names as SQL has them."""

    tables: int
    lacking: tuple[str, ...]
    there: bool
    may_create: bool
    role: str
    schema: str


def ddl(schema: str, role: str = "", *, create_schema: bool = True) -> str:
    """The DDL of the ledger, for a DBA to run where the restoring role may not create schemas. `role`: who is to work with it.

    For `pg_temp` (SCRATCH) the same tables, temporary: a run that leaves nothing behind keeps its ledger there.
    """
    text = resources.files(__package__).joinpath("ledger.sql").read_text(encoding="utf-8")
    if schema == SCRATCH or not create_schema:
        text = text.replace(_CREATE, "")
    made = sql.SQL(text).format(schema=sql.Identifier(schema)).as_string()
    if not role:
        return made
    return f"{made}\n{_grants(sql.Identifier(schema).as_string(), sql.Identifier(role).as_string(), RIGHTS, TABLES)};\n"


def exists(
    conn: Connection, schema: str, rights: Sequence[str] = ("SELECT",), tables: Sequence[str] = LOOKED_AT
) -> bool:
    """Whether the ledger is there, whole. Raises Refused when it is and this role may not do `rights` on these `tables` of it."""
    return _exists(schema, _look(conn, schema, rights, tables), rights, tables)


def ensure(conn: Connection, schema: str) -> None:
    """Creates the ledger's schema and tables if they are not there. Raises Refused when the role may not."""
    found = _look(conn, schema, RIGHTS, TABLES)
    if _exists(schema, found, RIGHTS, TABLES):
        return
    try:
        with conn.transaction():
            conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('dbrestore.ledger', 0))")  # IF NOT EXISTS races
            # Who may create tables in a schema need not be one who may create schemas, not even with IF NOT EXISTS.
            conn.execute(ddl(schema, create_schema=not found.there))
    except psycopg.errors.InsufficientPrivilege:
        raise Refused(*_uncreated(schema, found)) from None


def refusals(conn: Connection, schema: str, *, can_temp: bool) -> list[str]:
    """Why a run could not keep its ledger there, one line each. `can_temp`: it may create temporary tables; else those that it
    needs go into this schema."""
    found = _look(conn, schema, RIGHTS, TABLES)
    problems = []
    if found.tables < len(TABLES) and not found.may_create:
        problems.append(": ".join(_uncreated(schema, found)))
    elif found.tables == len(TABLES) and found.lacking:
        problems.append(": ".join(_lacking(schema, found, RIGHTS, TABLES)))
    if not can_temp and not found.may_create:
        problems.append(
            f"this role may create no temporary tables, nor any in the ledger's schema {schema!r} instead: "
            f"have a DBA run: GRANT CREATE ON SCHEMA {found.schema} TO {found.role}"
        )
    return problems


def _exists(schema: str, found: _Found, rights: Sequence[str], tables: Sequence[str]) -> bool:
    if found.tables < len(TABLES):
        return False
    if found.lacking:
        raise Refused(*_lacking(schema, found, rights, tables))
    return True


def _look(conn: Connection, schema: str, rights: Sequence[str], tables: Sequence[str]) -> _Found:
    names = (schema, schema, schema, list(tables), list(rights), schema, list(TABLES))
    row = conn.execute(_LOOK, names).fetchone()
    assert row is not None
    number, usable, lacking, *rest = row
    may_not = [] if usable else ["USAGE"]
    may_not += [right for right in rights if right in (lacking or ())]
    return _Found(number, tuple(may_not), *rest)


_LOOK = """
SELECT l.tables, COALESCE(l.usable, true), l.lacking, EXISTS (SELECT FROM pg_namespace WHERE nspname = %s),
       COALESCE((SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = %s),
                has_database_privilege(current_database(), 'CREATE')), quote_ident(current_user), quote_ident(%s)
FROM (SELECT count(DISTINCT c.oid) AS tables, bool_and(has_schema_privilege(n.oid, 'USAGE')) AS usable,
             array_agg(DISTINCT r.name) FILTER (WHERE c.relname = ANY (%s) AND NOT has_table_privilege(c.oid, r.name)) AS lacking
      FROM unnest(%s::text[]) r (name), pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = %s AND c.relname = ANY (%s)) l"""


def _lacking(schema: str, found: _Found, rights: Sequence[str], tables: Sequence[str]) -> tuple[str, str]:
    return (
        f"this role lacks {', '.join(found.lacking)} in the ledger's schema {schema!r}",
        f"have a DBA run: {_grants(found.schema, found.role, rights, tables)}",
    )


def _grants(schema: str, role: str, rights: Sequence[str], tables: Sequence[str]) -> str:
    """What lets a role do `rights` in a ledger that another one made. Names of schema and role as SQL has them. The tables by their
    names: others may be in the schema, and who only looks need not see whole records."""
    names = ", ".join(f"{schema}.{table}" for table in tables)
    return f"GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT {', '.join(rights)} ON {names} TO {role}"


def _uncreated(schema: str, found: _Found) -> tuple[str, str]:
    elsewhere = "" if schema == DEFAULT else f" --ledger-schema {found.schema}"
    return (
        f"this role may not create the ledger's schema {schema!r}, or a table that is missing in it",
        f"have a DBA run the output of `restorer ledger ddl --grant-to {found.role}{elsewhere}`, "
        "or name a schema of yours with ledger.schema",
    )
