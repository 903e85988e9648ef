"""Who waits for which database: one restore at a time per target, the oldest first.

Only what spares pods that would wait; the ledger in the database is the fence. Kept up to date by events and looks.
"""

from __future__ import annotations

from dataclasses import dataclass

from .api import DatabaseRestore
from .queue import Key
from .status import is_over

Target = tuple[str, int, str]  # host, port, database


@dataclass
class _Claim:
    target: Target
    age: tuple[str, Key]  # creationTimestamp, in whole seconds; then the name, which a person can see
    waits: bool
    holds: bool


def target_of(restore: DatabaseRestore) -> Target:
    """The database, by one name: a short host is a Service of the restore's own namespace."""
    target = restore.spec.target
    host = target.host.lower().rstrip(".").removesuffix(".cluster.local").removesuffix(".svc")
    if "." not in host and ":" not in host and host != "localhost":
        host = f"{host}.{restore.metadata.namespace}"
    return host, target.port, target.database


class Targets:
    """The restores that are not over and write."""

    def __init__(self) -> None:
        self._claims: dict[Key, _Claim] = {}

    def see(self, restore: DatabaseRestore) -> set[Key]:
        """A restore as it is now. -> those that need not wait for it any more."""
        key = restore.metadata.namespace, restore.metadata.name
        over = is_over(restore.status, restore.spec.run_id) or restore.metadata.deletion_timestamp is not None
        if over or restore.spec.mode != "Apply":
            return self.forget(key)
        known = self._claims.get(key)
        holds = known.holds if known else restore.status.phase in ("Validating", "Running", "Verifying")
        age = restore.metadata.creation_timestamp, key
        waits = not (restore.spec.suspend or restore.spec.cancel)
        self._claims[key] = _Claim(target_of(restore), age, waits, holds)
        return self._behind(known) if known and known.waits and not waits else set()

    def ahead(self, key: Key) -> tuple[str, ...]:
        """Who goes first, as `namespace/name`: who has the target, else who waits for it longer."""
        if (own := self._claims.get(key)) is None:
            return ()
        rivals = {k: c for k, c in self._claims.items() if k != key and c.target == own.target}
        holders = [k for k, c in rivals.items() if c.holds]
        if own.holds:
            return ()
        older = sorted((k for k, c in rivals.items() if c.waits and c.age < own.age), key=lambda k: rivals[k].age)
        return tuple("/".join(k) for k in holders or older)

    def settle(self, key: Key, *, holds: bool, over: bool) -> set[Key]:
        """What a look decided. -> those that may go on now."""
        if over and not holds:
            return self.forget(key)
        if (own := self._claims.get(key)) is None:
            return set()
        freed, own.holds = own.holds and not holds, holds
        return self._behind(own) - {key} if freed else set()

    def forget(self, key: Key) -> set[Key]:
        return self._behind(self._claims.pop(key, None))

    def _behind(self, claim: _Claim | None) -> set[Key]:
        return {k for k, c in self._claims.items() if claim is not None and c.target == claim.target and not c.holds}
