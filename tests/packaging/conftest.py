"""Fixtures of the packaging tests: helm, kubectl, and a real API server to say what is accepted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest
import yaml
from programs import CHART, ROOT, Manifest, Run, program, runner

sys.path.insert(0, str(ROOT / "tests" / "operator"))  # the tests' API server lives there


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return runner("helm", HELM_CACHE_HOME=str(tmp_path_factory.mktemp("helm")))


@pytest.fixture(scope="session")
def render(helm: Run) -> Callable[..., list[Manifest]]:
    """`render("key=value", ...)`: the manifests of a release called `dbr` in the namespace `ops`."""

    def render(*settings: str) -> list[Manifest]:
        # the oldest Kubernetes that the chart takes: a helm that no release pipeline built believes in 1.20
        words = ["template", "dbr", str(CHART), "--namespace", "ops", "--kube-version", "1.29.0"]
        end = helm(*words, *(w for s in settings for w in ("--set", s)))
        assert end.returncode == 0, end.stderr
        return [document for document in yaml.safe_load_all(end.stdout) if document]

    return render


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """kubectl against a real, empty API server that has the CRD as docs/kubernetes.md installs it without the chart."""
    import kube_binaries
    from kube_server import KubeServer

    program("kubectl")
    try:
        binaries = kube_binaries.folder()
    except kube_binaries.Missing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with KubeServer(binaries, tmp_path_factory.mktemp("kube")) as server:
        kubectl = runner("kubectl", KUBECONFIG=str(server.kubeconfig()))
        for words in (
            ["apply", "--server-side", "-f", str(ROOT / "crds")],
            ["wait", "--for=condition=Established", "crd/databaserestores.dbrestore.io", "--timeout=30s"],
            ["create", "namespace", "ops"],
            ["create", "namespace", "lms"],
            ["create", "namespace", "restricted"],
            ["label", "namespace", "restricted", "pod-security.kubernetes.io/enforce=restricted"],
        ):
            end = kubectl(*words)
            assert end.returncode == 0, end.stderr
        yield kubectl
