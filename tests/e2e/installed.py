"""The chart's release in the cluster."""

from __future__ import annotations

from pathlib import Path

from cluster import items, kubectl, run, until
from processes import kill_first, running_container
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


def is_installed() -> bool:
    return RELEASE in helm("list", "--short").split()


def uninstall() -> None:
    helm("uninstall", RELEASE, "--wait")


def operator() -> tuple[str, str]:
    """(pod, container ID) of the operator that runs; ("", "") while none does."""
    for pod in items("pods", NAMESPACE, SELECTOR):
        if running := running_container(pod):
            return pod["metadata"]["name"], running
    return "", ""


def kill_operator() -> None:
    """SIGKILL to the operator's process: the pod stays, the kubelet starts its container again. Waits until it has."""
    pod, container = operator()
    kill_first(container)
    again = until("the operator's container runs again", lambda: _another(container), 60)
    assert again == pod


def replace_operator() -> None:
    """SIGKILL to the operator's process, then its pod deleted: the next one starts at once, however often this is done."""
    pod, container = operator()
    kill_first(container)
    kubectl("-n", NAMESPACE, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")


def wait_operator() -> None:
    kubectl("-n", NAMESPACE, "rollout", "status", f"deploy/{RELEASE}", "--timeout=90s", timeout=120)


def _another(container: str) -> str:
    pod, running = operator()
    return pod if running != container else ""
