"""What is left to do when every record is loaded: sequences, ANALYZE, the checks. As many at once as workers loaded."""

from __future__ import annotations

from functools import partial

from psycopg import sql

from restorer.database import account, sequences, verify
from restorer.database.abreast import abreast
from restorer.database.connection import Connection
from restorer.database.ledger import Ledger
from restorer.database.relation import of_table
from restorer.database.session import Session
from restorer.load import compare
from restorer.load.leader import worker_processes
from restorer.model import TablePlan
from restorer.report import Check
from restorer.spec import RestoreSpec

Plans = tuple[TablePlan, ...]


def tidy(session: Session, ledger: Ledger, spec: RestoreSpec, plans: Plans) -> None:
    """Moves sequences past what came in, and gives the planner its statistics where something changed."""
    for plan, column, sequence in sequences.owned(plans):

        def step(_: Connection, p: TablePlan = plan, col: str = column, s: str = sequence) -> None:
            with session.transaction(durable=True) as conn:
                sequences.advance(conn, p, col, s)

        session.retrying(step, what=f"sequence {sequence}")
    # The largest first, so that no session is left with it at the end.
    largest = sorted(plans, key=lambda p: -p.file.stream_bytes)
    same = session.retrying(lambda conn: _untouched(conn, ledger, spec), what="statistics")
    steps = [(f"ANALYZE {p.name}", partial(_analyze, plan=p, untouched=p.name in same)) for p in largest]
    abreast(session, _sessions(spec), steps)


def verified(session: Session, ledger: Ledger, spec: RestoreSpec, plans: Plans) -> list[Check]:
    """The checks that the spec asks for, in its order."""
    known = session.retrying(lambda conn: account.accounts(conn, ledger), what="verification")
    accounts, compared = {a.name: a for a in known}, list[Check]()
    if spec.mode == "VerifyOnly":
        compared = session.retrying(lambda conn: compare.checks(conn, plans, accounts, spec), what="verification")
    asked = [("verification", ask) for ask in verify.checks(spec, plans, accounts)]
    return compared + abreast(session, _sessions(spec), asked)


def _sessions(spec: RestoreSpec) -> int:
    """All in the run's own session where no workers were beside it."""
    return max(1, worker_processes(spec))


def _untouched(conn: Connection, ledger: Ledger, spec: RestoreSpec) -> set[str]:
    """The tables that this run left as they were."""
    if spec.cleanup in ("Truncate", "Delete") or spec.hooks.pre_restore:
        return set()
    return {a.name for a in account.accounts(conn, ledger) if not a.inserted and not a.updated}


def _analyze(conn: Connection, plan: TablePlan, *, untouched: bool) -> None:
    if not (untouched and _has_statistics(conn, plan.table.oid)):
        conn.execute(sql.SQL("ANALYZE {}").format(of_table(plan.table.schema, plan.name).write))


def _has_statistics(conn: Connection, oid: int) -> bool:
    """Of all rows and columns that it has now. (What this session itself changed a moment ago the server may count only later.)"""
    row = conn.execute(_HAS_STATISTICS, (oid,)).fetchone()
    return row is not None and bool(row[0])


# Of a column that came later there is nothing in pg_stats, nor of one that this role may not read. ALTER TABLE is no change that is
# counted, nor is what happens to a child or partition.
_HAS_STATISTICS = """
SELECT current_setting('track_counts')::bool AND t.n_mod_since_analyze = 0 AND COALESCE(t.last_analyze, t.last_autoanalyze) IS NOT NULL
  AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = t.relid)
  AND NOT EXISTS (SELECT FROM pg_statistic_ext WHERE stxrelid = t.relid)
  AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = t.relid AND indexprs IS NOT NULL)
  AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.relid AND a.attnum > 0 AND NOT a.attisdropped AND NOT EXISTS (
      SELECT FROM pg_stats s WHERE s.schemaname = t.schemaname AND s.tablename = t.relname AND s.attname = a.attname))
FROM pg_stat_all_tables t WHERE t.relid = %s"""
