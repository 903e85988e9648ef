"""A namespace of the real API server, and what the controllers and the kubelet would do in it: the tests move Jobs and pods on
through the API, as these would, for there is no node."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kube_server import ApiError, KubeServer
from manifests import RESTORES, Json, restore

JOBS, PODS, EVENTS = "/apis/batch/v1/namespaces/{}/jobs", "/api/v1/namespaces/{}/pods", "/api/v1/namespaces/{}/events"
DONE: Json = {
    "outcome": "Succeeded",
    "message": "90 rows into 2 tables in 4 s; 4 rejected",
    "seconds": 4,
    "completionTime": "2030-01-01T00:00:04Z",
    "snapshot": {"name": "20241219_103045", "bytes": 5000, "tables": 2},
    "totals": {"tables": 2, "bytes": 5000, "read": 100, "inserted": 90, "updated": 1, "duplicate": 2, "conflict": 3, "rejected": 4},
    "tables": [
        {"name": "posts", "state": "Done", "read": 40, "inserted": 40},
        {"name": "users", "state": "Done", "read": 60, "inserted": 50, "updated": 1, "duplicate": 2, "conflict": 3, "rejected": 4},
    ],
    "rejectedSample": [{"table": "users", "record": 7, "reason": "NotNull", "sqlState": "23502", "constraint": ""}],
    "fallback": [{"level": "Copy", "batches": 3, "records": 100}],
}  # fmt: skip


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class World:
    def __init__(self, kube: KubeServer, namespace: str) -> None:
        self.kube, self.namespace = kube, namespace
        self.restores, self.job_path = RESTORES.format(namespace), JOBS.format(namespace)
        self.pod_path = PODS.format(namespace)

    # -- a person ------------------------------------------------------------------------------------------------------

    def apply(self, name: str = "reset", **changes: Any) -> Json:
        return self.kube.create(self.restores, restore(name, self.namespace, **changes))

    def change(self, name: str = "reset", **spec: Any) -> None:
        self.kube.patch(f"{self.restores}/{name}", {"spec": spec})

    def get(self, name: str = "reset") -> Json:
        return self.kube.get(f"{self.restores}/{name}")

    def status(self, name: str = "reset") -> Json:
        found: Json = self.get(name).get("status", {})
        return found

    def condition(self, kind: str, name: str = "reset") -> Json:
        return next((c for c in self.status(name).get("conditions", []) if c["type"] == kind), {})

    def wait(self, what: Callable[[], Any], seconds: float = 20.0, say: Callable[[], Any] | None = None) -> Any:
        """Until `what` is true. -> what it returned"""
        deadline = time.monotonic() + seconds
        while True:
            if found := what():
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {say() if say else ''}")
            time.sleep(0.05)

    def wait_phase(self, phase: str, name: str = "reset", seconds: float = 20.0) -> Json:
        def there() -> Json | None:
            status = self.status(name)
            return status if status.get("phase") == phase else None

        status: Json = self.wait(there, seconds, say=lambda: self.status(name))
        return status

    def events(self, reason: str) -> list[Json]:
        found: list[Json] = self.kube.get(EVENTS.format(self.namespace))["items"]
        return [event for event in found if event["reason"] == reason]

    # -- the controllers and the kubelet -------------------------------------------------------------------------------

    def jobs(self, name: str = "reset") -> list[Json]:
        items = self.kube.get(f"{self.job_path}?labelSelector=dbrestore.io/restore%3D{name}")["items"]
        return sorted(items, key=lambda job: job["metadata"]["creationTimestamp"] + job["metadata"]["name"])

    def wait_job(self, name: str = "reset", attempt: int = 1, run: str = "1", seconds: float = 20.0) -> Json:
        def there() -> Json | None:
            wanted = {"dbrestore.io/attempt": str(attempt), "dbrestore.io/run": run}
            return next((j for j in self.jobs(name) if wanted.items() <= j["metadata"]["labels"].items()), None)

        job: Json = self.wait(
            there, seconds, say=lambda: (self.status(name), [j["metadata"]["name"] for j in self.jobs(name)])
        )
        return job

    def pod(self, job: Json, status: Json | None = None, suffix: str = "a", node: str = "") -> Json:
        """The pod that the Job's controller would make, bound to a node or to none."""
        meta, template = job["metadata"], job["spec"]["template"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"], "controller": True}
        labels = template["metadata"]["labels"] | {"batch.kubernetes.io/job-name": meta["name"]}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{meta['name']}-{suffix}", "labels": labels, "ownerReferences": [owner]},
            "spec": template["spec"] | ({"nodeName": node} if node else {}),
        }
        made = self.kube.create(self.pod_path, body)
        return self.pod_status(made, status) if status is not None else made

    def pod_status(self, pod: Json, status: Json) -> Json:
        return self.kube.patch(f"{self.pod_path}/{pod['metadata']['name']}/status", {"status": status})

    def running(self, job: Json, ip: str = "127.0.0.1", suffix: str = "a", since: str = "", node: str = "") -> Json:
        state = container({"running": {"startedAt": since or now()}})
        return self.pod(job, state | {"phase": "Running", "podIP": ip}, suffix, node)

    def ended(self, job: Json, code: int, report: Json | str, pod: Json | None = None, suffix: str = "a") -> Json:
        """A pod whose container ended with that code and that termination message."""
        import json

        message = report if isinstance(report, str) else json.dumps(report)
        end = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "message": message,
            "finishedAt": now(),
        }
        status = container({"terminated": end}) | {"phase": "Succeeded" if code == 0 else "Failed"}
        return self.pod_status(pod, status) if pod else self.pod(job, status, suffix)

    def complete(self, job: Json, report: Json | None = None, **changes: Any) -> None:
        """The pod ends well, and the Job with it."""
        run = f"{self.namespace}/{job['metadata']['labels']['dbrestore.io/restore']}/{job['metadata']['labels']['dbrestore.io/run']}"
        self.ended(job, 0, {"run": run, **(report or DONE), **changes}, suffix="end")
        self.complete_job(job)

    def complete_job(self, job: Json) -> None:
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": now(), "reason": "CompletionsReached"}
            for kind in ("SuccessCriteriaMet", "Complete")
        ]
        self._job_status(job, {"startTime": now(), "completionTime": now(), "succeeded": 1, "conditions": conditions})

    def fail_job(self, job: Json, reason: str = "PodFailurePolicy") -> None:
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": now(), "reason": reason, "message": "the Job failed"}
            for kind in ("FailureTarget", "Failed")
        ]
        self._job_status(job, {"startTime": now(), "failed": 1, "conditions": conditions})

    def fail(self, job: Json, code: int, reason: str, message: str, outcome: str = "Failed", **more: Any) -> None:
        report = {"run": "x", "outcome": outcome, "reason": reason, "message": message, **more}
        self.ended(job, code, report, suffix="end")
        self.fail_job(job)

    def event(self, about: Json, reason: str, message: str) -> None:
        """A Warning event, as a controller or the scheduler posts it."""
        meta = about["metadata"]
        kind = about.get("kind") or ("Job" if "template" in about["spec"] else "Pod")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{meta['name']}."},
            "involvedObject": {"kind": kind, "name": meta["name"], "uid": meta["uid"], "namespace": self.namespace},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "lastTimestamp": now(),
        }
        self.kube.create(EVENTS.format(self.namespace), event)

    def _job_status(self, job: Json, status: Json) -> None:
        self.kube.patch(f"{self.job_path}/{job['metadata']['name']}/status", {"status": status})

    def collect(self, job: Json) -> None:
        """What the garbage collector does with a Job that is being deleted: pods first, then the Job."""
        name = job["metadata"]["name"]
        for pod in self.kube.get(f"{self.pod_path}?labelSelector=batch.kubernetes.io/job-name%3D{name}")["items"]:
            self.kube.delete(f"{self.pod_path}/{pod['metadata']['name']}?gracePeriodSeconds=0")
        try:
            self.kube.patch(f"{self.job_path}/{name}", {"metadata": {"finalizers": None}})
        except ApiError as error:
            if error.status != 404:
                raise

    def wait_deleting(self, job: Json) -> None:
        path = f"{self.job_path}/{job['metadata']['name']}"
        self.wait(lambda: "deletionTimestamp" in self.kube.get(path)["metadata"], say=self.status)

    def remove_job(self, job: Json) -> None:
        """Somebody deletes the Job."""
        self.kube.delete(f"{self.job_path}/{job['metadata']['name']}?propagationPolicy=Background")


def container(state: Json) -> Json:
    return {
        "containerStatuses": [
            {
                "name": "restorer",
                "state": state,
                "ready": False,
                "restartCount": 0,
                "image": "x",
                "imageID": "x",
                "lastState": {},
            }
        ]
    }
