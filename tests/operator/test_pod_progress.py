"""Figures of a running pod: the restorer's own server, asked by the operator; and what may stand in its place."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest
from restorer.events import PhaseChanged, RunStarted, TableStart
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


def test_a_pod_that_commits_nothing_is_said_and_its_last_figures_stay(world: World, address: str) -> None:
    now = iter([0.0, 0.0, 0.0])
    progress = Progress(clock=lambda: next(now, 400.0), stall_timeout=300)
    table = TableStart("users", 1000, 500, Counters(read=50, inserted=50), "Loading")
    progress(RunStarted("x", "Apply", "20241219_103045", [table], 1, False))
    progress(PhaseChanged("Loading"))
    with MetricsServer(PORT, progress, host=address):
        world.apply()
        job = world.wait_job()
        pod = world.running(job, ip=address)
        world.wait(lambda: world.condition("Progressing").get("status") == "False", say=world.status)
    said = world.condition("Progressing")
    assert said["reason"] == "NoProgress" and "?" not in said["message"]
    for word in (f"pod {pod['metadata']['name']}", "pg-rw/app", "300 s", "pg_blocking_pids()", "end that session"):
        assert word in said["message"]
    world.ended(job, 137, "", pod)  # killed, and it left no report
    world.fail_job(job, "BackoffLimitExceeded")
    last = world.wait_phase("Failed")["progress"]
    assert (last["percent"], last["bytesDone"], last["recordsRead"]) == (50, 500, 50)
    assert "etaSeconds" not in last and not last["table"]


@pytest.fixture(params=["sends more than anybody should read", "never answers"])
def hostile(address: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Something on the pod's port that is no restorer."""
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if request.param == "never answers":
                over.wait()
                return
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
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield address
    over.set()
    server.shutdown()
    server.server_close()


def test_what_cannot_be_read_is_no_stall(world: World, hostile: str) -> None:
    world.apply()
    world.running(world.wait_job(), ip=hostile, since="2020-01-01T00:00:00Z")
    world.wait(lambda: world.condition("Progressing").get("reason") == "ProgressUnavailable", 10, say=world.status)
    assert world.condition("Progressing")["status"] == "Unknown"
    assert world.condition("Stalled")["status"] == "False"
    # Nobody waits for that pod: another restore is started meanwhile, and this one still ends.
    world.apply("other", target__database="other")
    world.wait_job("other", seconds=5)
    world.change(cancel=True)
    world.wait_deleting(world.jobs()[0])
