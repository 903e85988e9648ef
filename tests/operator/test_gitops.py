"""Argo CD's and Flux's checks, and kstatus' rules, over statuses that a real operator wrote; the examples through kustomize.

The statuses in tests/data/statuses are recorded (`RECORD_STATUSES=1 pytest tests/operator/test_gitops.py -k recorded`), and every
run of the tests makes each again and holds it to what is recorded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import celpy
import pytest
import yaml
from kube_server import KubeServer
from lupa import LuaRuntime
from manifests import RESTORES, ROOT, Json, restore
from nights import HOURLY, Nights
from restorer.events import PhaseChanged, RunStarted, TableStart
from restorer.report import Counters
from restorer.watch.progress import Progress
from restorer.watch.server import MetricsServer
from world import World

STATUSES = ROOT / "tests" / "data" / "statuses"
GITOPS = ROOT / "examples" / "gitops"

# kind of status -> (Argo CD, kstatus and Flux)
HEALTH = {
    "unseen": ("Progressing", "InProgress"),
    "queued": ("Progressing", "InProgress"),
    "validating": ("Progressing", "InProgress"),
    "running": ("Progressing", "InProgress"),
    "suspended": ("Suspended", "InProgress"),
    "succeeded": ("Healthy", "Current"),
    "already-completed": ("Healthy", "Current"),
    "failed": ("Degraded", "Failed"),
    "cancelled": ("Degraded", "Failed"),
    "changed-after-success": ("Progressing", "InProgress"),
    "schedule-unseen": ("Progressing", "InProgress"),
    "schedule-waiting": ("Healthy", "Current"),
    "schedule-suspended": ("Suspended", "Current"),
    "schedule-last-failed": ("Degraded", "Current"),
    "schedule-invalid": ("Degraded", "Failed"),
}


# -- recording: each kind of status, from a real operator on a real API server ------------------------------------------


def _queued(world: World) -> Json:
    world.apply("first")
    world.wait_job("first")
    world.apply("second")
    world.wait_phase("Queued", "second")
    return world.get("second")


def _validating(world: World) -> Json:
    world.apply()
    world.wait_phase("Validating")
    return world.get()


def _running(world: World) -> Json:
    """With figures as the restorer's own server gives them, on an address of the loopback network that no other test uses."""
    progress = Progress()
    table = TableStart("users", 1000, 500, Counters(read=50, inserted=50), "Loading")
    progress(RunStarted("x", "Apply", "20241219_103045", [table], 1, False))
    progress(PhaseChanged("Loading"))
    with MetricsServer(9090, progress, host="127.0.8.1"):
        world.apply()
        world.running(world.wait_job(), ip="127.0.8.1")
        world.wait_phase("Running")
        return world.get()


def _suspended(world: World) -> Json:
    world.apply(suspend=True)
    world.wait_phase("Suspended")
    return world.get()


def _succeeded(world: World, **report: Any) -> Json:
    world.apply()
    world.complete(world.wait_job(), **report)
    world.wait_phase("Succeeded")
    return world.get()


def _failed(world: World) -> Json:
    world.apply()
    world.fail(
        world.wait_job(), 2, "RejectLimitExceeded", "12 % of the records were rejected, 1 % may be: see `rejects list`"
    )
    world.wait_phase("Failed")
    return world.get()


def _cancelled(world: World) -> Json:
    world.apply(suspend=True)
    world.wait_phase("Suspended")
    world.change(cancel=True)
    world.wait_phase("Cancelled")
    return world.get()


def _changed(world: World) -> Json:
    """A new run, as the operator finds it: its generation is not the one that the status is about."""
    old = _succeeded(world)
    old["metadata"]["generation"] += 1
    old["spec"]["runID"] = "2"
    return old


def _schedule(world: World, schedule: str = HOURLY, **changes: Any) -> Nights:
    nights = Nights(world)
    nights.apply(schedule=schedule, **changes)
    return nights


def _waiting(world: World) -> Json:
    nights = _schedule(world)
    nights.change(suspend=False)
    nights.wait(lambda: nights.condition("Ready").get("reason") == "Scheduled")
    return nights.get()


def _last_failed(world: World) -> Json:
    nights = _schedule(world)
    nights.ran(timedelta(hours=1))
    nights.change(suspend=False)
    child = nights.wait_child()
    job = world.wait_job(child["metadata"]["name"], run=child["spec"]["runID"])
    world.fail(job, 2, "VerificationFailed", "query backup-is-of-this-week: expected true, got false")
    nights.wait(lambda: nights.condition("LastRestoreSucceeded").get("status") == "False")
    return nights.get()


