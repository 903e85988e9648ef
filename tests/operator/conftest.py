"""Fixtures of the operator's tests. The API server is real."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator

import kube_binaries
import pytest
from kube_server import KubeServer
from manifests import CRD, SCHEDULE_CRD
from operator_process import Operator, grant
from world import World

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeServer]:
    """A real API server with our CRD."""
    try:
        binaries = kube_binaries.folder()
    except kube_binaries.Missing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with KubeServer(binaries, tmp_path_factory.mktemp("kube")) as server:
        server.install(CRD)
        server.install(SCHEDULE_CRD)
        yield server


@pytest.fixture
def namespace(kube: KubeServer, request: pytest.FixtureRequest) -> str:
    """A fresh namespace, named after the test."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")[:50].strip("-")
    name = f"{words}-{next(_numbers)}"
    kube.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


@pytest.fixture(scope="session")
def granted(kube: KubeServer) -> KubeServer:
    """The API server, with the operator's rights in it."""
    grant(kube)
    return kube


@pytest.fixture(scope="module")
def operator(granted: KubeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """One operator for all namespaces, for a module whose tests do not kill it. Of no other module: there may be tests with an
    operator of their own, whose work it would do."""
    with Operator(granted, tmp_path_factory.mktemp("operator"), "--all-namespaces") as process:
        yield process
        assert "Traceback" not in process.log.read_text(errors="replace")


@pytest.fixture
def world(operator: Operator, granted: KubeServer, namespace: str) -> World:
    """A namespace that the operator watches."""
    return World(granted, namespace)
