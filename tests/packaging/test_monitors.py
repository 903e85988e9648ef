"""How Prometheus finds the pods: monitors and annotations fit the operator's pod and the Jobs that the operator makes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import restore
from programs import CHART, ROOT, Manifest, Run
from restore_operator.api import DatabaseRestore
from restore_operator.job import SCRAPE, make_job
from restore_operator.settings import Settings

Render = Callable[..., list[Manifest]]
BOTH = ("metrics.podMonitor.enabled=true", "metrics.serviceMonitor.enabled=true")


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [m for m in manifests if m["kind"] == kind]


def one(manifests: list[Manifest], kind: str) -> Any:
    (found,) = of_kind(manifests, kind)
    return found["spec"]


def restore_pod(**settings: Any) -> Any:
    """The template of a restore pod."""
    body = DatabaseRestore.model_validate(restore(**settings.pop("spec", {})))
    return make_job(body, 1, Settings(**settings), remaining=60)["spec"]["template"]


def ports(pod: Any) -> dict[str, int]:
    return {p["name"]: p["containerPort"] for c in pod["spec"]["containers"] for p in c["ports"]}


def test_nothing_of_the_prometheus_operator_is_made_until_it_is_asked_for(render: Render) -> None:
    assert not [m["kind"] for m in render() if m["apiVersion"].startswith("monitoring.coreos.com/")]
    assert not of_kind(render(), "ConfigMap")


def test_the_values_of_the_docs_turn_everything_on(helm: Run, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "monitoring.yaml").write_text(blocks[0])
    words = ["--kube-version", "1.29.0", "--values", str(tmp_path / "monitoring.yaml")]
    end = helm("template", "dbr", str(CHART), *words)
    assert end.returncode == 0, end.stderr
    kinds = {m["kind"] for m in yaml.safe_load_all(end.stdout) if m}
    assert kinds >= {"PodMonitor", "ServiceMonitor", "PrometheusRule", "ConfigMap"}
    (job,) = yaml.safe_load(blocks[1])
    assert job["honor_labels"] is True
    read = {label for rule in job["relabel_configs"] for label in rule["source_labels"]}
    for name in SCRAPE:  # what the operator writes is what the job reads
        assert f"__meta_kubernetes_pod_annotation_{re.sub('[^a-z]', '_', name)}" in read


def test_the_pod_monitor_selects_restore_pods_and_not_the_operator(render: Render) -> None:
    manifests = render(*BOTH)
    monitor = one(manifests, "PodMonitor")
    wanted, pod = monitor["selector"]["matchLabels"], restore_pod()
    assert wanted.items() <= pod["metadata"]["labels"].items()
    operator = one(manifests, "Deployment")["template"]["metadata"]["labels"]
    assert not wanted.items() <= operator.items()
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint == {"port": "metrics", "path": "/metrics", "interval": "15s", "honorLabels": True}
    assert ports(pod)[endpoint["port"]] == 9090


def test_the_service_monitor_selects_the_operators_service(render: Render) -> None:
    manifests = render(*BOTH)
    monitor, (service,) = one(manifests, "ServiceMonitor"), of_kind(manifests, "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["namespaceSelector"] == {"matchNames": [service["metadata"]["namespace"]]}
    (endpoint,) = monitor["endpoints"]
    assert endpoint["honorLabels"] is True
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]


def test_monitors_look_where_the_operator_watches(render: Render) -> None:
    assert one(render(*BOTH), "PodMonitor")["namespaceSelector"] == {"any": True}
    assert one(render(*BOTH, "watchNamespace=lms"), "PodMonitor")["namespaceSelector"] == {"matchNames": ["lms"]}


def test_monitors_carry_the_labels_that_a_prometheus_selects_by(render: Render) -> None:
    made = render(*BOTH, "metrics.podMonitor.labels.release=p", "metrics.serviceMonitor.labels.release=q")
    labels = [of_kind(made, kind)[0]["metadata"]["labels"]["release"] for kind in ("PodMonitor", "ServiceMonitor")]
    assert labels == ["p", "q"]


def test_a_service_monitor_without_a_service_is_refused(helm: Run) -> None:
    words = ["--set", "metrics.serviceMonitor.enabled=true", "--set", "metrics.service.enabled=false"]
    end = helm("template", "dbr", str(CHART), "--kube-version", "1.29.0", *words)
    assert end.returncode != 0
    assert "metrics.service.enabled" in end.stderr


def test_annotations_lead_to_the_ports(render: Render) -> None:
    template = one(render("metrics.annotations=true", "podAnnotations.note=yes"), "Deployment")["template"]
    assert template["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true", "prometheus.io/port": "8080", "prometheus.io/path": "/metrics", "note": "yes",
    }  # fmt: skip
    assert ports(template) == {"metrics": 8080}
    pod = restore_pod(scrape_annotations=True)
    assert pod["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true", "prometheus.io/port": "9090", "prometheus.io/path": "/metrics",
    }  # fmt: skip
    assert "annotations" not in restore_pod()["metadata"]
    assert "annotations" not in one(render(), "Deployment")["template"]["metadata"]


def test_a_restores_own_annotations_win() -> None:
    own = {"spec": {"jobTemplate": {"annotations": {"prometheus.io/scrape": "false", "note": "yes"}}}}
    annotations = restore_pod(scrape_annotations=True, **own)["metadata"]["annotations"]
    assert (annotations["prometheus.io/scrape"], annotations["note"]) == ("false", "yes")


@pytest.mark.parametrize("peers", [(), ("networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=watch",)])
def test_restore_pods_let_scrapers_and_the_operator_in(render: Render, peers: tuple[str, ...]) -> None:
    manifests = render("networkPolicy.enabled=true", "networkPolicy.restoreNamespaces={lms,crm}", *peers)
    policies = {m["metadata"]["namespace"]: m["spec"] for m in of_kind(manifests, "NetworkPolicy")}
    assert policies.keys() == {"ops", "lms", "crm"}
    policy, pod = policies["lms"], restore_pod()
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["policyTypes"] == ["Ingress"]
    (rule,) = policy["ingress"]
    assert ports(pod)[rule["ports"][0]["port"]] == 9090
    if not peers:
        assert "from" not in rule
        return
    operator = one(manifests, "Deployment")["template"]["metadata"]["labels"]
    ours, theirs = rule["from"]
    assert ours["podSelector"]["matchLabels"].items() <= operator.items()
    assert ours["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}
    assert theirs == {"namespaceSelector": {"matchLabels": {"team": "watch"}}}


def test_the_watched_namespace_has_its_policy_once(render: Render) -> None:
    settings = ("networkPolicy.enabled=true", "watchNamespace=lms", "networkPolicy.restoreNamespaces={lms}")
    assert [m["metadata"]["namespace"] for m in of_kind(render(*settings), "NetworkPolicy")] == ["ops", "lms"]
