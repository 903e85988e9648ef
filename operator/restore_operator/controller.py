"""The only module that knows kopf: it watches and marks. What a mark means, the look at the restore decides.

No create, update or delete handlers, no timers, no daemons: they would add finalizers and annotations. Handlers return nothing:
kopf would write it into the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Any

import kopf
import pydantic
import structlog

from . import observed, schedule_api
from .api import GROUP, PLURAL, VERSION, DatabaseRestore
from .kube import RESTORES, KubeError, RealKube
from .metrics import Metrics, Port
from .progress import ProgressReader
from .queue import Key, Queue, ScheduleKey
from .schedule_sync import ScheduleSyncer
from .settings import Settings
from .status import TERMINAL, is_over
from .sync import Syncer
from .targets import Targets

log = structlog.get_logger()


class Controller:
    """The parts of a running operator, and how events reach them."""

    def __init__(self, kube: RealKube, progress: ProgressReader, settings: Settings) -> None:
        self.metrics, self.targets = Metrics(), Targets()
        self.syncer = Syncer(
            kube, progress, self.targets, settings, wake=self._wake, seen=self.metrics.restores.see_again
        )
        self.schedules = ScheduleSyncer(kube, gone=self.metrics.schedules.forget)
        self.queue: Queue[Key | ScheduleKey] = Queue(self._look, concurrency=settings.concurrency, failed=self._failed)
        self.metrics.attach(self.queue)
        self._told: set[asyncio.Task[None]] = set()

    def _wake(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.queue.mark(key)

    async def _look(self, key: Key | ScheduleKey) -> float | None:
        began = time.perf_counter()
        try:
            again = await (self.schedules.look(key) if isinstance(key, ScheduleKey) else self.syncer.look(key))
        except Exception:
            self.metrics.reconciles.labels("error").inc()
            raise
        self.metrics.reconciles.labels("ok").inc()
        self.metrics.duration.observe(time.perf_counter() - began)
        return again

    def _failed(self, key: Key | ScheduleKey, error: Exception) -> None:
        known = isinstance(error, KubeError)
        kind, name = (
            ("schedule", f"{key.namespace}/{key.name}") if isinstance(key, ScheduleKey) else ("restore", "/".join(key))
        )
        said = str(error) if known else type(error).__name__
        log.warning("look failed", **{kind: name}, error=said, exc_info=not known)
        if isinstance(key, ScheduleKey):
            return  # what keeps it from starting anything it says itself
        task = asyncio.get_running_loop().create_task(self.syncer.failed(key, error))
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    def restore_changed(self, body: dict[str, Any], gone: bool) -> None:
        """A restore came, changed or went. One that is over, and said so of its latest spec, needs no look."""
        key = body["metadata"]["namespace"], body["metadata"]["name"]
        self._tell_schedule(body, gone)
        if gone:
            self.metrics.restores.forget(key)
            self._wake(self.targets.forget(key))
            return
        try:
            restore = DatabaseRestore.model_validate(body)
        except pydantic.ValidationError:
            self.queue.mark(key)
            return
        self.metrics.restores.see(restore)
        self._wake(self.targets.see(restore))
        told = restore.status.observed_generation == restore.metadata.generation
        if not (told and is_over(restore.status, restore.spec.run_id)):
            self.queue.mark(key)

    def _tell_schedule(self, body: dict[str, Any], gone: bool) -> None:
        """A schedule cares for a restore of its own that is new, over or gone; not for every step of it."""
        said = body.get("status") or {}
        if gone or said.get("observedGeneration", -1) == -1 or said.get("phase") in TERMINAL:
            for owner in body["metadata"].get("ownerReferences", []):
                if owner["kind"] == schedule_api.KIND:
                    self.queue.mark(ScheduleKey(body["metadata"]["namespace"], owner["name"]))

    def schedule_changed(self, body: dict[str, Any], gone: bool) -> None:
        """A schedule came, changed or went."""
        key = ScheduleKey(body["metadata"]["namespace"], body["metadata"]["name"])
        if gone:
            self.metrics.schedules.forget(key)
        else:
            with contextlib.suppress(pydantic.ValidationError):  # its look says so
                self.metrics.schedules.see(schedule_api.DatabaseRestoreSchedule.model_validate(body))
        self.queue.mark(key)

    def dependant_changed(self, body: dict[str, Any]) -> None:
        """A Job or a pod of a restore came, changed or went."""
        meta = body["metadata"]
        if name := meta.get("labels", {}).get(observed.RESTORE_LABEL):
            self.queue.mark((meta["namespace"], name))

    def registry(self) -> kopf.OperatorRegistry:
        """The handlers."""
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        def login(**kwargs: Any) -> Any:
            return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

        @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
        async def restore(body: Any, type: str | None, **_: Any) -> None:
            self.restore_changed(dict(body), type == "DELETED")

        @kopf.on.event(GROUP, VERSION, schedule_api.PLURAL, registry=registry)
        async def schedule(body: Any, type: str | None, **_: Any) -> None:
            self.schedule_changed(dict(body), type == "DELETED")

        @kopf.on.event("batch", "v1", "jobs", labels=observed.OWNED, registry=registry)
        async def job(body: Any, **_: Any) -> None:
            self.dependant_changed(dict(body))

        @kopf.on.event("", "v1", "pods", labels=observed.OWNED, registry=registry)
        async def pod(body: Any, **_: Any) -> None:
            self.dependant_changed(dict(body))

        return registry


def kopf_settings() -> kopf.OperatorSettings:
    """How kopf watches: streams that end by themselves, and are known dead when they are silent."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    # A worker keeps the object of its last event for as long: with a thousand objects that is most of the memory.
    settings.queueing.idle_timeout = 0.2
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 630
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 250
    settings.networking.request_timeout = 60
    selector = ",".join(f"{key}={value}" for key, value in observed.OWNED.items())
    for selected in (("batch", "v1", "jobs"), ("", "v1", "pods")):
        settings.watching.label_selectors[selected] = selector
    return settings


async def run(settings: Settings, namespaces: list[str], stop: asyncio.Event) -> None:
    """Runs the operator until `stop`. `namespaces` empty: all of them. Raises KubeError when there is no cluster,
    PortUnavailable when the port is taken."""
    async with (
        await RealKube.connect() as kube,
        ProgressReader(kube, from_logs=settings.progress_from_logs) as progress,
    ):
        controller = Controller(kube, progress, settings)
        port = Port(settings.port, controller.metrics, controller.queue)
        await port.start()
        ready = asyncio.Event()
        try:
            await _know_all(controller, kube, namespaces)
            watch = asyncio.create_task(
                kopf.operator(
                    registry=controller.registry(),
                    settings=kopf_settings(),
                    standalone=True,
                    clusterwide=not namespaces,
                    namespaces=namespaces,
                    stop_flag=stop,
                    ready_flag=ready,
                )
            )
            waiting = asyncio.create_task(ready.wait())
            await asyncio.wait({watch, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            port.ready = True
            log.info("watching", namespaces=namespaces or "all")
            await watch
        finally:
            await controller.queue.close()
            await port.close()


async def _know_all(controller: Controller, kube: RealKube, namespaces: list[str]) -> None:
    """Who holds and who waits for which target, before the first look decides."""
    everywhere: list[str | None] = [None]
    for namespace in namespaces or everywhere:
        for body in await kube.list(RESTORES, namespace):
            controller.restore_changed(body, gone=False)
