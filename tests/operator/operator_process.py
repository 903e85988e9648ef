"""The operator as a process of its own, against the tests' API server, with no more rights than it needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from kube_server import OPERATOR_TOKEN, OPERATOR_USER, KubeServer, free_port

Json = dict[str, Any]


def _may(group: str, resources: str, verbs: str) -> Json:
    return {"apiGroups": [group], "resources": resources.split(), "verbs": verbs.split()}


# The operator's whole RBAC (docs/architecture.md): nothing on secrets, configmaps, pods/exec.
RULES = [
    _may("dbrestore.io", "databaserestores", "get list watch create delete"),
    _may("dbrestore.io", "databaserestoreschedules", "get list watch"),
    _may("dbrestore.io", "databaserestores/status databaserestoreschedules/status", "patch"),
    _may("batch", "jobs", "get list watch create patch delete"),
    _may("", "pods", "get list watch"),
    _may("", "events", "list create"),
]


def grant(kube: KubeServer) -> None:
    """The ClusterRole, bound to the user that the operator's kubeconfig is for."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    kube.create(
        f"{rbac}/clusterroles",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "operator"},
            "rules": RULES,
        },
    )
    kube.create(
        f"{rbac}/clusterrolebindings",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "operator"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator"},
            "subjects": [{"kind": "User", "name": OPERATOR_USER, "apiGroup": "rbac.authorization.k8s.io"}],
        },
    )


class Operator:
    """`with Operator(kube, folder, "--namespace", name) as operator`."""

    def __init__(self, kube: KubeServer, folder: Path, *arguments: str, **settings: str) -> None:
        self.log, self.port = folder / "operator.log", free_port()
        self._command = [sys.executable, "-m", "restore_operator", *arguments]
        own = {f"RESTORE_OPERATOR_{name.upper()}": value for name, value in settings.items()}
        self._environment = os.environ | {
            "KUBECONFIG": str(kube.kubeconfig(OPERATOR_TOKEN)),
            "RESTORE_OPERATOR_PORT": str(self.port),
            "RESTORE_OPERATOR_PROGRESS_SECONDS": "1",
            **own,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.ask("/readyz")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the operator does not come up:\n{self.told()}") from None
                time.sleep(0.05)

    def ask(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    def kill(self) -> None:
        """SIGKILL: it gets no word in."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM. -> exit code"""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=15)

    def told(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def __enter__(self) -> Operator:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        if kind is not None:
            print(self.told())
