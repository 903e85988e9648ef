"""Signals to processes of pods, from the node: the first process of a container hears no SIGKILL from inside it.

A pod with the node's view of processes (hostPID) sends them. It stands on the only node that there is (conftest.py).
"""

from __future__ import annotations

import signal

from cluster import DATABASE_NAMESPACE, Json, apply, kubectl
from surroundings import IMAGE

_POD = "signals"
# argv: container ID, signal, "first" or "child". A process belongs to the container whose ID is in its control group's path;
# the last number of NSpid is what the process itself takes for its number.
_SEND = """
import os, pathlib, sys
container, number, which = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sent = 0
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if container not in (process / "cgroup").read_text():
            continue
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        inside = status["NSpid"].split()[-1]
        if (which == "first") == (inside == "1"):
            os.kill(int(process.name), number)
            sent += 1
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended meanwhile
print(sent)
"""


def start_sender() -> None:
    """The pod that sends; once per session."""
    container: Json = {
        "name": _POD,
        "image": IMAGE,
        "command": ["python", "-c", "import time; time.sleep(86400)"],
        "securityContext": {"runAsUser": 0, "privileged": True},
    }
    spec: Json = {"hostPID": True, "terminationGracePeriodSeconds": 0, "containers": [container]}
    where = {"name": _POD, "namespace": DATABASE_NAMESPACE}
    apply({"apiVersion": "v1", "kind": "Pod", "metadata": where, "spec": spec})
    kubectl("-n", DATABASE_NAMESPACE, "wait", "--for=condition=Ready", f"pod/{_POD}", "--timeout=60s")


def kill_first(container: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Sends a signal to a container's first process. `container`: as a pod's status names it, `containerd://…`."""
    assert _send(container, number, "first") == 1, f"{container} has no first process"


def kill_children(container: str) -> int:
    """SIGKILL to every process of a container but the first, as the kernel does it when memory is short. -> how many"""
    return _send(container, signal.SIGKILL, "child")


def running_container(pod: Json) -> str:
    """The ID of the pod's only container; "" while it does not run."""
    for status in pod["status"].get("containerStatuses", []):
        if "running" in status["state"] and "deletionTimestamp" not in pod["metadata"]:
            return str(status["containerID"])
    return ""


def _send(container: str, number: signal.Signals, which: str) -> int:
    words = ["python", "-c", _SEND, container.rpartition("/")[2], str(int(number)), which]
    return int(kubectl("-n", DATABASE_NAMESPACE, "exec", _POD, "--", *words))
