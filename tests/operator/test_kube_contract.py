"""One contract for both: the adapter against the real API server, and the fake that other tests build on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kube_server import KubeServer
from manifests import restore
from restore_operator import api
from restore_operator.job import make_job
from restore_operator.kube import EVENTS, JOBS, RESTORES, Conflict, FakeKube, KubeApi, KubeError, RealKube, Refused
from restore_operator.settings import Settings

Check = Callable[[KubeApi, str], Awaitable[None]]


def _job(name: str, **labels: str) -> dict[str, Any]:
    body = restore() | {"status": {}}
    body["metadata"] |= {"uid": "u", "generation": 1}
    job = make_job(api.DatabaseRestore.model_validate(body), 1, Settings(), remaining=60)
    job["metadata"] = {"name": name, "labels": labels}
    return job


async def _creates_and_gets(kube: KubeApi, space: str) -> None:
    made = await kube.create(RESTORES, space, restore("a", space))
    assert made["metadata"]["uid"] and made["metadata"]["resourceVersion"] and made["metadata"]["generation"] == 1
    found = await kube.get(RESTORES, space, "a")
    assert found is not None and found["spec"]["target"]["host"] == "pg-rw"
    assert await kube.get(RESTORES, space, "b") is None


async def _says_when_a_name_is_taken(kube: KubeApi, space: str) -> None:
    await kube.create(JOBS, space, _job("a"))
    with pytest.raises(Conflict, match="already exists"):
        await kube.create(JOBS, space, _job("a"))


async def _lists_by_label_and_namespace(kube: KubeApi, space: str) -> None:
    for name, color in (("a", "red"), ("b", "blue"), ("c", "red")):
        await kube.create(JOBS, space, _job(name, color=color))
    assert [j["metadata"]["name"] for j in await kube.list(JOBS, space, labels="color=red")] == ["a", "c"]
    assert len(await kube.list(JOBS, space)) == 3
    assert {"a", "b", "c"} <= {
        j["metadata"]["name"] for j in await kube.list(JOBS, None) if j["metadata"]["namespace"] == space
    }
    assert await kube.list(JOBS, "nowhere") == []


async def _lists_events_by_field(kube: KubeApi, space: str) -> None:
    for name, kind in (("one", "Warning"), ("two", "Normal")):
        about = {"kind": "Job", "name": "x", "namespace": space, "uid": "u-1"}
        body = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": about, "type": kind}
        await kube.create(EVENTS, space, body | {"reason": "FailedCreate"})
    found = await kube.list(EVENTS, space, fields="involvedObject.uid=u-1,type=Warning")
    assert [e["metadata"]["name"] for e in found] == ["one"]


async def _status_and_spec_are_patched_apart(kube: KubeApi, space: str) -> None:
    await kube.create(RESTORES, space, restore("a", space))
    await kube.patch(RESTORES, space, "a", {"status": {"phase": "Queued"}, "spec": {"suspend": True}}, sub="status")
    found = await kube.get(RESTORES, space, "a")
    assert found is not None and found["status"]["phase"] == "Queued" and not found["spec"].get("suspend")
    await kube.patch(RESTORES, space, "a", {"status": {"phase": None}}, sub="status")
    found = await kube.get(RESTORES, space, "a")
    assert found is not None and "phase" not in found["status"]


async def _a_patch_of_what_is_gone_is_none(kube: KubeApi, space: str) -> None:
    assert await kube.patch(RESTORES, space, "gone", {"status": {"phase": "Queued"}}, sub="status") is None


async def _a_patch_of_an_older_version_is_a_conflict(kube: KubeApi, space: str) -> None:
    first = await kube.create(RESTORES, space, restore("a", space))
    version = first["metadata"]["resourceVersion"]
    body = {"metadata": {"resourceVersion": version}, "status": {"phase": "Queued"}}
    assert await kube.patch(RESTORES, space, "a", body, sub="status") is not None
    with pytest.raises(Conflict):
        await kube.patch(RESTORES, space, "a", body | {"status": {"phase": "Failed"}}, sub="status")


async def _deletes_by_uid(kube: KubeApi, space: str) -> None:
    made = await kube.create(RESTORES, space, restore("a", space))
    await kube.delete(RESTORES, space, "a", "00000000-0000-0000-0000-000000000000")
    assert await kube.get(RESTORES, space, "a") is not None
    await kube.delete(RESTORES, space, "a", made["metadata"]["uid"])
    found = await kube.get(RESTORES, space, "a")
    assert found is None or "deletionTimestamp" in found["metadata"]  # dependants first
    await kube.delete(RESTORES, space, "never", made["metadata"]["uid"])


async def _a_log_that_cannot_be_read_is_empty(kube: KubeApi, space: str) -> None:
    assert await kube.log(space, "nobody", 5) == ""


CHECKS: list[Check] = [
    _creates_and_gets,
    _says_when_a_name_is_taken,
    _lists_by_label_and_namespace,
    _lists_events_by_field,
    _status_and_spec_are_patched_apart,
    _a_patch_of_what_is_gone_is_none,
    _a_patch_of_an_older_version_is_a_conflict,
    _deletes_by_uid,
    _a_log_that_cannot_be_read_is_empty,
]
each = pytest.mark.parametrize("check", CHECKS, ids=[check.__name__.strip("_") for check in CHECKS])


@each
def test_the_fake(check: Check) -> None:
    asyncio.run(check(FakeKube(), "lms"))


@each
def test_the_real_one(check: Check, kube: KubeServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig()))
    _run(check, namespace)


def _run(check: Check, namespace: str) -> None:
    async def go() -> None:
        async with await RealKube.connect() as real:
            await check(real, namespace)

    asyncio.run(go())


def test_lists_come_in_pages(kube: KubeServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig()))
    monkeypatch.setattr("restore_operator.kube.PAGE", 2)

    async def check(real: KubeApi, space: str) -> None:
        for n in range(5):
            await real.create(RESTORES, space, restore(f"r{n}", space))
        assert [r["metadata"]["name"] for r in await real.list(RESTORES, space)] == [f"r{n}" for n in range(5)]

    _run(check, namespace)


def test_what_the_api_server_refuses_is_said_in_its_words(
    kube: KubeServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig()))

    async def check(real: KubeApi, space: str) -> None:
        with pytest.raises(Refused, match=r"spec\.cleanup"):
            await real.create(RESTORES, space, restore("a", space, cleanup="Wipe"))

    _run(check, namespace)


def test_no_cluster_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(KubeError, match="set KUBECONFIG"):
        asyncio.run(RealKube.connect())
