"""A schedule in a namespace that the operator watches, for the tests."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from manifests import SCHEDULES, Json, schedule
from world import World

HOURLY = "0 * * * *"


class Nights:
    """A schedule in a namespace that the operator watches. Time is passed by telling it when it last ran."""

    def __init__(self, world: World) -> None:
        self.world, self.path = world, f"{SCHEDULES.format(world.namespace)}/nightly"

    def apply(self, **changes: Any) -> None:
        """Suspended, and seen by the operator: nothing is due yet. Not shortly before an hour begins: it would be due as well."""
        if (left := 3600 - time.time() % 3600) < 45:
            time.sleep(left + 1)
        self.world.kube.create(
            SCHEDULES.format(self.world.namespace), schedule(namespace=self.world.namespace, suspend=True, **changes)
        )
        self.wait(lambda: self.status().get("observedGeneration") == 1)

    def ran(self, ago: timedelta) -> None:
        last = (datetime.now(UTC) - ago).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.world.kube.patch(f"{self.path}/status", {"status": {"lastScheduleTime": last}})

    def change(self, **spec: Any) -> None:
        self.world.kube.patch(self.path, {"spec": spec})

    def get(self) -> Json:
        return self.world.kube.get(self.path)

    def status(self) -> Json:
        return self.get().get("status") or {}

    def condition(self, kind: str) -> Json:
        return next((c for c in self.status().get("conditions", []) if c["type"] == kind), {})

    def collect(self) -> bool:
        """What the garbage collector does with restores that are being deleted. -> whether there were any"""
        going = [child for child in self.children() if "deletionTimestamp" in child["metadata"]]
        for child in going:
            self.world.kube.patch(
                f"{self.world.restores}/{child['metadata']['name']}", {"metadata": {"finalizers": None}}
            )
        return bool(going)

    def children(self) -> list[Json]:
        items = self.world.kube.get(f"{self.world.restores}?labelSelector=dbrestore.io/schedule%3Dnightly")["items"]
        return sorted(items, key=lambda item: item["metadata"]["name"])

    def wait(self, what: Any, seconds: float = 20.0) -> Any:
        return self.world.wait(
            what, seconds, say=lambda: (self.status(), [c["metadata"]["name"] for c in self.children()])
        )

    def wait_child(self, count: int = 1, seconds: float = 20.0) -> Json:
        self.wait(lambda: len(self.children()) == count, seconds)
        return self.children()[-1] if count else {}

    def succeed(self, child: Json) -> None:
        name, run = child["metadata"]["name"], child["spec"]["runID"]
        self.world.complete(self.world.wait_job(name, run=run))
        self.world.wait_phase("Succeeded", name)