def _invalid(world: World) -> Json:
    nights = _schedule(world, timeZone="Mars/Olympus")
    nights.wait(lambda: nights.condition("Stalled").get("status") == "True")
    return nights.get()


def _unseen(kind: str) -> Callable[[World], Json]:
    def made(world: World) -> Json:
        """Where no operator watches it: as the API server fills it in."""
        from manifests import SCHEDULES, schedule

        path, body = (SCHEDULES, schedule()) if kind == "schedule" else (RESTORES, restore())
        body["metadata"]["namespace"] = world.namespace
        answer: Json = world.kube.request("POST", path.format(world.namespace) + "?dryRun=All", body)
        return answer

    return made


MAKE: dict[str, Callable[[World], Json]] = {
    "unseen": _unseen("restore"),
    "queued": _queued,
    "validating": _validating,
    "running": _running,
    "suspended": _suspended,
    "succeeded": _succeeded,
    "already-completed": lambda world: _succeeded(world, reason="AlreadyCompleted"),
    "failed": _failed,
    "cancelled": _cancelled,
    "changed-after-success": _changed,
    "schedule-unseen": _unseen("schedule"),
    "schedule-waiting": _waiting,
    "schedule-suspended": lambda world: _schedule(world).get(),
    "schedule-last-failed": _last_failed,
    "schedule-invalid": _invalid,
}

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_STAMP = re.compile(r"nightly-\d{12}")


def _plain(body: Json, namespace: str) -> Json:
    """Without what is another at each recording: times, UIDs, names of the namespace."""
    meta = body["metadata"]
    kept = {"name": meta["name"], "namespace": "lms", "generation": meta["generation"]}
    text = json.dumps({k: v for k, v in body.items() if k != "metadata"} | {"metadata": kept})
    text = _STAMP.sub("nightly-203001010000", _TIME.sub("2030-01-01T00:00:00Z", text.replace(namespace, "lms")))
    text = re.sub(r'"uid": "[^"]+"', '"uid": "00000000-0000-0000-0000-000000000000"', text)
    text = re.sub(r"reset-[0-9a-f]{8}-1", "reset-00000000-1", text)
    plain: Json = json.loads(text)
    return plain


@pytest.mark.parametrize("kind", list(HEALTH))
def test_the_operator_writes_what_is_recorded(world: World, kind: str) -> None:
    made, file = _plain(MAKE[kind](world), world.namespace), STATUSES / f"{kind}.yaml"
    if os.environ.get("RECORD_STATUSES"):
        file.write_text(yaml.safe_dump(made, sort_keys=False, width=110), encoding="utf-8")
    recorded = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert _essence(made) == _essence(recorded)


def _essence(body: Json) -> Json:
    """What the checks may read."""
    status = body["status"]
    conditions = {c["type"]: (c["status"], c["reason"], c["observedGeneration"]) for c in status.get("conditions", [])}
    return {
        "status": status.get("phase"),
        "observed": status["observedGeneration"],
        "conditions": conditions,
        "spec": body["spec"],
    }


# -- the checks -------------------------------------------------------------------------------------------------------------


def recorded(kind: str) -> Json:
    body: Json = yaml.safe_load((STATUSES / f"{kind}.yaml").read_text(encoding="utf-8"))
    return body


def test_every_recording_has_its_health() -> None:
    assert {file.stem for file in STATUSES.glob("*.yaml")} == set(HEALTH)


