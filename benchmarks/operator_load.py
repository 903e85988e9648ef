"""The operator under load, against a real API server with no node: `make bench-operator`.

How soon a Job is there after `apply`: at five restores a second, and when a thousand are applied at once. Requests to the API
server per restore; the operator's memory, and its CPU when there is nothing to do. Times and requests are the API server's own,
out of its audit log: no client's clock and no client's slowness is in them. There is no node, so the player here does what the
Job controller and the kubelet would: every Job succeeds as soon as it is seen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil

from . import machine
from .figures import table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "operator"))

import kube_binaries
from kube_server import OPERATOR_USER, KubeServer
from operator_process import Operator, grant
from world import World

ROOT = Path(__file__).resolve().parents[1]
SPACE = "bench"
APPLIERS = 32  # connections that a burst is applied over
Entry = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--paced", type=int, default=150, help="restores applied at five per second")
    parser.add_argument("--burst", type=int, default=1000, help="restores applied at once")
    parser.add_argument("--idle", type=int, default=60, help="seconds that CPU is measured with nothing to do")
    parser.add_argument("--write", type=Path, help="write the figures into this Markdown file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-operator-") as place:
        folder = Path(place)
        with KubeServer(kube_binaries.folder(), folder / "kube", audit=True) as kube:
            kube.install(ROOT / "crds" / "databaserestores.dbrestore.io.yaml")
            grant(kube)
            kube.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
            with Operator(kube, folder, "--namespace", SPACE, progress_seconds="5") as operator:
                version = kube.get("/version")["gitVersion"]
                text = _report(measure(World(kube, SPACE), operator, given), given, version)
    print(text)
    if given.write:
        given.write.write_text(text, encoding="utf-8")


def measure(world: World, operator: Operator, given: argparse.Namespace) -> dict[str, Any]:
    """The figures, by name. Seconds, MiB, percent of a core."""
    assert operator.process is not None
    process = psutil.Process(operator.process.pid)
    player = Player(world)
    player.start()
    for n in range(given.paced):
        began = time.monotonic()
        world.apply(f"p{n}", target__database=f"p{n}")
        time.sleep(max(0.2 - (time.monotonic() - began), 0))
    player.wait(given.paced)
    began, used = time.monotonic(), _cpu(process)
    with ThreadPoolExecutor(APPLIERS) as appliers:
        list(appliers.map(lambda n: world.apply(f"b{n}", target__database=f"b{n}"), range(given.burst)))
    applied = time.monotonic() - began
    player.wait(given.paced + given.burst)
    ended = time.monotonic() - began
    busy = _cpu(process) - used
    _settle(operator)
    used = _cpu(process)
    time.sleep(given.idle)
    idle = 100 * (_cpu(process) - used) / given.idle
    player.over = True
    entries = list(_audited(world.kube))
    waits = _waits(entries)
    asked = Counter(_words(e) for e in entries if _of_a_restore(e))
    kept = [e for e in entries if e["user"].get("username") == OPERATOR_USER and not _of_a_restore(e)]
    peak = int(Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
    return {
        "paced": sorted(wait for name, wait in waits.items() if name[0] == "p"),
        "burst": sorted(wait for name, wait in waits.items() if name[0] == "b"),
        "applied": applied,
        "ended": ended,
        "busy": busy,
        "idle": idle,
        "peak": peak,
        "rss": process.memory_info().rss / 2**20,
        "asked": {words: count / (given.paced + given.burst) for words, count in asked.most_common()},
        "kept": len(kept),
    }


def _settle(operator: Operator) -> None:
    """Until the operator looks at nothing any more: the last looks set the Jobs' time to live."""
    looks, since, deadline = "", time.monotonic(), time.monotonic() + 300
    while time.monotonic() - since < 10:
        now = next(
            line for line in operator.ask("/metrics").splitlines() if "reconcile_total{" in line and '"ok"' in line
        )
        if now != looks:
            looks, since = now, time.monotonic()
        assert time.monotonic() < deadline, "the operator does not come to rest"
        time.sleep(1)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# -- the audit log -----------------------------------------------------------------------------------------------------


def _audited(kube: KubeServer) -> Iterator[Entry]:
    """Every answered request; the log may have been rotated."""
    for path in sorted(kube.folder.glob("audit*.log")):
        for line in path.read_text(errors="replace").splitlines():
            entry = json.loads(line)
            if entry["stage"] == "ResponseComplete" and "objectRef" in entry:
                yield entry


def _waits(entries: list[Entry]) -> dict[str, float]:
    """Restore -> seconds from the arrival of its `apply` at the API server until its first Job was stored."""
    applied: dict[str, datetime] = {}
    stored: dict[str, datetime] = {}
    for entry in entries:
        what = entry["objectRef"]
        if entry["verb"] != "create" or what.get("subresource") or entry["responseStatus"]["code"] != 201:
            continue
        if what["resource"] == "databaserestores":
            applied[what["name"]] = datetime.fromisoformat(entry["requestReceivedTimestamp"])
        elif what["resource"] == "jobs":
            stored.setdefault(what["name"].rsplit("-", 2)[0], datetime.fromisoformat(entry["stageTimestamp"]))
    missing = applied.keys() - stored.keys()
    assert not missing, f"no Job was made for {sorted(missing)[:5]}"
    return {name: (stored[name] - at).total_seconds() for name, at in applied.items()}


