"""What goes wrong around a restore, against a real API server: what is refused, what is missing, what somebody else made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from kube_server import KubeServer
from manifests import CRD
from restore_operator.kube import JOBS, RESTORES, Conflict, Json, Kind, RealKube
from restore_operator.progress import ProgressReader
from restore_operator.settings import Settings
from restore_operator.sync import ForeignJob, Syncer
from restore_operator.targets import Targets
from world import DONE, World, container


def test_a_deadline_holds_through_a_suspend(world: World) -> None:
    """The Job's own deadline begins anew when it is resumed; the run's does not."""
    world.apply(activeDeadlineSeconds=10)
    job = world.wait_job()
    began = time.monotonic()
    assert job["spec"]["activeDeadlineSeconds"] > 60
    world.change(suspend=True)
    world.wait_phase("Suspended")
    time.sleep(5)
    world.change(suspend=False)
    world.wait(lambda: not world.jobs()[0]["spec"].get("suspend"))
    world.running(job)
    world.wait_deleting(job)
    assert 7 < time.monotonic() - began < 14  # anew it would be fifteen and more
    world.collect(job)
    world.wait_phase("Failed")
    assert world.condition("Succeeded")["reason"] == "DeadlineExceeded" and len(world.jobs()) == 0


def test_a_deadline_ends_a_run_that_is_suspended(world: World) -> None:
    world.apply(activeDeadlineSeconds=6)
    job = world.wait_job()
    world.change(suspend=True)
    world.wait(lambda: world.jobs()[0]["spec"].get("suspend"))
    world.wait_deleting(job)
    world.collect(job)
    world.wait_phase("Failed")
    assert world.condition("Succeeded")["reason"] == "DeadlineExceeded"


@pytest.mark.slow  # it waits for the operator's looks
def test_a_quota_of_jobs_is_said_within_30_seconds_and_heals(world: World) -> None:
    quotas = f"/api/v1/namespaces/{world.namespace}/resourcequotas"
    none = {"count/jobs.batch": "0"}
    world.kube.create(
        quotas, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": none}}
    )
    world.kube.patch(f"{quotas}/none/status", {"status": {"hard": none, "used": none}})  # its controller's part
    world.apply()
    world.wait(lambda: world.condition("Succeeded").get("reason") == "QuotaExceeded", 30, say=world.status)
    status = world.status()
    assert "exceeded quota: none" in status["message"] and status["lastError"]["reason"] == "QuotaExceeded"
    assert world.condition("Stalled")["status"] == "False" and world.jobs() == []
    assert status.get("attempt", 0) == 0  # none was made
    assert len(world.events("QuotaExceeded")) == 1 and world.events("Validating") == []
    world.kube.delete(f"{quotas}/none")
    world.complete(world.wait_job(seconds=30))
    assert world.wait_phase("Succeeded")["attempt"] == 1


UNBOUND = '0/3 nodes are available: persistentvolumeclaim "backups" not found. not found'


def test_a_missing_claim_is_said_from_the_pods_condition_and_heals(world: World) -> None:
    world.apply()
    job = world.wait_job()
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": UNBOUND}
    pod = world.pod(job, {"phase": "Pending", "conditions": [condition]})
    world.wait(lambda: world.condition("Succeeded").get("reason") == "ClaimMissing", 30, say=world.status)
    assert "spec.source.persistentVolumeClaim" in world.status()["message"]
    world.ended(job, 0, {"run": "x", **DONE}, pod)
    world.complete_job(job)
    assert world.wait_phase("Succeeded")["message"] == DONE["message"]


@pytest.mark.parametrize(
    ("reason", "message", "said", "words"),
    [
        ("FailedScheduling", UNBOUND, "ClaimMissing", ["spec.source.persistentVolumeClaim"]),
        pytest.param(
            "FailedMount",
            'MountVolume.SetUp failed for volume "ca" : secret "pg-ca" not found',
            "SecretMissing",
            ["create it"],
            marks=pytest.mark.slow,  # as the others: five seconds between two looks
        ),
        pytest.param(
            "FailedScheduling",
            "0/3 nodes are available: 3 Insufficient cpu.",
            "Unschedulable",
            ["spec.jobTemplate"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "FailedScheduling",
            "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
            "VolumeUnavailable",
            ["claim backups", "PersistentVolume, or a StorageClass"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "FailedAttachVolume",
            "Multi-Attach error for volume pv-1: already used by pod x",
            "VolumeUnavailable",
            ["claim backups", "spec.source.persistentVolumeClaim", "free it where another node holds it"],
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_what_stands_only_in_events_is_said(
    world: World, reason: str, message: str, said: str, words: list[str]
) -> None:
    world.apply()
    pod = world.pod(world.wait_job(), container({"waiting": {"reason": "ContainerCreating"}}) | {"phase": "Pending"})
    world.event(pod, reason, message)
    world.wait(lambda: world.condition("Succeeded").get("reason") == said, 30, say=world.status)
    _is_said(world, said, [f"pod {pod['metadata']['name']}: {message.rstrip('.')}: ", *words])


MOUNT = 'MountVolume.SetUp failed for volume "pv-1" : hostPath type check failed: /nowhere is not a directory'


def test_what_kept_a_pod_from_a_node_is_no_longer_said_once_it_has_one(world: World) -> None:
    """Its event stays for an hour, and may bear a later time than what is true now: the scheduler's times have fractions."""
    world.apply()
    job = world.wait_job()
    starting = container({"waiting": {"reason": "ContainerCreating"}}) | {"phase": "Pending"}
    pod = world.pod(job, starting, node="node-1")
    world.event(pod, "FailedMount", MOUNT)
    time.sleep(1.1)
    world.event(pod, "FailedScheduling", UNBOUND)
    world.wait(lambda: world.condition("Succeeded").get("reason") == "VolumeUnavailable", 30, say=world.status)
    _is_said(world, "VolumeUnavailable", [MOUNT, "cannot be mounted on the pod's node"])
    assert world.events("ClaimMissing") == []


