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


def tidy(session: Session, spec: RestoreSpec, plans: Plans) -> None:
    """Moves sequences past what came in, and gives the planner its statistics."""
    for plan, column, sequence in sequences.owned(plans):

        def step(_: Connection, p: TablePlan = plan, col: str = column, s: str = sequence) -> None:
            with session.transaction(durable=True) as conn:
                sequences.advance(conn, p, col, s)

        session.retrying(step, what=f"sequence {sequence}")
    # The largest first, so that no session is left with it at the end.
    largest = sorted(plans, key=lambda p: -p.file.stream_bytes)
    abreast(session, _sessions(spec), [(f"ANALYZE {p.name}", partial(_analyze, plan=p)) for p in largest])


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


def _analyze(conn: Connection, plan: TablePlan) -> None:
    conn.execute(sql.SQL("ANALYZE {}").format(of_table(plan.table.schema, plan.name).write))
