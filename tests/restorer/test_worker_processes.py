"""How worker processes come to be and go: as forks while nothing else goes on in the parent, as programs afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from restorer.load.process import Forked, Process, spares, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux alone")


@pytest.fixture(params=["forked", "started"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Process, Process]]:
    first: Process = Forked([]) if request.param == "forked" else start()
    second: Process = Forked([first]) if request.param == "forked" else start()
    yield first, second
    for process in (first, second):
        process.kill()
        process.wait()


def test_a_worker_ends_when_its_parent_lets_go_of_it_although_others_live_on(pair: tuple[Process, Process]) -> None:
    """The second one must not hold the first one's pipe open: it would outlive a parent that was killed."""
    first, second = pair
    assert first.stdin is not None
    first.stdin.close()
    assert first.wait(10) == 0
    assert second.poll() is None


def test_a_worker_tells_how_it_ended(pair: tuple[Process, Process]) -> None:
    first, second = pair
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(0.05)
    first.kill()
    assert first.wait(10) == first.poll() == -9
    first.kill()  # of one that is gone and waited for: nobody else may have its number
    assert second.poll() is None


def test_what_a_worker_says_by_mistake_does_not_reach_the_commands_output(pair: tuple[Process, Process]) -> None:
    mine, until = os.readlink("/proc/self/fd/1"), time.monotonic() + 10
    for process in pair:
        while os.readlink(f"/proc/{process.pid}/fd/1") == mine:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_spares_that_nobody_took_are_ended() -> None:
    with spares(2) as made:
        pids = [process.pid for process in made]
        assert all(psutil.pid_exists(pid) for pid in pids)
        taken = made.pop()
    assert [psutil.pid_exists(pid) for pid in pids] == [False, True]
    taken.kill()
    taken.wait()


def test_no_fork_beside_a_thread() -> None:
    """A lock that the thread holds would stay locked in the child."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        with spares(1) as made:
            assert isinstance(made[0], subprocess.Popen)
    finally:
        over.set()
        thread.join()