@pytest.mark.slow
def test_what_kept_a_pod_from_being_made_is_no_longer_said_once_it_is_made(world: World) -> None:
    world.apply()
    job = world.wait_job()
    world.event(job, "FailedCreate", 'Error creating: pods "x" is forbidden: exceeded quota: none')
    world.wait(lambda: world.condition("Succeeded").get("reason") == "QuotaExceeded", 30, say=world.status)
    world.pod(job, container({"waiting": {"reason": "ContainerCreating"}}) | {"phase": "Pending"}, node="node-1")
    world.wait(lambda: world.condition("Succeeded").get("reason") == "Validating", 30, say=world.status)
    assert world.condition("Reconciling")["message"].endswith("its pod is being started")


def _is_said(world: World, reason: str, words: list[str]) -> None:
    """In the condition, in `lastError` and in the one event: what `kubectl describe` shows."""
    status, (event,) = world.status(), world.wait(lambda: world.events(reason))
    for text in (world.condition("Succeeded")["message"], status["lastError"]["message"], event["message"]):
        for word in words:
            assert word in text
    assert event["type"] == "Warning"


def test_a_pod_that_the_namespace_does_not_admit_is_said_by_its_job(world: World) -> None:
    world.apply()
    job = world.wait_job()
    message = (
        'pods "x" is forbidden: violates PodSecurity "restricted:latest": restricted volume types (volume "backup")'
    )
    world.event(job, "FailedCreate", f"Error creating: {message}")
    world.wait(lambda: world.condition("Succeeded").get("reason") == "PodForbidden", 30, say=world.status)
    words = [
        f"Job {job['metadata']['name']}: ",
        message,
        f"namespace {world.namespace}",
        "spec.jobTemplate or spec.source",
    ]
    _is_said(world, "PodForbidden", words)


@pytest.mark.parametrize(
    ("waiting", "message", "said", "words"),
    [
        ("CreateContainerError", "no such user: 7", "PodCannotStart", ["CreateContainerError: no such user: 7", "spec.jobTemplate"]),
        ("ErrImagePull", 'image "dbr:9" not found', "ImageUnavailable", ['image "dbr:9" not found', "imagePullSecrets"]),
        ("CreateContainerConfigError", 'secret "pg-app" not found', "SecretMissing", ['secret "pg-app" not found', "spec.target"]),
    ],
)  # fmt: skip
def test_a_container_that_cannot_start_is_said(
    world: World, waiting: str, message: str, said: str, words: list[str]
) -> None:
    world.apply()
    job = world.wait_job()
    starting = f"Job {job['metadata']['name']} is made; its pod is being started"
    world.wait(lambda: world.condition("Reconciling").get("message") == starting, say=world.status)
    state = container({"waiting": {"reason": waiting, "message": message}}) | {"phase": "Pending"}
    pod = world.pod(job, state)["metadata"]["name"]
    world.wait(lambda: world.condition("Succeeded").get("reason") == said, 30, say=world.status)
    _is_said(world, said, [f"pod {pod}: ", *words])
    if said == "PodCannotStart":
        assert f"`kubectl -n {world.namespace} describe pod {pod}`" in world.status()["message"]


