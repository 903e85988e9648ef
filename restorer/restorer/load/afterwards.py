"""What is left to do when every record is loaded: sequences, ANALYZE, the checks. As many at once as workers loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from restorer.database import account, sequences, verify
from restorer.database.abreast import Step, abreast
from restorer.database.connection import Connection
from restorer.database.ledger import Ledger
from restorer.database.session import Session
from restorer.database.tasks import Tasks
from restorer.load import compare, statistics
from restorer.load.leader import worker_processes
from restorer.load.statistics import Early
from restorer.model import TablePlan
from restorer.report import Check
from restorer.spec import RestoreSpec

Plans = tuple[TablePlan, ...]
Steps = list[Step[Check | None]]


def finish(
    session: Session,
    ledger: Ledger,
    spec: RestoreSpec,
    plans: Plans,
    early: Early,
    hooks: Callable[[], None],
) -> list[Check]:
    """Sequences, ANALYZE, hooks, checks, as far as the spec asks for them. `early`: what was done of the second
    during the load. `hooks`: runs the hooks after a restore. -> what the checks found"""
    if spec.mode == "DryRun":
        return []
    accounts = {a.name: a for a in session.retrying(partial(_accounts, ledger=ledger), what="verification")}
    checks: Steps = [_check(ask) for ask in verify.checks(spec, plans, accounts)]
    queries: Steps = [_check(ask) for ask in verify.queries(spec)]  # they may go by the planner's statistics
    if spec.mode == "VerifyOnly":
        content: Steps = [_check(ask) for ask in compare.checks(plans, accounts, spec)]
        return _done(session, spec, content + checks + queries)
    _advance_sequences(session, plans)
    if not spec.hooks.post_restore:
        found = _analyzed(session, ledger, spec, plans, early, checks)
        return found + _done(session, spec, queries)
    _analyzed(session, ledger, spec, plans, early, [])
    hooks()
    return _done(session, spec, checks + queries)


def _accounts(conn: Connection, ledger: Ledger) -> list[account.TableAccount]:
    Tasks(ledger).refuse_ended(conn)  # of a run that somebody has just forgotten nothing is known
    return account.accounts(conn, ledger)


def analyze(conn: Connection, plan: TablePlan, *, ledger: Ledger, spec: RestoreSpec) -> None:
    """ANALYZE of one table, unless this run left it as it was and its statistics are good."""
    as_it_was = spec.cleanup not in ("Truncate", "Delete") and not spec.hooks.pre_restore
    untouched = as_it_was and not account.wrote(conn, ledger, plan.name)
    statistics.analyze(conn, plan, untouched=untouched)


def _advance_sequences(session: Session, plans: Plans) -> None:
    """Past what came in."""
    for plan, column, sequence in sequences.owned(plans):

        def step(_: Connection, p: TablePlan = plan, col: str = column, s: str = sequence) -> None:
            with session.transaction(durable=True) as conn:
                sequences.advance(conn, p, col, s)

        session.retrying(step, what=f"sequence {sequence}")


def _analyzed(
    session: Session, ledger: Ledger, spec: RestoreSpec, plans: Plans, early: Early, checks: Steps
) -> list[Check]:
    """Gives the planner its statistics, where something changed, with the `checks` beside that. -> what they found"""
    # The largest first, so that no session is left with it at the end.
    steps: dict[str, Step[Check | None]] = {
        p.name: (f"ANALYZE {p.name}", partial(analyze, plan=p, ledger=ledger, spec=spec))
        for p in sorted(plans, key=lambda p: -p.file.stream_bytes)
    }
    begun = early.stop()
    found = _done(session, spec, [step for name, step in steps.items() if name not in begun] + checks)
    _done(session, spec, [steps[name] for name in early.missed(begun)])
    return found


def _done(session: Session, spec: RestoreSpec, steps: Steps) -> list[Check]:
    """All in the run's own session where no workers were beside it. -> what the checks among the steps found"""
    return [c for c in abreast(session, max(1, worker_processes(spec)), steps) if c is not None]


def _check(ask: verify.Ask) -> Step[Check | None]:
    return "verification", ask
