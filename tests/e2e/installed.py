"""The chart's release in the cluster."""

from __future__ import annotations

from pathlib import Path

from cluster import kubectl, run
from surroundings import IMAGE

ROOT = Path(__file__).resolve().parents[2]
CHART = str(ROOT / "charts" / "database-restore-operator")
NAMESPACE = "dbr-e2e-system"
RELEASE = "database-restore-operator"
SELECTOR = "app.kubernetes.io/component=operator"


def helm(*words: str) -> str:
    return run("helm", "--namespace", NAMESPACE, *words, timeout=150)


def install(*settings: str) -> None:
    """Installs, or upgrades to other settings, and waits until the operator is ready."""
    repository, _, tag = IMAGE.rpartition(":")
    chosen = [f"image.repository={repository}", f"image.tag={tag}", *settings]
    # --take-ownership: somebody may have applied the CRD by hand
    words = ["upgrade", "--install", RELEASE, CHART, "--take-ownership", "--wait", "--timeout", "120s"]
    helm(*words, *(w for s in chosen for w in ("--set-string" if s.startswith("image.") else "--set", s)))


def uninstall() -> None:
    helm("uninstall", RELEASE, "--wait")


def kill_operator() -> None:
    """SIGKILL to the operator's process: the pod stays, the kubelet starts the container again."""
    kubectl("-n", NAMESPACE, "delete", "pod", "-l", SELECTOR, "--grace-period=0", "--force")


def wait_operator() -> None:
    kubectl("-n", NAMESPACE, "rollout", "status", f"deploy/{RELEASE}", "--timeout=90s", timeout=120)
