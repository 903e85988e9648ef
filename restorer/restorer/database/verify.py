"""After the load: what the file says against what the ledger and the table say. Each check is one row of the report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import psycopg
from psycopg import sql

from restorer.database.account import TableAccount
from restorer.database.connection import Connection, kind_of
from restorer.database.relation import columns, is_parent, of_table
from restorer.database.sequences import next_is_free, owned
from restorer.database.session import describe, unhurried, unhurried_row
from restorer.errors import LoadFailed
from restorer.model import ForeignKey, TablePlan
from restorer.report import Check
from restorer.spec import RestoreSpec

Ask = Callable[[Connection], Check]


def checks(spec: RestoreSpec, plans: tuple[TablePlan, ...], accounts: dict[str, TableAccount]) -> list[Ask]:
    """All checks that the spec asks for but its queries, each by itself. `accounts`: what the ledger says of each table."""
    asked, found = spec.verification, list[Ask]()
    for plan in plans:
        account = accounts[plan.name]
        if plan.file.expected_records is not None:
            found.append(known("manifestCount", plan.name, plan.file.expected_records, account.read))
        if asked.row_counts:
            if account.records_in_file is not None and plan.file.layout != "ndjson":  # blank lines have numbers too
                found.append(known("fileCount", plan.name, account.records_in_file, account.read))
            if account.was_empty:
                found.append(partial(row_count, check="rowCount", plan=plan, expected=account.inserted))
        if asked.foreign_keys:
            found += [partial(_foreign_key, plan=plan, fk=fk) for fk in plan.table.foreign_keys if fk.readable]
    if asked.sequences:
        found += [partial(_sequence, plan=p, column=column, sequence=name) for p, column, name in owned(plans)]
    found += [partial(_not_null, schema=spec.target.schema_, name=name) for name in asked.not_null]
    return found


def queries(spec: RestoreSpec) -> list[Ask]:
    """The queries that the spec asks for."""
    return [partial(_query, name=q.name, text=q.sql, expect=q.expect) for q in spec.verification.queries]


def known(check: str, table: str, expected: int, actual: int) -> Ask:
    """A check for which nobody need be asked."""
    return lambda _: _equal(check, table, expected, actual)


def row_count(conn: Connection, check: str, plan: TablePlan, expected: int) -> Check:
    """The rows that the table has."""
    query = sql.SQL("SELECT count(*) FROM {}").format(of_table(plan.table.schema, plan.name).read)
    row = unhurried_row(conn, query)
    return _equal(check, plan.name, expected, int(row[0]) if row else 0)


def _sequence(conn: Connection, plan: TablePlan, column: str, sequence: str) -> Check:
    with unhurried(conn):
        free, expected, actual = next_is_free(conn, plan, column, sequence)
    return Check("sequence", f"{plan.name}.{column}", free, f">= {expected}" if expected else "", actual)


def _equal(check: str, table: str, expected: int, actual: int) -> Check:
    return Check(check, table, expected == actual, str(expected), str(actual))


def _foreign_key(conn: Connection, plan: TablePlan, fk: ForeignKey) -> Check:
    """Rows that refer to a parent that is not there. A constraint may be NOT VALID, or its triggers may be switched off."""
    query = sql.SQL(
        "SELECT count(*) FROM {} c WHERE ({}) IS NOT NULL AND NOT EXISTS (SELECT FROM {} p WHERE {})"
    ).format(
        of_table(plan.table.schema, plan.name).read,
        columns(fk.columns, "c"),
        of_table(fk.to_schema, fk.to_table).read,
        is_parent("p", "c", fk),
    )
    row = unhurried_row(conn, query)
    return _equal(f"foreignKey {fk.name}", plan.name, 0, int(row[0]) if row else 0)


def _not_null(conn: Connection, schema: str, name: str) -> Check:
    table, _, column = name.partition(".")
    query = sql.SQL("SELECT count(*) FROM {} WHERE {} IS NULL").format(
        of_table(schema, table).read, sql.Identifier(column)
    )
    try:
        row = unhurried_row(conn, query)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.SyntaxError):
        return Check("notNull", name, False, "0", "no such table or column")
    return _equal("notNull", name, 0, int(row[0]) if row else 0)


def _query(conn: Connection, name: str, text: str, expect: str) -> Check:
    """A query of the spec, in a transaction that may not write. Only an answer as short as a count is shown."""
    try:
        with unhurried(conn):
            conn.execute("SET TRANSACTION READ ONLY")
            row = conn.execute(text).fetchone()
            over = conn.info.transaction_status != psycopg.pq.TransactionStatus.INTRANS
    except psycopg.ProgrammingError as error:
        words = describe(error) if error.sqlstate else "no rows to be had"
        return Check(f"query {name}", "", False, expect, words)
    except psycopg.Error as error:
        if kind_of(error) == "transient" and error.sqlstate != "25006":  # it tried to write, which it may not
            raise
        return Check(f"query {name}", "", False, expect, describe(error))
    if over:
        return Check(f"query {name}", "", False, expect, "the query ended its transaction")
    answer = "" if row is None or row[0] is None else str(row[0]).lower() if isinstance(row[0], bool) else str(row[0])
    return Check(
        f"query {name}", "", answer == expect, expect, answer if len(answer) <= 32 else f"{len(answer)} characters"
    )


def failed(checks: list[Check]) -> LoadFailed | None:
    """The error for checks that did not pass, or None."""
    bad = [c for c in checks if not c.passed]
    if not bad:
        return None
    first = bad[0]
    where = f" of {first.table}" if first.table else ""
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return LoadFailed(
        f"verification failed: {first.check}{where} is {first.actual or 'nothing'}, expected {first.expected}{more}",
        "see `verification` in the report",
        reason="VerificationFailed",
        table=first.table,
    )
