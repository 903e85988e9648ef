"""One look at one restore: read what is, plan, act, write the status if it differs.

Everything is read live. Actions come before the status: whatever is interrupted, the next look finds what was done and goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

import pydantic
import structlog
from restorer.watch.figures import Snapshot

from . import observed, reasons, status
from .actions import Action, CreateJob, DeleteJob, ExpireJob, Plan, SuspendJob, Tell
from .api import KIND, ClusterSpec, DatabaseRestore, JobRef, LastError, Metadata, RestoreStatus
from .events import make_event
from .job import make_job
from .kube import EVENTS, JOBS, PODS, RESTORES, Conflict, Json, KubeApi, KubeError, Refused
from .observed import Observed, Pod
from .queue import Key
from .reconcile import Timing, plan, with_event
from .settings import Settings
from .targets import Targets
from .trouble import said as said_of_trouble

log = structlog.get_logger()

RETRY_REFUSED = 20.0  # seconds until a Job that was not admitted is tried again


class ReadsProgress(Protocol):
    async def read(self, namespace: str, pods: tuple[Pod, ...]) -> Snapshot | None: ...


class Syncer:
    """`await syncer.look(key)` -> seconds until the next look. `wake` marks other keys; `seen` is told every new status."""

    def __init__(
        self,
        kube: KubeApi,
        progress: ReadsProgress,
        targets: Targets,
        settings: Settings,
        *,
        wake: Callable[[Iterable[Key]], None],
        seen: Callable[[DatabaseRestore], None] = lambda restore: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube, self._progress, self._targets, self._settings = kube, progress, targets, settings
        self._wake, self._seen, self._clock = wake, seen, clock
        self._timing = Timing(settings.progress_seconds, settings.resync_seconds)

    async def look(self, key: Key) -> float | None:
        body = await self._kube.get(RESTORES, *key)
        if body is None:
            self._wake(self._targets.forget(key))
            return None
        try:
            restore = DatabaseRestore.model_validate(body)
        except pydantic.ValidationError as error:
            await self._unreadable(key, body, error)
            return None
        self._wake(self._targets.see(restore))
        world = await self._observe(restore)
        # No await between the question who goes first and its answer: two looks never both take a target.
        world = _with_ahead(world, self._targets.ahead(key))
        made = plan(restore, world, self._clock(), self._timing)
        over = status.is_over(made.status, restore.spec.run_id)
        self._wake(self._targets.settle(key, holds=made.holds, over=over))
        made = await self._act(restore, made)
        stored = await self._write(restore, body, made.status)
        if stored is None:  # it went during the look, and its event with it
            self._wake(self._targets.forget(key))
            return None
        self._seen(restore.model_copy(update={"status": made.status}))
        return self._again(made.requeue_after) if stored else None

    async def failed(self, key: Key, error: Exception) -> None:
        """A look that failed shows in `lastError`, as far as the API server can be reached."""
        try:
            body = await self._kube.get(RESTORES, *key)
            if body is None:
                return
            restore = DatabaseRestore.model_validate(body)
            said = LastError(reason=reasons.OPERATOR_ERROR, message=_words(error), time=observed.stamp(self._clock()))
            await self._write(restore, body, status.failing(restore.status, said))
        except Exception as again:
            log.warning("a failed look could not be told", restore="/".join(key), error=_words(again))

    def _again(self, seconds: float | None) -> float | None:
        """Resyncs are spread, so that a thousand restores do not come at once."""
        if seconds is not None and seconds >= self._timing.resync:
            return seconds * random.uniform(1.0, 2.0)
        return seconds

    # -- observe -------------------------------------------------------------------------------------------------------

    async def _observe(self, restore: DatabaseRestore) -> Observed:
        meta = restore.metadata
        labels = f"{observed.RESTORE_LABEL}={meta.name}"
        items = observed.owned_by(await self._kube.list(JOBS, meta.namespace, labels=labels), meta.uid)
        jobs = tuple(observed.job(item) for item in items)
        if not jobs or (status.is_over(restore.status, restore.spec.run_id) and not any(j.active for j in jobs)):
            return Observed(jobs)
        names = {job.name for job in jobs}
        pods = tuple(
            p for p in map(observed.pod, await self._kube.list(PODS, meta.namespace, labels=labels)) if p.job in names
        )
        if any(pod.running for pod in pods):
            return Observed(jobs, pods, progress=await self._progress.read(meta.namespace, pods))
        return Observed(jobs, pods, await self._warnings(restore, jobs, pods))

    async def _warnings(
        self, restore: DatabaseRestore, jobs: tuple[observed.Job, ...], pods: tuple[Pod, ...]
    ) -> tuple[observed.Warning, ...]:
        """The Warning events of a Job that has not got going, and of its pods. Not in its first seconds: most start at once."""
        waiting = [j for j in jobs if j.active and not j.suspended and not j.deleting]
        young = [j for j in waiting if j.created and (self._clock() - j.created).total_seconds() < 4]
        if not waiting or young:
            return ()
        uids = {job.uid for job in waiting} | {pod.uid for pod in pods if pod.phase == "Pending"}
        found = [
            await self._kube.list(EVENTS, restore.metadata.namespace, fields=f"involvedObject.uid={uid},type=Warning")
            for uid in sorted(uids)[:4]
        ]
        return tuple(observed.warning(item) for items in found for item in items)

    # -- act -----------------------------------------------------------------------------------------------------------

    async def _act(self, restore: DatabaseRestore, made: Plan) -> Plan:
        for action in made.actions:
            if isinstance(action, CreateJob):
                made = await self._create(restore, action, made)
                if action not in made.actions:  # refused: there is something else to say
                    return await self._act(restore, made)
            else:
                await self._do(restore, action)
        return made

    async def _do(self, restore: DatabaseRestore, action: Action) -> None:
        space = restore.metadata.namespace
        match action:
            case DeleteJob(name, uid):
                await self._kube.delete(JOBS, space, name, uid)
            case SuspendJob(name, suspend):
                await self._kube.patch(JOBS, space, name, {"spec": {"suspend": suspend}})
            case ExpireJob(name):
                ttl = {"spec": {"ttlSecondsAfterFinished": self._settings.job_ttl_seconds}}
                await self._kube.patch(JOBS, space, name, ttl)
            case Tell():
                await self._tell(restore, action)

    async def _create(self, restore: DatabaseRestore, action: CreateJob, made: Plan) -> Plan:
        """The Job of an attempt: a new one, or the one that a look before this made and could not tell of."""
        manifest = make_job(restore, action.attempt, self._settings, remaining=action.remaining, cancel=action.cancel)
        name, space = manifest["metadata"]["name"], restore.metadata.namespace
        try:
            job = await self._kube.create(JOBS, space, manifest)
        except Conflict:
            found = await self._kube.get(JOBS, space, name)
            if found is None:
                raise  # it went in this moment: the next look makes it
            if not observed.owned_by([found], restore.metadata.uid):
                raise ForeignJob(409, f"a Job {name} is there that is not this restore's: delete it") from None
            if observed.job(found).run != restore.spec.run_id:
                raise ForeignJob(409, f"Job {name} belongs to another run: delete it") from None
            job = found
        except Refused as refused:
            return self._not_admitted(restore, made, refused)
        ref = JobRef(name=name, uid=job["metadata"]["uid"])
        return Plan(made.actions, made.status.model_copy(update={"job_ref": ref}), made.requeue_after, made.holds)

    def _not_admitted(self, restore: DatabaseRestore, made: Plan, refused: Refused) -> Plan:
        """What the API server says of a Job: invalid is final, forbidden may heal. No attempt was made."""
        now, old = self._clock(), status.of_run(restore)
        if refused.status == 403:
            reason = reasons.QUOTA_EXCEEDED if "exceeded quota" in refused.message else reasons.POD_FORBIDDEN
            message = said_of_trouble(restore, reason, "the Job is not admitted", refused.message)
            error = LastError(reason=reason, message=message, time=observed.stamp(now))
            said = status.active(status.failing(old, error), restore, now, "Validating", reason, message)
            return with_event(restore, Plan((), said, RETRY_REFUSED, made.holds))
        message = f"the API server does not take the Job: {refused.message}"
        said = status.ended(old, restore, now, "Failed", reasons.VALIDATION_FAILED, message)
        return with_event(restore, Plan((), said, 1.0))

    async def _tell(self, restore: DatabaseRestore, action: Tell) -> None:
        """An event with a name made of what it says: a look that is repeated does not say it twice."""
        meta, now = restore.metadata, observed.stamp(self._clock())
        event = make_event(KIND, meta, restore.spec.run_id, action.kind, action.reason, action.message, now)
        try:
            await self._kube.create(EVENTS, meta.namespace, event)
        except (Conflict, Refused):
            pass  # said already; or the namespace is going away

    # -- write ---------------------------------------------------------------------------------------------------------

    async def _write(self, restore: DatabaseRestore, body: Json, wanted: RestoreStatus) -> bool | None:
        """The status, if it differs. -> whether the restore is as it was read; None when it is gone. Its resourceVersion makes
        sure of that: another of the same name may have come (a UID would not do, `/status` passes it over)."""
        patch = status.merge_patch(body.get("status") or {}, status.as_json(wanted))
        if not patch:
            return True
        guarded = {"metadata": {"resourceVersion": body["metadata"]["resourceVersion"]}, "status": patch}
        key = restore.metadata.namespace, restore.metadata.name
        try:
            return True if await self._kube.patch(RESTORES, *key, guarded, sub="status") is not None else None
        except Conflict:
            self._wake([key])
            return False

    async def _unreadable(self, key: Key, body: Json, error: pydantic.ValidationError) -> None:
        """A spec that the API server took and this operator cannot read: a CRD of another version. It is a condition."""
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        message = f"{'; '.join(problems)[:900]}: mend the spec, or bring CRD and operator to the same version"
        target: dict[str, Any] = {"host": "?", "database": "?", "credentialsSecretRef": {"name": "?"}}
        spec = ClusterSpec.model_validate(
            {"source": {}, "target": target, "runID": str(body.get("spec", {}).get("runID") or "1")[:63]}
        )
        meta = Metadata.model_validate(body["metadata"])
        restore = DatabaseRestore(metadata=meta, spec=spec)
        self._wake(self._targets.forget(key))
        before = (body.get("status") or {}).get("message")
        said = status.ended(RestoreStatus(), restore, self._clock(), "Failed", reasons.VALIDATION_FAILED, message)
        if before != message:
            await self._write(restore, body, said)


class ForeignJob(KubeError):
    """A Job of the name that ours must have, which is not ours."""


def _with_ahead(world: Observed, ahead: tuple[str, ...]) -> Observed:
    return Observed(world.jobs, world.pods, world.warnings, ahead, world.progress)


def _words(error: Exception) -> str:
    """One line; the text of an unforeseen error may hold anything, so only its type."""
    return str(error) if isinstance(error, KubeError) else f"a bug in the operator: {type(error).__name__}"
