"""Parts of Kubernetes itself are killed under running restores. For the one-node cluster that keeps its parts' process ids in
files and starts again what is missing: ONE_NODE_CLUSTER names its `up`, else these are skipped."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cluster import Json, kubectl, until

UP = os.environ.get("ONE_NODE_CLUSTER", "")
pytestmark = pytest.mark.skipif(
    not UP, reason="ONE_NODE_CLUSTER does not name the script that starts the cluster's parts"
)


def kill(part: str) -> None:
    pid = Path(os.environ["KUBECONFIG"]).parent / "run" / "pid" / part
    os.kill(int(pid.read_text()), signal.SIGKILL)


def up() -> None:
    subprocess.run([UP], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=120)


def answers() -> bool:
    return subprocess.run(["kubectl", "get", "--raw", "/readyz"], capture_output=True, timeout=30).returncode == 0


@pytest.mark.parametrize(
    "parts",
    [
        ["kube-apiserver"],
        ["etcd", "kube-apiserver"],
        ["kubelet"],
        ["kube-controller-manager", "kube-scheduler"],
        ["coredns"],
    ],
    ids="+".join,
)
def test_it_goes_on(restore: Any, backups: dict[str, Json], parts: list[str]) -> None:
    running = restore("large", name="running").slowly().apply()
    running.wait_loading()
    for part in parts:
        kill(part)
    if "kube-apiserver" in parts:
        assert not answers()
    up()
    until("the API server answers", answers, 60)
    # Beside rows of another backup, of which there are more at every moment: how many of its records would fit is a matter of chance.
    later = restore("clean", name="later").set(mode="DryRun", rejects={"limitPercent": 100}).apply()
    running.wait_succeeded(300).check(backups["large"])
    assert running.runs() == 1
    later.wait_succeeded(120)
    assert len(running.jobs()) == 1, "a restart made another Job"
    kubectl("get", "nodes")