@pytest.mark.parametrize("order", ["the leader ends last", "the helper ends last"])
def test_of_several_pods_the_one_that_led_speaks(world: World, order: str) -> None:
    world.apply(load={"pods": 2})
    job = world.wait_job()
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 2, 2)
    reports = {
        "leader": DONE | {"run": "x", "message": "what the leader did"},
        "helper": DONE | {"run": "x", "reason": "AlreadyCompleted", "message": "done already"},
    }
    pods = {name: world.running(job, suffix=name) for name in reports}
    for name in ("helper", "leader") if order == "the leader ends last" else ("leader", "helper"):
        world.ended(job, 0, reports[name], pods[name])
        time.sleep(1.1)  # Kubernetes' times are whole seconds
    assert world.status()["phase"] != "Succeeded"  # one pod's word is not the Job's
    world.complete_job(job)
    status = world.wait_phase("Succeeded")
    assert status["message"] == "what the leader did" and status["progress"]["recordsRead"] == 100
    assert world.condition("Succeeded")["reason"] == "Succeeded"


class Beaten(RealKube):
    """Somebody creates the Job first, between the look's list and its own create."""

    def change(self, job: Json) -> None:
        """What they make different."""

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        if kind == JOBS:
            other = {**body, "metadata": {**body["metadata"], "labels": dict(body["metadata"]["labels"])}}
            self.change(other)
            await super().create(kind, namespace, other)
        return await super().create(kind, namespace, body)


class BeatenByStranger(Beaten):
    def change(self, job: Json) -> None:
        job["metadata"]["ownerReferences"] = []


class BeatenByAnotherRun(Beaten):
    def change(self, job: Json) -> None:
        job["metadata"]["labels"]["dbrestore.io/run"] = "another"


class Vanishing(Beaten):
    async def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        return await super().get(kind, namespace, name) if kind == RESTORES else None


@pytest.fixture(scope="module")
def unwatched(kube: KubeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A namespace that no operator sees: what looks at it is the test."""
    with KubeServer(kube.binaries, tmp_path_factory.mktemp("unwatched")) as server:
        server.install(CRD)
        yield World(server, "default")


@pytest.fixture(autouse=True)
def _swept(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "unwatched" in request.fixturenames:
        world: World = request.getfixturevalue("unwatched")
        world.kube.delete(f"{world.restores}/reset")
        for job in world.jobs():
            world.remove_job(job)


def _look(kube: KubeServer, adapter: type[RealKube], namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig()))

    async def go() -> None:
        async with await adapter.connect() as real, ProgressReader(real) as progress:
            syncer = Syncer(real, progress, Targets(), Settings(), wake=lambda keys: None)
            await syncer.look((namespace, "reset"))

    asyncio.run(go())


def test_our_own_job_that_came_first_is_adopted(unwatched: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = unwatched.apply()
    _look(unwatched.kube, Beaten, unwatched.namespace, monkeypatch)
    (job,) = unwatched.jobs()
    status = unwatched.status()
    assert status["jobRef"] == {"name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    assert status["attempt"] == 1 and made["metadata"]["uid"] == job["metadata"]["ownerReferences"][0]["uid"]
    _look(unwatched.kube, RealKube, unwatched.namespace, monkeypatch)
    assert len(unwatched.jobs()) == 1 and unwatched.status()["attempt"] == 1


@pytest.mark.parametrize(
    ("adapter", "error", "words"),
    [
        (BeatenByStranger, ForeignJob, "not this restore's: delete it"),
        (BeatenByAnotherRun, ForeignJob, "belongs to another run: delete it"),
        (Vanishing, Conflict, "already exists"),
    ],
)
def test_a_job_of_that_name_that_is_not_ours_is_left_alone(
    adapter: type[RealKube], error: type[Exception], words: str, unwatched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    unwatched.apply()
    with pytest.raises(error, match=words):
        _look(unwatched.kube, adapter, unwatched.namespace, monkeypatch)
    assert "jobRef" not in unwatched.status() and len(unwatched.jobs()) == 1
