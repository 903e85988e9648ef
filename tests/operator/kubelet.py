"""A node of the tests' API server, as far as `kubectl logs` needs one: the kubelet's own way of handing out a log, over TLS."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from kube_server import KubeServer


class Kubelet:
    """`with Kubelet(kube, folder, "node-1") as kubelet: kubelet.logs["lms", "pod-1"] = text`."""

    def __init__(self, kube: KubeServer, folder: Path, node: str) -> None:
        self.kube, self.node, self.logs = kube, node, dict[tuple[str, str], str]()
        certificate, key = folder / "kubelet.crt", folder / "kubelet.key"
        subprocess.run(
            [
                *[
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "rsa:2048",
                    "-nodes",
                    "-days",
                    "2",
                    "-subj",
                    "/CN=node",
                    "-keyout",
                ],
                key,
                "-out",
                certificate,
            ],
            check=True,
            capture_output=True,
        )
        logs = self.logs

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = urlsplit(self.path)
                kind, namespace, pod, _container = asked.path.strip("/").split("/")
                lines = int(parse_qs(asked.query)["tailLines"][0])
                text = logs.get((namespace, pod)) if kind == "containerLogs" else None
                self.send_response(404 if text is None else 200)
                self.end_headers()
                self.wfile.write("\n".join((text or "").splitlines()[-lines:]).encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> Kubelet:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.kube.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.server_address[1]}},
        }
        self.kube.patch(f"/api/v1/nodes/{self.node}/status", {"status": status})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kube.delete(f"/api/v1/nodes/{self.node}")
        self._server.shutdown()
        self._server.server_close()
