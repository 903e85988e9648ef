"""What is seen of a restore's Jobs and pods: the few facts that decisions are made of, out of the API server's JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from restorer.report import Report
from restorer.watch.figures import Snapshot

Json = dict[str, Any]

RESTORE_LABEL = "dbrestore.io/restore"
RUN_LABEL = "dbrestore.io/run"
ATTEMPT_LABEL = "dbrestore.io/attempt"
PURPOSE_LABEL = "dbrestore.io/purpose"
CANCEL = "cancel"
CONTAINER = "restorer"
MANAGED_BY = "database-restore-operator"
OWNED = {"app.kubernetes.io/managed-by": MANAGED_BY}


@dataclass(frozen=True)
class Job:
    """One Job. `state`: Active | Complete | Failed. `reason`: of the Failed condition. `started`: pods that are there."""

    name: str
    uid: str
    run: str
    attempt: int
    state: str
    reason: str = ""
    message: str = ""
    created: datetime | None = None
    finished: datetime | None = None
    suspended: bool = False
    deleting: bool = False
    cancels: bool = False
    ttl: bool = False
    pods_alive: int = 0

    @property
    def active(self) -> bool:
        return self.state == "Active"


@dataclass(frozen=True)
class Pod:
    """One pod. `waiting` and `waiting_message`: why its container does not run; `unscheduled`: why it has no node.
    `placed`: it has one. `created`: when it was made; `since`: when the container started."""

    name: str
    uid: str
    job: str
    phase: str
    ip: str = ""
    running: bool = False
    since: datetime | None = None
    exit_code: int | None = None
    exit_reason: str = ""
    report: Report | None = None
    finished: datetime | None = None
    waiting: str = ""
    waiting_message: str = ""
    unscheduled: str = ""
    placed: bool = False
    created: datetime | None = None


@dataclass(frozen=True)
class Warning:
    """A Warning event about a Job or a pod. `about`: which one, as `pod reset-1-x`."""

    reason: str
    message: str
    time: datetime | None = None
    about: str = ""


@dataclass(frozen=True)
class Observed:
    """All that is known of the world when a decision is made. `ahead`: restores that go first on the same target.
    `progress`: of the running pod; None when it could not be read."""

    jobs: tuple[Job, ...] = ()
    pods: tuple[Pod, ...] = ()
    warnings: tuple[Warning, ...] = ()
    ahead: tuple[str, ...] = ()
    progress: Snapshot | None = None

    def pods_of(self, job: Job) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.pods if pod.job == job.name)


def time_of(text: str | None) -> datetime | None:
    """RFC 3339 -> aware datetime."""
    return datetime.fromisoformat(text) if text else None


def stamp(moment: datetime) -> str:
    """As Kubernetes writes times: UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def owned_by(items: Iterable[Json], uid: str) -> list[Json]:
    """Those whose controller is the object with that UID."""
    return [item for item in items if any(o.get("uid") == uid for o in item["metadata"].get("ownerReferences", []))]


def job(item: Json) -> Job:
    meta, spec, status = item["metadata"], item.get("spec", {}), item.get("status", {})
    labels = meta.get("labels", {})
    ended = {c["type"]: c for c in status.get("conditions") or [] if c["status"] == "True"}
    state = "Complete" if "Complete" in ended else "Failed" if "Failed" in ended else "Active"
    end = ended.get(state, {})
    attempt = labels.get(ATTEMPT_LABEL, "0")
    return Job(
        name=meta["name"],
        uid=meta.get("uid", ""),
        run=labels.get(RUN_LABEL, ""),
        attempt=int(attempt) if attempt.isdigit() else 0,
        state=state,
        reason=end.get("reason", ""),
        message=end.get("message", ""),
        created=time_of(meta.get("creationTimestamp")),
        finished=time_of(end.get("lastTransitionTime")),
        suspended=bool(spec.get("suspend")),
        deleting="deletionTimestamp" in meta,
        cancels=labels.get(PURPOSE_LABEL) == CANCEL,
        ttl="ttlSecondsAfterFinished" in spec,
        pods_alive=status.get("active", 0) + status.get("terminating", 0),
    )


def pod(item: Json) -> Pod:
    meta, status = item["metadata"], item.get("status", {})
    name = next((o["name"] for o in meta.get("ownerReferences", []) if o.get("kind") == "Job"), "")
    containers = [c for c in status.get("containerStatuses") or [] if c["name"] == CONTAINER]
    state = containers[0].get("state", {}) if containers else {}
    ended, waiting = state.get("terminated", {}), state.get("waiting", {})
    unscheduled = [
        c.get("message", "")
        for c in status.get("conditions") or []
        if c["type"] == "PodScheduled" and c["status"] == "False" and c.get("reason") == "Unschedulable"
    ]
    return Pod(
        name=meta["name"],
        uid=meta.get("uid", ""),
        job=name,
        phase=status.get("phase", "Pending"),
        ip=status.get("podIP", ""),
        running="running" in state,
        since=time_of(state.get("running", {}).get("startedAt")),
        exit_code=ended.get("exitCode"),
        exit_reason=ended.get("reason", ""),
        report=report(ended.get("message", "")),
        finished=time_of(ended.get("finishedAt")),
        waiting=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        unscheduled=unscheduled[0] if unscheduled else "",
        placed=bool(item.get("spec", {}).get("nodeName")),
        created=time_of(meta.get("creationTimestamp")),
    )


def warning(item: Json) -> Warning:
    last = item.get("lastTimestamp") or item.get("eventTime") or item["metadata"].get("creationTimestamp")
    whom = item.get("involvedObject", {})
    kind = {"Pod": "pod"}.get(whom.get("kind", ""), whom.get("kind", ""))
    about = f"{kind} {whom.get('name', '')}".strip()
    return Warning(item.get("reason", ""), item.get("message", ""), time_of(last), about)


def report(message: str) -> Report | None:
    """The report in a termination message; None when there is none that can be read."""
    try:
        return msgspec.json.decode(message, type=Report) if message else None
    except msgspec.DecodeError:
        return None
