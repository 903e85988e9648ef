"""A Kubernetes API server of the tests' own: etcd and kube-apiserver as child processes, with no controllers and no node.

Jobs and pods are accepted and stand still: the tests move them on through `/status`, as the controllers would.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

ADMIN_TOKEN, OPERATOR_TOKEN = "admin-token", "operator-token"
OPERATOR_USER = "operator"  # no groups: what it may do, its RBAC says
Json = dict[str, Any]


class ApiError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """As many different ones: all are held until the last is found."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]


class KubeServer:
    """`with KubeServer(binaries, folder) as kube: kube.create(...)`. `audit` keeps an audit log of every request."""

    def __init__(self, binaries: Path, folder: Path, *, audit: bool = False) -> None:
        self.binaries, self.folder, self.audit = binaries, folder, audit
        self.etcd_port, self.etcd_peer, self.port = free_ports(3)
        self.url = f"https://127.0.0.1:{self.port}"
        self.audit_log = folder / "audit.log"
        self._children: list[subprocess.Popen[bytes]] = []
        self._tls = ssl.create_default_context()
        self._kept = threading.local()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    def __enter__(self) -> KubeServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start_etcd()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for child in reversed(self._children):
            child.kill()
            child.wait()
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)

    def _start_etcd(self) -> None:
        own, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.etcd_peer}"
        self._spawn(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={own}",
            f"--advertise-client-urls={own}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )

    def start(self) -> None:
        """Starts the API server, for the first time or again, and waits until it is ready."""
        key = self.folder / "service-account.key"
        if not key.exists():
            subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        tokens = self.folder / "tokens.csv"
        tokens.write_text(f"{ADMIN_TOKEN},admin,1,system:masters\n{OPERATOR_TOKEN},{OPERATOR_USER},2\n")
        more = []
        if self.audit:
            policy = self.folder / "audit.yaml"
            policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")
            more = [f"--audit-policy-file={policy}", f"--audit-log-path={self.audit_log}"]
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--cert-dir={self.folder / 'certs'}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.0.0.0/24",
            *more,
        )
        self._wait_ready()

    def stop(self) -> None:
        """Kills the API server; etcd keeps what is there."""
        child = self._children.pop()
        child.kill()
        child.wait()

    def _spawn(self, program: str, *flags: str) -> None:
        with (self.folder / f"{program}.log").open("ab") as log:
            self._children.append(
                subprocess.Popen([self.binaries / program, *flags], stdout=log, stderr=log, cwd=self.folder)
            )

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 90
        while True:
            try:
                self.request("GET", "/readyz")
                self.request("GET", "/api/v1/namespaces/default")
                return
            except (ApiError, OSError) as error:
                if self._children[-1].poll() is not None or time.monotonic() > deadline:
                    tail = (self.folder / "kube-apiserver.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"kube-apiserver does not come up: {error}\n{tail}") from error
                time.sleep(0.1)

    def kubeconfig(self, token: str = ADMIN_TOKEN) -> Path:
        """A kubeconfig file for the token."""
        path = self.folder / f"{token}.kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
            "clusters": [{"name": "tests", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "tests", "user": {"token": token}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    # -- requests ------------------------------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, body: Any = None, *, content: str = "application/json", token: str = ADMIN_TOKEN
    ) -> Any:
        """One request as `token`. -> the answer, decoded. Raises ApiError with the server's own message."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": content, "Accept": "application/json"}
        try:
            status, text = self._exchange(method, path, data, headers)
        except (http.client.HTTPException, ConnectionError, ssl.SSLError):
            self._drop()  # the server closed an idle connection, or is another one by now
            status, text = self._exchange(method, path, data, headers)
        if status >= 400:
            try:
                raise ApiError(status, json.loads(text)["message"])
            except (ValueError, KeyError):
                raise ApiError(status, text) from None
        return json.loads(text) if text.startswith(("{", "[")) else text

    def _exchange(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, str]:
        """Over the connection that this thread keeps: a handshake for each request would cost more than the request."""
        if (connection := getattr(self._kept, "connection", None)) is None:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self._tls)
            self._kept.connection = connection
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        if (connection := getattr(self._kept, "connection", None)) is not None:
            connection.close()
            self._kept.connection = None

    def watch(self, path: str) -> Iterator[tuple[str, Json]]:
        """(type, object) of a watch, until the server ends it."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self._tls)
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Accept": "application/json"}
        try:
            connection.request("GET", path, headers=headers)
            for line in connection.getresponse():
                told = json.loads(line)
                yield told["type"], told["object"]
        finally:
            connection.close()

    def create(self, path: str, body: Json) -> Json:
        """As kubectl does it: with strict validation of fields."""
        created: Json = self.request("POST", f"{path}{'&' if '?' in path else '?'}fieldValidation=Strict", body)
        return created

    def get(self, path: str) -> Json:
        found: Json = self.request("GET", path)
        return found

    def patch(self, path: str, body: Json) -> Json:
        """A merge patch."""
        changed: Json = self.request("PATCH", path, body, content="application/merge-patch+json")
        return changed

    def delete(self, path: str) -> None:
        self.request("DELETE", path)

    def install(self, crd: Path) -> None:
        """Creates the CustomResourceDefinition and waits until it is served."""
        manifest = yaml.safe_load(crd.read_text(encoding="utf-8"))
        self.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", manifest)
        name = manifest["metadata"]["name"]
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = self.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
            conditions = {c["type"]: c for c in found.get("status", {}).get("conditions") or []}
            for kind in ("NonStructuralSchema", "NamesAccepted", "Established"):
                bad = "True" if kind == "NonStructuralSchema" else "False"
                if kind in conditions and conditions[kind]["status"] == bad and kind != "Established":
                    raise RuntimeError(conditions[kind]["message"])
            if conditions.get("Established", {}).get("status") == "True":
                return
            time.sleep(0.1)
        raise RuntimeError(f"{name} is not established")
