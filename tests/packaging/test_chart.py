"""The chart: what helm makes of it, held against a real API server."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from programs import CHART, ROOT, Manifest, Run
from restore_operator.settings import PREFIX, Settings

Render = Callable[..., list[Manifest]]

VARIANTS = {
    "as it is": (),
    "one namespace": ("watchNamespace=lms",),
    "progress from logs": ("progress.fromLogs=true",),
    "network policy": ("networkPolicy.enabled=true", "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prom"),
    "network policy of one namespace": ("networkPolicy.enabled=true", "watchNamespace=lms"),
    "network policies of restores": (
        "networkPolicy.enabled=true",
        "watchNamespace=lms",
        "networkPolicy.restoreNamespaces[0]=lms",
        "networkPolicy.restoreNamespaces[1]=ops",
        "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=watch",
    ),
    "scraped by annotations": ("metrics.annotations=true", "podAnnotations.note=yes"),
    "with the dashboard": ("metrics.dashboard.enabled=true",),
    "without the CRD": ("crds.install=false",),
    "by digest": (f"image.digest=sha256:{'0' * 64}",),
    "with what people add": (
        "podLabels.team=data",
        "podAnnotations.note=yes",
        "nodeSelector.disk=ssd",
        "priorityClassName=system-cluster-critical",
        "imagePullSecrets[0].name=pull",
        "extraEnv[0].name=RESTORE_OPERATOR_MEMORY_LIMIT",
        "extraEnv[0].value=2Gi",
        "tolerations[0].operator=Exists",
        "serviceAccount.annotations.a=b",
        "metrics.service.annotations.a=b",
    ),
    "with a service account of one's own": (
        "serviceAccount.create=false",
        "serviceAccount.name=own",
        "rbac.create=false",
    ),
}


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    found = [m for m in manifests if m["kind"] == kind]
    assert len(found) == 1, f"{len(found)} of {kind} in {[m['kind'] for m in manifests]}"
    return found[0]


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_helm_lint_finds_nothing(helm: Run, settings: tuple[str, ...]) -> None:
    end = helm("lint", "--strict", str(CHART), *(w for s in settings for w in ("--set", s)))
    assert end.returncode == 0, end.stdout + end.stderr


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_api_server_takes_every_manifest(render: Render, kubectl: Run, settings: tuple[str, ...]) -> None:
    text = yaml.safe_dump_all(render(*settings))
    # --force-conflicts: the CRD is there already, applied by hand
    end = kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-", input=text
    )
    assert end.returncode == 0, end.stderr


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("watchNamespaces=lms", "watchNamespaces"),
        ("watchNamespace=Not_A_Name", "watchNamespace"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=latest", "digest"),
        ("crds.install=maybe", "install"),
        ("networkPolicy.apiServerPorts[0]=70000", "apiServerPorts"),
        ("logLevel=loud", "logLevel"),
        ("metrics.service.port=9", "port"),
        ("metrics.podMonitor.interval=often", "interval"),
        ("metrics.prometheusRule.labels.release=1", "release"),
        ("networkPolicy.restoreNamespaces[0]=Not_A_Name", "restoreNamespaces"),
        ("replicas=2", "replicas"),
        ("extraEnv[0].value=5", "extraEnv"),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_name(helm: Run, setting: str, word: str) -> None:
    end = helm("template", "dbr", str(CHART), "--kube-version", "1.29.0", "--set", setting)
    assert end.returncode != 0
    assert word in end.stderr


RULES = {
    ("dbrestore.io", "databaserestores"): {"get", "list", "watch", "create", "delete"},
    ("dbrestore.io", "databaserestoreschedules"): {"get", "list", "watch"},
    ("dbrestore.io", "databaserestoreschedules/status"): {"patch"},
    ("dbrestore.io", "databaserestores/status"): {"patch"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "patch", "delete"},
    ("", "pods"): {"get", "list", "watch"},
    ("", "events"): {"list", "create"},
}


def rules(role: Manifest) -> dict[tuple[str, str], set[str]]:
    return {(g, r): set(rule["verbs"]) for rule in role["rules"] for g in rule["apiGroups"] for r in rule["resources"]}


def test_what_the_operator_may_do_is_this_list_and_nothing_else(render: Render) -> None:
    manifests = render()
    assert rules(of_kind(manifests, "ClusterRole")) == RULES
    binding = of_kind(manifests, "ClusterRoleBinding")
    account = of_kind(manifests, "ServiceAccount")["metadata"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]
    assert binding["roleRef"]["name"] == of_kind(manifests, "ClusterRole")["metadata"]["name"]


def test_logs_of_pods_only_where_progress_is_read_from_them(render: Render) -> None:
    assert rules(of_kind(render("progress.fromLogs=true"), "ClusterRole")) == RULES | {("", "pods/log"): {"get"}}


def test_one_namespace_means_no_right_anywhere_else(render: Render) -> None:
    manifests = render("watchNamespace=lms")
    assert not [m["kind"] for m in manifests if m["kind"].startswith("ClusterRole")]
    role, binding = of_kind(manifests, "Role"), of_kind(manifests, "RoleBinding")
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "lms"
    assert rules(role) == RULES
    assert binding["subjects"][0]["namespace"] == "ops"
    assert operator(manifests)["args"] == ["--namespace", "lms"]
    assert operator(render())["args"] == ["--all-namespaces"]


def operator(manifests: list[Manifest]) -> dict[str, Any]:
    container: dict[str, Any] = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return container


def test_the_pod_is_taken_where_pods_are_restricted(render: Render, kubectl: Run) -> None:
    spec = of_kind(render(), "Deployment")["spec"]["template"]["spec"] | {"serviceAccountName": "default"}

    def admitted(spec: dict[str, Any]) -> bool:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "restricted"}, "spec": spec}
        end = kubectl("create", "--dry-run=server", "-f", "-", input=yaml.safe_dump(pod))
        assert end.returncode == 0 or "PodSecurity" in end.stderr, end.stderr
        return end.returncode == 0

    assert admitted(spec)
    container = spec["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    loose = spec | {"containers": [container | {"securityContext": {}}]}
    assert not admitted(loose), "the API server does not look at Pod Security at all"


def test_one_operator_replaced_not_doubled(render: Render) -> None:
    spec = of_kind(render(), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_service_and_policy_select_the_pod_and_its_port(render: Render) -> None:
    manifests = render("networkPolicy.enabled=true")
    labels = of_kind(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in operator(manifests)["ports"]}
    assert ports == {"metrics": 8080}
    service, policy = of_kind(manifests, "Service")["spec"], of_kind(manifests, "NetworkPolicy")["spec"]
    assert service["selector"].items() <= labels.items()
    assert [(p["name"], p["port"], p["targetPort"]) for p in service["ports"]] == [("metrics", 8080, "metrics")]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert {p["port"] for rule in policy["egress"] for p in rule["ports"]} == {443, 6443, 53, 9090}


def test_the_image_of_restores_is_the_operators_own_until_another_is_named(render: Render) -> None:
    def images(*settings: str) -> tuple[str, str]:
        container = operator(render(*settings))
        named = {e["name"]: e["value"] for e in container["env"]}
        return container["image"], named["RESTORE_OPERATOR_RESTORER_IMAGE"]

    assert images("image.tag=dev") == ("database-restore-operator:dev", "database-restore-operator:dev")
    digest = f"sha256:{'a' * 64}"
    assert images(f"image.digest={digest}", "image.tag=v1") == (f"database-restore-operator@{digest}",) * 2
    assert images("restorer.image=other:1")[1] == "other:1"


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_operator_understands_every_setting_it_is_given(render: Render, settings: tuple[str, ...]) -> None:
    container = operator(render(*settings, "logLevel=debug", "image.tag=v1"))
    given = {e["name"]: e["value"] for e in container["env"]}
    known = {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)}
    assert given.keys() <= known
    made = Settings.of(given)
    assert (made.restorer_image, made.log_level) == (container["image"], "DEBUG")
    assert made.progress_from_logs is ("progress.fromLogs=true" in settings)
    assert made.scrape_annotations is ("metrics.annotations=true" in settings)
    assert {p["name"]: p["containerPort"] for p in container["ports"]} == {"metrics": made.port}


def test_the_charts_crds_are_the_projects_crds(render: Render) -> None:
    ours = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "crds").glob("*.yaml")}
    copies = {p.name: p.read_text(encoding="utf-8") for p in (CHART / "files" / "crds").glob("*.yaml")}
    assert ours == copies, "make crds"
    rendered = {m["metadata"]["name"]: m for m in render() if m["kind"] == "CustomResourceDefinition"}
    for text in ours.values():
        crd = yaml.safe_load(text)
        made = rendered.pop(crd["metadata"]["name"])
        assert made["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert made == crd
    assert not rendered


def test_without_the_crd_there_is_none(render: Render) -> None:
    assert "CustomResourceDefinition" not in {m["kind"] for m in render("crds.install=false")}


def test_chart_and_project_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
