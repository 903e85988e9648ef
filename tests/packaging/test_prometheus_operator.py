"""Monitors and rules against the Prometheus Operator's own CRDs, on a real API server.

The CRDs are in the Prometheus Operator's Go module; `go mod download` brings it into Go's cache. Without Go, or where the module
cannot be had, these tests are skipped and say so.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import CHART, ROOT, Manifest, Run

MODULE, VERSION = "github.com/prometheus-operator/prometheus-operator", "v0.85.0"
SUM = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="  # as go.sum would hold it
GROUP = "monitoring.coreos.com"
PLURALS = ("podmonitors", "servicemonitors", "prometheusrules")
EVERYTHING = tuple(f"metrics.{kind}.enabled=true" for kind in ("podMonitor", "serviceMonitor", "prometheusRule"))
VARIANTS = {
    "as they are": (),
    "one namespace": ("watchNamespace=lms",),
    "with what people set": (
        "metrics.podMonitor.interval=5s",
        "metrics.podMonitor.labels.release=p",
        "metrics.serviceMonitor.interval=1m",
        "metrics.serviceMonitor.labels.release=p",
        "metrics.prometheusRule.labels.release=p",
        "metrics.prometheusRule.runbooks=https://wiki.example/dbr",
    ),
}


@pytest.fixture(scope="module")
def monitoring(kubectl: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """kubectl, against an API server that has the CRDs."""
    if (go := shutil.which("go")) is None:
        pytest.skip("go is not on the path: it brings the Prometheus Operator's CRDs")
    words = [go, "mod", "download", "-json", f"{MODULE}@{VERSION}"]
    end = subprocess.run(words, cwd=tmp_path_factory.mktemp("go"), capture_output=True, text=True, timeout=110)
    if end.returncode:
        pytest.skip(f"{MODULE}@{VERSION} cannot be had: {(end.stdout + end.stderr).strip()[-300:]}")
    told = json.loads(end.stdout)
    assert told["Sum"] == SUM, "not the module that was pinned"
    folder = Path(told["Dir"]) / "example" / "prometheus-operator-crd"
    for plural in PLURALS:
        # server-side: they are too large for the annotation of a client-side apply
        applied = kubectl("apply", "--server-side", "-f", str(folder / f"{GROUP}_{plural}.yaml"))
        assert applied.returncode == 0, applied.stderr
        known = kubectl("wait", "--for=condition=Established", f"crd/{plural}.{GROUP}", "--timeout=30s")
        assert known.returncode == 0, known.stderr
    return kubectl


def of_the_group(manifests: list[Manifest]) -> list[Manifest]:
    return [m for m in manifests if m["apiVersion"].startswith(f"{GROUP}/")]


def applied(kubectl: Run, manifest: Manifest) -> subprocess.CompletedProcess[str]:
    words = ["--server-side", "--force-conflicts", "--validate=strict"]
    return kubectl("apply", *words, "-f", "-", input=yaml.safe_dump(manifest))


def holds(stored: Any, given: Any) -> bool:
    """Whether everything that was given is stored as it was; defaults may stand beside it."""
    if isinstance(given, dict):
        return isinstance(stored, dict) and all(key in stored and holds(stored[key], given[key]) for key in given)
    if isinstance(given, list):
        return isinstance(stored, list) and len(stored) == len(given) and all(map(holds, stored, given))
    return bool(stored == given)


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_api_server_takes_them_and_keeps_every_field(
    render: Callable[..., list[Manifest]], monitoring: Run, settings: tuple[str, ...]
) -> None:
    made = of_the_group(render(*EVERYTHING, *settings))
    assert {m["kind"] for m in made} == {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
    for manifest in made:
        end = applied(monitoring, manifest)
        assert end.returncode == 0, end.stderr
        meta = manifest["metadata"]
        kind = f"{manifest['kind'].lower()}.{GROUP}"
        stored = json.loads(monitoring("-n", meta["namespace"], "get", kind, meta["name"], "-o", "json").stdout)
        assert holds(stored["spec"], manifest["spec"])
        assert holds(stored["metadata"]["labels"], meta["labels"])


def test_it_takes_the_values_of_the_docs(helm: Run, monitoring: Run, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    (tmp_path / "monitoring.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)[0])
    words = ["--namespace", "ops", "--kube-version", "1.29.0", "--values", str(tmp_path / "monitoring.yaml")]
    made = of_the_group([m for m in yaml.safe_load_all(helm("template", "dbr", str(CHART), *words).stdout) if m])
    assert len(made) == 3
    for manifest in made:
        end = applied(monitoring, manifest)
        assert end.returncode == 0, end.stderr


@pytest.mark.parametrize(
    ("kind", "path", "value", "words"),
    [
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "honourLabels"), True, "honourLabels"),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "interval"), "often", "interval"),
        ("ServiceMonitor", ("spec", "selector"), None, "selector"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "for"), "soon", "for"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "severity"), "critical", "severity"),
    ],
)
def test_what_is_wrong_it_refuses(
    render: Callable[..., list[Manifest]], monitoring: Run, kind: str, path: tuple[Any, ...], value: Any, words: str
) -> None:
    """Else the tests above would say nothing."""
    (manifest,) = [m for m in render(*EVERYTHING) if m["kind"] == kind]
    *parents, last = path
    at: Any = manifest
    for parent in parents:
        at = at[parent]
    if value is None:
        del at[last]
    else:
        at[last] = value
    manifest["metadata"]["name"] = "wrong"
    end = applied(monitoring, manifest)
    assert end.returncode != 0 and words in end.stderr