def _of_a_restore(entry: Entry) -> bool:
    """Whether the operator asked this for the sake of one restore: not its watches, its lists at the start, its leases."""
    if entry["user"].get("username") != OPERATOR_USER or entry["verb"] == "watch":
        return False
    if entry["verb"] == "list":
        uri = unquote(entry["requestURI"])
        return "dbrestore.io/restore=" in uri or "involvedObject.uid=" in uri
    return entry["objectRef"]["resource"] in ("databaserestores", "jobs", "pods", "events")


def _words(entry: Entry) -> str:
    what = entry["objectRef"]
    return f"{entry['verb']} {what['resource']}" + (f"/{what['subresource']}" if what.get("subresource") else "")


# -- what is said ------------------------------------------------------------------------------------------------------


def _at(values: list[float], share: float) -> float:
    """The nearest-rank percentile, in seconds."""
    return values[min(len(values) - 1, max(round(len(values) * share + 0.5) - 1, 0))] if values else 0.0


def _report(found: dict[str, Any], given: argparse.Namespace, version: str) -> str:
    paced, burst = found["paced"], found["burst"]
    per_restore = sum(found["asked"].values())
    rows = [
        ["apply -> Job, 5 restores a second, p50", f"{_at(paced, 0.5) * 1000:.0f} ms", "500 ms"],
        ["the same, p99", f"{_at(paced, 0.99) * 1000:.0f} ms", "2,000 ms"],
        [f"peak RSS, {given.burst:,} restores at once", f"{found['peak']:.0f} MiB", "150 MiB"],
        ["requests to the API server per restore", f"{per_restore:.1f}", "20"],
        [f"CPU with {given.paced + given.burst:,} finished restores", f"{found['idle']:.2f} % of a core", "2 %"],
    ]
    more = [
        ["apply -> Job, p50 / p99 / longest", " / ".join(f"{_at(burst, s):.1f} s" for s in (0.5, 0.99, 1.0))],
        ["all are applied after", f"{found['applied']:.1f} s"],
        ["all have Succeeded after", f"{found['ended']:.1f} s"],
        ["the operator's CPU over that time", f"{found['busy']:.1f} s"],
        ["RSS at the end", f"{found['rss']:.0f} MiB"],
    ]
    asked = [[words, f"{count:.2f}"] for words, count in found["asked"].items()]
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    lines = [
        "# Benchmarks of the operator",
        "",
        f"`make bench-operator` on {today}: a real kube-apiserver and etcd, no node; operator, API server, etcd and the player of",
        "Job controller and kubelet share this machine. Pods succeed as soon as their Job is seen. Times and requests come out of the",
        "API server's audit log.",
        "",
        *(f"- {line}" for line in machine.describe()[:1]),
        f"- kube-apiserver {version}, Python {sys.version.split()[0]}",
        f"- load average at the end: {os.getloadavg()[0]:.1f}",
        "",
        *table(("What", "Measured", "Reach"), rows),
        "",
        f"## {given.burst:,} restores at once",
        "",
        *table(("What", "Measured"), more),
        "",
        "## Requests per restore",
        "",
        f"Those that the operator asks for the sake of one restore. Besides, {found['kept']} in the whole run: its watches, and its lists at",
        "the start. A pod that runs costs a look every five seconds (setting `progress_seconds`): get, list jobs, list pods, and a patch of",
        "the status where figures moved.",
        "",
        *table(("Request", "Per restore"), asked),
    ]
    return "\n".join(lines) + "\n"


class Player(threading.Thread):
    """Plays the Job controller and the kubelet, from a watch of Jobs."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self.world, self.over = world, False
        self._done: set[str] = set()
        self._pool = ThreadPoolExecutor(4)

    def run(self) -> None:
        while not self.over:
            listed = self.world.kube.get(self.world.job_path)
            for job in listed["items"]:
                self._end(job)
            at = listed["metadata"]["resourceVersion"]
            for kind, job in self.world.kube.watch(f"{self.world.job_path}?watch=1&resourceVersion={at}"):
                if kind == "ADDED":
                    self._end(job)

    def _end(self, job: dict[str, Any]) -> None:
        if job["metadata"]["name"] not in self._done:
            self._done.add(job["metadata"]["name"])
            self._pool.submit(self.world.complete, job)

    def wait(self, count: int) -> None:
        """Until so many restores have succeeded."""
        deadline = time.monotonic() + 900
        while True:
            items = self.world.kube.get(f"{self.world.restores}?resourceVersion=0")["items"]
            if sum(item.get("status", {}).get("phase") == "Succeeded" for item in items) >= count:
                return
            assert time.monotonic() < deadline, "not all restores came to their end"
            time.sleep(2)


if __name__ == "__main__":
    main()
