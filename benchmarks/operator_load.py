"""The operator under load, against a real API server with no node: `make bench-operator`.

How soon a Job is there after `apply` at five restores a second; requests to the API server per restore, out of its audit log;
memory, and CPU when there is nothing to do. Pods end at once: this test plays the controllers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "operator"))

import kube_binaries  # noqa: E402
from kube_server import KubeServer  # noqa: E402
from operator_process import Operator, grant  # noqa: E402
from world import World  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--paced", type=int, default=100, help="restores applied at five per second")
    parser.add_argument("--burst", type=int, default=1000, help="restores applied at once")
    parser.add_argument("--idle", type=int, default=30, help="seconds that CPU is measured with nothing to do")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-operator-") as place:
        folder = Path(place)
        with KubeServer(kube_binaries.folder(), folder / "kube", audit=True) as kube:
            kube.install(ROOT / "crds" / "databaserestores.dbrestore.io.yaml")
            grant(kube)
            kube.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}})
            with Operator(kube, folder, "--namespace", "bench", progress_seconds="5") as operator:
                assert operator.process is not None
                run(World(kube, "bench"), operator, psutil.Process(operator.process.pid), given)


def run(world: World, operator: Operator, process: psutil.Process, given: argparse.Namespace) -> None:
    player = Player(world)
    player.start()
    applied: dict[str, float] = {}
    for n in range(given.paced):
        began = time.monotonic()
        applied[f"p{n}"] = time.time()
        world.apply(f"p{n}", target__database=f"p{n}")
        time.sleep(max(0.2 - (time.monotonic() - began), 0))
    player.wait(given.paced)
    waits = sorted(player.seen[name] - at for name, at in applied.items())
    p99 = waits[min(len(waits) - 1, round(len(waits) * 0.99))]
    print(f"apply -> Job, 5 per second: p50 {statistics.median(waits) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms (polled)")
    began = time.monotonic()
    for n in range(given.burst):
        world.apply(f"b{n}", target__database=f"b{n}")
    total = given.paced + given.burst
    player.wait(total)
    memory = process.memory_full_info()
    peak = int(Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
    print(
        f"{given.burst} restores to their end: {time.monotonic() - began:.0f} s; RSS {memory.rss / 2**20:.0f} MiB, peak {peak:.0f}"
    )
    asked = told = 0
    for line in world.kube.audit_log.read_text(errors="replace").splitlines():
        entry = json.loads(line)
        if (
            entry["user"].get("username") != "operator"
            or entry["stage"] != "ResponseComplete"
            or entry["verb"] == "watch"
        ):
            continue
        told += entry["objectRef"]["resource"] == "events" if "objectRef" in entry else 0
        asked += 1
    print(f"requests per restore: {(asked - told) / total:.1f}, and {told / total:.1f} for events")
    time.sleep(5)
    before = process.cpu_times()
    time.sleep(given.idle)
    after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    print(f"idle with {total} finished restores: {100 * used / given.idle:.2f} % of a core")
    player.over = True


class Player(threading.Thread):
    """Plays the Job controller and the kubelet: every Job succeeds as soon as it is seen."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self.world, self.seen, self.over = world, dict[str, float](), False

    def run(self) -> None:
        while not self.over:
            for job in self.world.kube.get(f"{self.world.job_path}?resourceVersion=0")["items"]:
                name = job["metadata"]["labels"]["dbrestore.io/restore"]
                if name not in self.seen:
                    self.seen[name] = time.time()
                    self.world.complete(job)
            time.sleep(0.1)

    def wait(self, count: int) -> None:
        """Until so many restores have succeeded."""
        deadline = time.monotonic() + 1200
        while True:
            items = self.world.kube.get(f"{self.world.restores}?resourceVersion=0")["items"]
            if sum(item["status"].get("phase") == "Succeeded" for item in items) >= count:
                return
            assert time.monotonic() < deadline, "not all restores came to their end"
            time.sleep(0.5)


if __name__ == "__main__":
    main()
