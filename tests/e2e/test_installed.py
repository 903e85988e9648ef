"""The installed operator has the rights of its list and no others, and lives with one namespace's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cluster import CommandFailed, Json, kubectl, run
from installed import NAMESPACE, RELEASE, ROOT, install
from surroundings import RESTORES

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"


def may(verb: str, resource: str, namespace: str) -> bool:
    kind, _, sub = resource.partition("/")  # `pods/log` would be a pod called log
    try:
        return (
            kubectl("auth", "can-i", verb, kind, f"--subresource={sub}", "-n", namespace, f"--as={ACCOUNT}").strip()
            == "yes"
        )
    except CommandFailed:  # `no` ends with 1
        return False


@pytest.mark.parametrize(
    "resource", ["secrets", "configmaps", "pods/exec", "pods/log", "persistentvolumeclaims", "nodes"]
)
def test_it_cannot_read(operator: None, resource: str) -> None:
    assert may("list", "pods", RESTORES)
    assert not may("get", resource, RESTORES)
    assert not may("create", resource, RESTORES)


def test_its_metrics_answer(operator: None) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/services/{RELEASE}:metrics/proxy/metrics"
    assert "dbrestore_queue_depth" in kubectl("get", "--raw", path)


@pytest.fixture
def one_namespace(operator: None) -> Iterator[None]:
    install(f"watchNamespace={RESTORES}")
    yield
    install()


def test_one_namespace_is_enough(one_namespace: None, restore: Any, backups: dict[str, Json]) -> None:
    assert may("create", "jobs", RESTORES)
    assert not may("list", "databaserestores", "default")
    restore("clean").apply().wait_succeeded().check(backups["clean"])


def test_the_manifests_apply_as_they_are_after_the_install(operator: None) -> None:
    """Helm and `kubectl apply --server-side` of the very same CRD do not fight."""
    run("kubectl", "apply", "--server-side", "-f", str(ROOT / "crds"))
    install()
