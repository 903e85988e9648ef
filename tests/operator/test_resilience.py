"""What dies on the way: the operator, the API server; and two operators at once. Each test has an operator of its own."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from kube_server import KubeServer
from manifests import CRD
from nights import HOURLY, Nights
from operator_process import Operator, grant
from world import World


@pytest.fixture
def alone(granted: KubeServer, namespace: str, tmp_path: Path) -> Iterator[tuple[Operator, World]]:
    """An operator of this namespace only, not started yet."""
    process = Operator(granted, tmp_path, "--namespace", namespace)
    yield process, World(granted, namespace)
    if process.process is not None and process.process.poll() is None:
        process.kill()


def test_killed_again_and_again_it_makes_one_job_per_restore(alone: tuple[Operator, World]) -> None:
    operator, world = alone
    names = [f"r{n}" for n in range(8)]
    operator.start()
    for n, name in enumerate(names):
        world.apply(name, target__database=f"db{n}")
        if n % 2:
            operator.kill()
            time.sleep(0.02 * n)
            operator.start()
    jobs = {name: world.wait_job(name) for name in names}
    for n, name in enumerate(names):
        world.complete(jobs[name])
        if n % 3 == 0:
            operator.kill()
            operator.start()
    for name in names:
        status = world.wait_phase("Succeeded", name)
        assert status["attempt"] == 1 and status["progress"]["recordsRead"] == 100
        assert len(world.jobs(name)) == 1
    assert "Traceback" not in operator.told()


def test_what_happened_while_it_was_away_is_found(alone: tuple[Operator, World]) -> None:
    operator, world = alone
    world.apply("early")
    world.apply("gone")
    world.apply("late", target__database="other")
    operator.start()
    early, late = world.wait_job("early"), world.wait_job("late")
    assert world.wait_phase("Queued", "gone")
    operator.kill()
    world.complete(early)
    world.kube.delete(f"{world.restores}/gone")
    world.remove_job(late)
    world.apply("next")
    operator.start()
    world.wait_phase("Succeeded", "early")
    world.wait_job("late", attempt=2)
    world.wait_job("next")
    assert world.jobs("gone") == []


def test_two_operators_do_no_harm(alone: tuple[Operator, World], granted: KubeServer, tmp_path: Path) -> None:
    operator, world = alone
    (tmp_path / "second").mkdir()
    with Operator(granted, tmp_path / "second", "--namespace", world.namespace):
        operator.start()
        names = [f"r{n}" for n in range(6)]
        for n, name in enumerate(names):
            world.apply(name, target__database=f"db{n}")
        for name in names:
            world.complete(world.wait_job(name))
        for name in names:
            assert world.wait_phase("Succeeded", name)["attempt"] == 1
            assert len(world.jobs(name)) == 1
            assert len([e for e in world.events("Succeeded") if e["involvedObject"]["name"] == name]) == 1


def test_sigterm_ends_it_in_good_time(alone: tuple[Operator, World]) -> None:
    operator, world = alone
    operator.start()
    world.apply()
    world.wait_job()
    began = time.monotonic()
    assert operator.stop() == 0
    assert time.monotonic() - began < 10
    assert "Traceback" not in operator.told()


def test_no_cluster_and_bad_settings_are_said_in_one_line(granted: KubeServer, tmp_path: Path) -> None:
    for settings, code, words in (
        (
            {"progress_seconds": "often"},
            2,
            "RESTORE_OPERATOR_PROGRESS_SECONDS is 'often': must be a whole number, 1 at least",
        ),
        ({"port": "70000"}, 2, "RESTORE_OPERATOR_PORT is '70000': must be a whole number, 65535 at most"),
        ({"log_format": "xml"}, 2, "must be one of json, text"),
    ):
        operator = Operator(granted, tmp_path, "--all-namespaces", **settings)
        with pytest.raises(AssertionError):
            operator.start()
        assert operator.process is not None and operator.process.returncode == code
        assert words in operator.told() and "Traceback" not in operator.told()
        operator.log.unlink()


def test_a_port_that_cannot_be_had_is_said_in_one_line(granted: KubeServer, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        number = taken.getsockname()[1]
        operator = Operator(granted, tmp_path, "--all-namespaces", port=str(number))
        with pytest.raises(AssertionError):
            operator.start()
        assert operator.process is not None and operator.process.returncode == 1
        words = f"restore-operator: port {number}: Address already in use: set another RESTORE_OPERATOR_PORT"
        assert operator.told().splitlines() == [words]


@pytest.mark.slow  # an API server has to come back
def test_the_api_server_goes_away_and_comes_back(tmp_path: Path, granted: KubeServer) -> None:
    """With a server of its own: the others go on using theirs."""
    with KubeServer(granted.binaries, tmp_path / "kube") as kube:
        kube.install(CRD)
        grant(kube)
        kube.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lms"}})
        world = World(kube, "lms")
        with Operator(kube, tmp_path, "--namespace", "lms") as operator:
            world.apply()
            job = world.wait_job()
            kube.stop()
            time.sleep(3)
            kube.start()
            world.complete(job)
            world.wait_phase("Succeeded", seconds=60)
            world.apply("after", target__database="other")
            world.wait_job("after", seconds=60)
            assert operator.process is not None and operator.process.poll() is None


def test_killed_again_and_again_a_schedule_makes_one_restore_per_time(alone: tuple[Operator, World]) -> None:
    operator, world = alone
    operator.start()
    nights = Nights(world)
    nights.apply(schedule=HOURLY)
    nights.ran(timedelta(hours=5))
    nights.change(suspend=False)
    for n in range(4):
        time.sleep(0.05 * n)
        operator.kill()
        operator.start()
        if n == 1:  # a look that made the restore and could not tell of it
            nights.ran(timedelta(hours=5))
    child = nights.wait_child()
    nights.wait(lambda: [a["uid"] for a in nights.status().get("active", [])] == [child["metadata"]["uid"]])
    nights.succeed(child)
    nights.wait(lambda: nights.status().get("lastSuccessfulTime") and not nights.status().get("active"))
    assert len(nights.children()) == 1
    assert len(world.events("RestoreCreated")) <= 2 and "Traceback" not in operator.told()
