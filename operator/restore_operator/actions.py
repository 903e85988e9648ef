"""What can be done about a restore, and the plan of one look at it: the nouns between what is decided and what is done."""

from __future__ import annotations

from dataclasses import dataclass

from .api import RestoreStatus


@dataclass(frozen=True)
class CreateJob:
    """`remaining`: seconds until the run's deadline. `cancel`: only close the run in the ledger."""

    attempt: int
    remaining: int
    cancel: bool = False


@dataclass(frozen=True)
class DeleteJob:
    """With its pods, which get SIGTERM first."""

    name: str
    uid: str


@dataclass(frozen=True)
class SuspendJob:
    name: str
    suspend: bool


@dataclass(frozen=True)
class ExpireJob:
    """The verdict is stored: the Job may be removed after a while."""

    name: str


@dataclass(frozen=True)
class Tell:
    """An event about the restore, on a transition."""

    kind: str  # Normal | Warning
    reason: str
    message: str


Action = CreateJob | DeleteJob | SuspendJob | ExpireJob | Tell


@dataclass(frozen=True)
class Plan:
    """`requeue_after`: seconds until the next look; None when there is nothing more to see. `holds`: whether this restore has
    its target, so that others wait."""

    actions: tuple[Action, ...]
    status: RestoreStatus
    requeue_after: float | None
    holds: bool = False
