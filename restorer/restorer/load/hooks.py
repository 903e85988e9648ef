"""A person's own SQL before and after a restore."""

from __future__ import annotations

from collections.abc import Collection

from restorer.database.connection import Connection
from restorer.database.ledger import Ledger
from restorer.database.session import Session
from restorer.spec import Hook


def run_hooks(session: Session, ledger: Ledger, when: str, hooks: list[Hook], marks: Collection[str]) -> None:
    """Each hook in one transaction with its mark: a resumed run, which knows the `marks`, does not run it again."""
    for hook in hooks:
        mark = f"hook:{when}:{hook.name}"
        if mark in marks:
            continue

        def step(_: Connection, hook: Hook = hook, mark: str = mark) -> None:
            with session.transaction(durable=True) as conn:
                ledger.fence(conn)
                if ledger.mark(conn, mark):
                    conn.execute(hook.sql)

        session.retrying(step, what=f"hook {hook.name}")