def argo(body: Json) -> tuple[str, str]:
    """As Argo CD runs it: the resource is the global `obj`, the chunk returns a table."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.globals()["obj"] = lua.table_from(body, recursive=True)
    found = lua.execute((GITOPS / "argocd" / "health.lua").read_text(encoding="utf-8"))
    return found["status"], found["message"]


@pytest.mark.parametrize("kind", list(HEALTH))
def test_argo_cd_sees(kind: str) -> None:
    status, message = argo(recorded(kind))
    assert status == HEALTH[kind][0] and message


def test_argo_cd_says_why() -> None:
    assert argo(recorded("failed"))[1] == recorded("failed")["status"]["message"]
    assert "backup-is-of-this-week" in argo(recorded("schedule-last-failed"))[1]


def flux(body: Json) -> str:
    """As Flux evaluates them (RFC-0009): first the generation, then inProgress, failed, current; none of them: InProgress."""
    if body["status"].get("observedGeneration", body["metadata"]["generation"]) != body["metadata"]["generation"]:
        return "InProgress"
    manifest = yaml.safe_load((GITOPS / "flux" / "kustomization.yaml").read_text(encoding="utf-8"))
    (checks,) = [c for c in manifest["spec"]["healthCheckExprs"] if c["kind"] == body["kind"]]
    assert checks["apiVersion"] == body["apiVersion"]
    limit = sys.getrecursionlimit()
    environment = celpy.Environment()
    sys.setrecursionlimit(limit)  # which it raised, for all tests of this process
    values = {key: celpy.json_to_cel(value) for key, value in body.items()}
    for name, verdict in (("inProgress", "InProgress"), ("failed", "Failed"), ("current", "Current")):
        program = environment.program(environment.compile(checks[name]))
        if bool(program.evaluate(values)):
            return verdict
    return "InProgress"


@pytest.mark.parametrize("kind", list(HEALTH))
def test_flux_sees(kind: str) -> None:
    assert flux(recorded(kind)) == HEALTH[kind][1]


def kstatus(body: Json) -> str:
    """The generic rules of kstatus' documentation (sigs.k8s.io/cli-utils, pkg/kstatus): an unobserved generation is InProgress;
    then Reconciling=True InProgress, Stalled=True Failed; then a Ready condition decides; without one it counts as Current."""
    meta, status = body["metadata"], body.get("status", {})
    if meta.get("deletionTimestamp"):
        return "Terminating"
    if status.get("observedGeneration", meta["generation"]) != meta["generation"]:
        return "InProgress"
    for condition in status.get("conditions", []):
        if condition["type"] == "Reconciling" and condition["status"] == "True":
            return "InProgress"
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return "Failed"
    ready = [c["status"] for c in status.get("conditions", []) if c["type"] == "Ready"]
    return "Current" if ready in ([], ["True"]) else "InProgress"


@pytest.mark.parametrize("kind", list(HEALTH))
def test_kstatus_sees(kind: str) -> None:
    assert kstatus(recorded(kind)) == HEALTH[kind][1]


# -- the examples -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kubectl(kube: KubeServer) -> Callable[..., str]:
    beside = kube.binaries / "kubectl"
    program = str(beside) if beside.exists() else shutil.which("kubectl")
    if program is None:
        pytest.skip("no kubectl")

    def run(*arguments: str) -> str:
        words = [str(program), "--kubeconfig", str(kube.kubeconfig()), *arguments]
        end = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert end.returncode == 0, end.stderr
        return end.stdout

    return run


@pytest.fixture(scope="module")
def lms(kube: KubeServer) -> None:
    kube.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lms"}})


@pytest.mark.parametrize("name", ["nightly-reset", "reset-on-merge", "drill"])
def test_kustomize_builds_the_example_and_the_api_server_takes_it(
    kubectl: Callable[..., str], lms: None, name: str
) -> None:
    built = list(yaml.safe_load_all(kubectl("kustomize", str(GITOPS / name))))
    assert len(built) == 1 and built[0]["metadata"]["namespace"] == "lms"
    said = kubectl("apply", "-k", str(GITOPS / name), "--server-side", "--dry-run=server")
    assert "serverside-applied (server dry run)" in said


def test_the_run_id_of_a_merge_comes_from_one_file(kubectl: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "reset"
    shutil.copytree(GITOPS / "reset-on-merge", folder)
    run = folder / "run.yaml"
    run.write_text(run.read_text(encoding="utf-8").replace("main-3f2a91c", "main-0000001"), encoding="utf-8")
    assert yaml.safe_load(kubectl("kustomize", str(folder)))["spec"]["runID"] == "main-0000001"


def test_argo_cds_config_map_holds_the_script(kubectl: Callable[..., str]) -> None:
    built = yaml.safe_load(kubectl("kustomize", str(GITOPS / "argocd")))
    script = (GITOPS / "argocd" / "health.lua").read_text(encoding="utf-8")
    kinds = ("DatabaseRestore", "DatabaseRestoreSchedule")
    assert built["data"] == {f"resource.customizations.health.dbrestore.io_{kind}": script for kind in kinds}
