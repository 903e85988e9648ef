"""The metrics port: `/metrics`, `/progress` and `/healthz` over HTTP, for Prometheus, the operator and the kubelet.

A few daemon threads, never more than `MAX_REQUESTS`; every socket has a timeout, every answer closes its connection.
A slow or hostile client can neither hold up the load nor make memory grow.
"""

from __future__ import annotations

import errno
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import msgspec

from restorer.errors import Refused
from restorer.watch.progress import Progress

if TYPE_CHECKING:
    from restorer.watch.metrics import Metrics

MAX_REQUESTS = 8  # at the same time; more are closed at once
SOCKET_TIMEOUT = 5.0  # seconds a client may keep silent


class MetricsServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens at once, serves from `start()` (or `with`) to `close()`. `port` 0 takes a free one; `.port` says which.

    `health` returns "" when the engine is well, else the reason why not. The stall that `progress` itself judges makes
    `/healthz` answer 503 too. Raises Refused when the port cannot be had."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(
        self,
        port: int,
        progress: Progress,
        metrics: Metrics | None = None,
        *,
        health: Callable[[], str] = lambda: "",
        host: str = "",
    ) -> None:
        socketserver.BaseServer.__init__(self, (host, port), _Handler)
        self.progress, self.metrics, self._health = progress, metrics, health
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS)
        self._thread: threading.Thread | None = None
        try:
            self.socket = _listen(host, port, self.request_queue_size)
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise Refused(
                f"cannot listen on metrics port {port}: {why}", "choose another --metrics-port, or leave it out"
            ) from error
        self.port: int = self.socket.getsockname()[1]
        self.server_address = (host, self.port)

    def start(self) -> MetricsServer:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
        self._thread.name = "metrics-port"
        self._thread.start()
        return self

    def close(self) -> None:
        if self._thread is not None:
            self.shutdown()
            self._thread.join(timeout=2)
            self._thread = None
        self.server_close()

    def __enter__(self) -> MetricsServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def unwell(self) -> str:
        """Why the restorer is not healthy, "" when it is."""
        if reason := self._health():
            return reason
        if self.progress.stalled(self.progress.now(), self.progress.stall_timeout):
            return f"stalled: no batch was committed for {self.progress.stall_timeout:g} s"
        return ""

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads to be had
            self._slots.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away is nobody's concern


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = SOCKET_TIMEOUT
    server_version, sys_version = "restorer", ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/progress":
            self._answer(200, "application/json", msgspec.json.encode(self.server.progress.snapshot()))
        elif path == "/healthz":
            reason = self.server.unwell()
            self._answer(503 if reason else 200, "text/plain; charset=utf-8", f"{reason or 'ok'}\n".encode())
        elif path == "/metrics" and self.server.metrics is not None:
            from restorer.watch.metrics import CONTENT_TYPE

            self._answer(200, CONTENT_TYPE, self.server.metrics.text())
        else:
            self._answer(404, "text/plain; charset=utf-8", b"not here: /metrics, /progress, /healthz\n")

    do_HEAD = do_GET

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass  # probes every few seconds are not news


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket; with no host given on IPv6 and IPv4 at once, where the machine has both."""
    if not host and socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=backlog)
