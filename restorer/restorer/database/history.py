"""What a run was like while it went on, out of the ledger: how far it was when, when each table was loaded, why rejects."""

from __future__ import annotations

from restorer.database.connection import Connection
from restorer.database.ledger import Ledger
from restorer.report import History, Moment, Reason, TableTimes


def history(conn: Connection, ledger: Ledger) -> History:
    """The history of one run; empty lists for a run that is not there. Reasons: most records first; only of rejects that
    the ledger still has."""
    since = "EXTRACT(epoch FROM {} - r.created_at)::float8"
    moments = conn.execute(
        ledger.q(
            f"SELECT {since.format('s.at')}, s.bytes, s.read, s.rejected FROM {{samples}} s JOIN {{runs}} r ON r.run = s.run "
            "WHERE s.run = %s ORDER BY s.at"
        ),
        (ledger.run,),
    )
    tables = conn.execute(
        ledger.q(
            f"SELECT b.name, {since.format('b.started_at')}, {since.format('b.finished_at')}, "
            "COALESCE((SELECT sum(t.read) FROM {tasks} t WHERE t.run = b.run AND t.table_name = b.name), 0)::bigint "
            "FROM {tables} b JOIN {runs} r ON r.run = b.run WHERE b.run = %s ORDER BY b.position"
        ),
        (ledger.run,),
    )
    reasons = conn.execute(
        ledger.q(
            "SELECT table_name, reason, count(*) FROM {rejects} WHERE run = %s GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
        ),
        (ledger.run,),
    )
    return History([Moment(*m) for m in moments], [TableTimes(*t) for t in tables], [Reason(*r) for r in reasons])
