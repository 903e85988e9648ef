"""The metrics port over real HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from restorer.errors import Refused
from restorer.events import BatchLoaded, PhaseChanged, RunStarted, TableStart, fan_out
from restorer.report import Counters
from restorer.watch.metrics import Metrics
from restorer.watch.progress import Progress
from restorer.watch.server import MAX_REQUESTS, MetricsServer, _Handler


class Port:
    def __init__(self) -> None:
        self.at, self.reason = 0.0, ""
        self.progress = Progress(stall_timeout=300, clock=lambda: self.at)
        metrics = Metrics(self.progress, namespace="lms", name="reset")
        self.emit = fan_out(self.progress, metrics)
        self.server = MetricsServer(0, self.progress, metrics, health=lambda: self.reason)

    def get(self, path: str, host: str = "127.0.0.1") -> tuple[int, str, str]:
        try:
            with urllib.request.urlopen(f"http://{host}:{self.server.port}{path}", timeout=5) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read().decode()


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port()
    with port.server:
        port.emit(RunStarted("lms/reset/1", "Apply", "20241219", [TableStart("users", 1000)]))
        port.emit(PhaseChanged("Loading"))
        port.emit(BatchLoaded("users", "Copy", Counters(read=4, inserted=4), 500, 0.1))
        yield port


def test_progress_is_json(port: Port) -> None:
    status, content_type, body = port.get("/progress")
    assert (status, content_type) == (200, "application/json")
    document = json.loads(body)
    assert (document["run"], document["percent"], document["recordsRead"]) == ("lms/reset/1", 50, 4)
    assert document["tables"][0]["name"] == "users"


def test_metrics_are_text(port: Port) -> None:
    status, content_type, body = port.get("/metrics?name=x")
    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    assert 'dbrestore_bytes_total{namespace="lms",restore="reset",table="users"} 500.0' in body


def test_healthy_while_batches_are_committed(port: Port) -> None:
    assert port.get("/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
    port.at = 301
    status, _, body = port.get("/healthz")
    assert (status, body) == (503, "stalled: no batch was committed for 300 s\n")


def test_unhealthy_with_the_engines_reason(port: Port) -> None:
    port.reason = "the engine ended without a report"
    assert port.get("/healthz")[::2] == (503, "the engine ended without a report\n")


def test_other_paths_are_not_found(port: Port) -> None:
    assert [port.get(path)[0] for path in ("/", "/progress/", "/metrics/../etc", "/healthzz")] == [404] * 4


def test_metrics_are_not_found_without_a_registry() -> None:
    with MetricsServer(0, Progress()) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 404


def test_head_has_no_body_and_other_methods_are_refused(port: Port) -> None:
    def ask(method: str) -> bytes:
        with socket.create_connection(("127.0.0.1", port.server.port), timeout=5) as client:
            client.sendall(f"{method} /healthz HTTP/1.0\r\n\r\n".encode())
            return b"".join(iter(lambda: client.recv(4096), b""))

    assert ask("HEAD").startswith(b"HTTP/1.0 200 OK\r\n")
    assert ask("HEAD").endswith(b"\r\n\r\n")
    assert ask("GET").endswith(b"\r\n\r\nok\n")
    assert ask("POST").startswith(b"HTTP/1.0 501 ")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_answers_on_ipv6_too(port: Port) -> None:
    try:
        socket.create_connection(("::1", port.server.port), timeout=2).close()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    assert port.get("/healthz", host="[::1]")[0] == 200


def test_a_port_in_use_is_refused_with_a_remedy(port: Port) -> None:
    with pytest.raises(Refused, match=f"metrics port {port.server.port}: Address already in use.*") as refused:
        MetricsServer(port.server.port, Progress())
    assert "--metrics-port" in refused.value.line()
    assert refused.value.exit_code == 2


def test_silent_clients_are_bounded_and_do_not_last(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < _Handler.timeout <= 10
    monkeypatch.setattr(_Handler, "timeout", 3)
    silent = [socket.create_connection(("127.0.0.1", port.server.port)) for _ in range(MAX_REQUESTS + 4)]
    time.sleep(0.5)
    turned_away = 0
    for client in silent:
        client.settimeout(0.01)
        try:
            turned_away += client.recv(1) == b""
        except TimeoutError:
            pass
    assert turned_away == 4
    until = time.monotonic() + 20
    while not answers(port):
        assert time.monotonic() < until
        time.sleep(0.1)
    for client in silent:
        client.close()


def answers(port: Port) -> bool:
    try:
        return port.get("/healthz")[0] == 200
    except OSError:
        return False


def test_the_port_is_free_again_after_close() -> None:
    first = MetricsServer(0, Progress())
    first.start()
    first.close()
    MetricsServer(first.port, Progress()).close()
