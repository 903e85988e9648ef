"""Figures of a running pod: the restorer's own server, asked by the operator; and what may stand in its place."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest
from restorer.events import RunStarted, TableStart
from restorer.report import Counters
from restorer.watch.progress import Progress
from restorer.watch.server import MetricsServer
from world import World

PORT = 9090


@pytest.fixture
def address() -> str:
    """An address of this machine's loopback network where the pods' port is free."""
    for last in range(2, 250):
        with socket.socket() as s:
            try:
                s.bind((f"127.0.7.{last}", PORT))
                return f"127.0.7.{last}"
            except OSError:
                continue
    pytest.skip("port 9090 is taken on every loopback address")


def test_a_running_pods_figures_reach_the_status(world: World, address: str) -> None:
    progress = Progress()
    counts = Counters(read=50, inserted=48, rejected=2)
    table = TableStart("users", 1000, 500, counts, "Loading")
    progress(RunStarted("x", "Apply", "20241219_103045", [table], 1, False))
    with MetricsServer(PORT, progress, host=address):
        world.apply()
        job = world.wait_job()
        world.running(job, ip=address)
        status = world.wait(lambda: world.status() if world.status().get("progress") else None, say=world.status)
        assert status["progress"]["percent"] == 50 and status["progress"]["recordsRead"] == 50
        assert status["tables"][0]["name"] == "users" and status["snapshot"]["name"] == "20241219_103045"
        assert world.condition("Degraded")["reason"] == "RowsRejected"
        assert world.condition("Progressing")["status"] == "True"


@pytest.fixture
def hostile(address: str) -> Iterator[str]:
    """Something on the pod's port that is no restorer: it sends more than anybody should read."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(100):
                    self.wfile.write(b"x" * (1 << 20))
            except OSError:
                pass

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((address, PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield address
    server.shutdown()


def test_what_cannot_be_read_is_no_stall(world: World, hostile: str) -> None:
    world.apply()
    job = world.wait_job()
    world.running(job, ip=hostile)
    world.wait(lambda: world.condition("Progressing").get("reason") == "ProgressUnavailable", 30, say=world.status)
    assert world.condition("Progressing")["status"] == "Unknown"
    assert world.condition("Stalled")["status"] == "False"
