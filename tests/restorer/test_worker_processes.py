"""How worker processes come to be and go: as forks while nothing else goes on in the parent, as programs afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from command import COMMAND, restorer
from fix_restore import Restore
from restorer.events import AnyEvent, Warned
from restorer.load.pool import Pool
from restorer.load.process import Forked, Process, spares, start
from restorer.load.worker import Context
from restorer.run import Request, execute
from restorer.spec import RestoreSpec

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


def test_a_spare_that_died_before_it_was_needed_is_replaced(at: Restore) -> None:
    at.schema("CREATE TABLE t (id int PRIMARY KEY)").file("t", [{"id": n} for n in range(100)])
    events: list[AnyEvent] = []
    with spares(2) as made:
        made[-1].kill()
        made[-1].wait()
        request = Request(RestoreSpec.model_validate({"load": {"workers": 2}}), at.root, at.dsn, "dead/1")
        report, failure = execute(request, events.append, made)
    assert failure is None
    assert report.totals.inserted == 100
    assert sum(isinstance(e, Warned) and "a worker process died" in e.message for e in events) == 1


def test_workers_that_the_system_does_not_let_start_are_told_with_the_remedy(at: Restore) -> None:
    at.schema("CREATE TABLE t (id int PRIMARY KEY)").file("t", [{"id": 1}])
    few_files = ("sh", "-c", 'ulimit -n 40; exec "$@"', "sh", *COMMAND)
    end = restorer("run", "--backup", at.root, "--dsn", at.dsn, "--workers", 30, command=few_files)
    words = "restorer: a worker process cannot be started: Too many open files: use fewer workers, or raise the limits"
    assert end.code == 1
    assert end.err.startswith(words) and end.err.count("\n") == 1, end.err
    assert at.value("SELECT to_regnamespace('dbrestore')") is None


def test_nobody_waits_who_could_be_woken(at: Restore) -> None:
    """Neither a worker for a table whose parents are settled now, nor the leader for a worker that is through with a task."""
    at.schema(
        "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY REFERENCES a)",
        "CREATE TABLE c (id int PRIMARY KEY REFERENCES b)", "CREATE TABLE d (id int PRIMARY KEY REFERENCES c)",
    )  # fmt: skip
    for name in "abcd":
        at.file(name, [{"id": n} for n in range(100)])
    patient = (
        sys.executable, "-P", "-c", "import sys, restorer.load.leader as l, restorer.load.worker as w; "
        "l.LOOK_SECONDS = w.IDLE_SECONDS = 60; from restorer.cli import main; sys.exit(main())",
    )  # fmt: skip
    end = restorer("run", "--backup", at.root, "--dsn", at.dsn, "--workers", 2, command=patient, seconds=50)
    assert end.code == 0, end.err
    assert at.value("SELECT count(*) FROM d") == 100


def test_a_worker_that_dies_is_replaced_at_the_first_look() -> None:
    """Its pipe ends a moment before the system knows of its death."""
    events: list[AnyEvent] = []
    dying = [sys.executable, "-c", "import os, time; os.close(1); time.sleep(0.1); os._exit(9)"]
    process = subprocess.Popen(dying, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pool = Pool(Context("", "r", {}, (), ""), 1, events.append, [process])
    try:
        pool.wait(30)
        assert pool.check()
        assert [type(event) for event in events] == [Warned]
    finally:
        pool.stop()


def test_a_worker_that_is_stopped_does_not_stop_its_parent(at: Restore) -> None:
    """Its pipe is full one day: `wake` must not wait for room in it."""
    process = Forked([])
    try:
        pool = Pool(Context("", "r", {}, (), ""), 1, lambda _: None, [process])
        os.kill(process.pid, signal.SIGSTOP)
        for _ in range(200_000):
            pool.wake()
    finally:
        process.kill()
        process.wait()
    pool.wake()  # nor is it an error when it is gone


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
