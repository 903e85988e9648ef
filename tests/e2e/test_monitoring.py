"""A real Prometheus finds the pods by the chart's own monitors, and its final numbers are those of status and ledger.

Prometheus runs beside the cluster, as its pods can be reached from here. The monitors are taken from the chart as helm renders them and
translated into what the Prometheus Operator would write. Debian's Prometheus is built without kubernetes_sd_configs: `Discovery` hands it
the same targets with the same labels through files, and Prometheus' own relabelling chooses among them. Everything has namespaces and a
release of its own: `mon-e2e-…`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import CommandFailed, Json, apply, get, in_rehearsal, items, kubectl, run, until
from installed import CHART, ROOT
from restorer.demo.lms import schema_sql
from restores import OUTCOMES, Restore
from surroundings import IMAGE, PASSWORD, claim, generator, namespace, postgres, secret

sys.path.insert(0, str(ROOT / "tests" / "packaging"))
from prometheus import Prometheus

SYSTEM, SPACE, DATABASE = "mon-e2e-system", "mon-e2e", "mon-e2e-database"
RELEASE = "mon-e2e"
BACKUPS = {"monitored": (500_000, 0.5), "dirty": (5_000, 2.0)}
ALERTS = Path(CHART) / "files" / "alerts.yaml"
_COUNTS = "json_build_object(" + ", ".join(f"'{key}', sum({key})" for key in OUTCOMES) + ")"


def sql(statement: str, database: str = "app") -> str:
    words = [
        "exec",
        "-i",
        "deploy/postgres",
        "--",
        "psql",
        "-U",
        "app",
        "-d",
        database,
        "-qtAX",
        "-v",
        "ON_ERROR_STOP=1",
    ]
    return kubectl("-n", DATABASE, *words, input=statement, timeout=180).strip()


def chart(*words: str) -> str:
    repository, _, tag = IMAGE.rpartition(":")
    settings = {
        "image.repository": repository,
        "image.tag": tag,
        "watchNamespace": SPACE,
        "crds.install": "false",
        "metrics.podMonitor.interval": "250ms",
        "metrics.serviceMonitor.interval": "250ms",
    }
    chosen = [w for key, value in settings.items() for w in ("--set", f"{key}={value}")]
    return run("helm", *words, "--namespace", SYSTEM, *chosen, timeout=180)


@pytest.fixture(scope="module")
def surroundings() -> Iterator[None]:
    """PostgreSQL, half a million records on a volume, and the operator of one namespace."""
    apply(namespace(DATABASE), namespace(SYSTEM, restricted=True), namespace(SPACE, restricted=True))
    for manifest in postgres():
        apply(manifest | {"metadata": manifest["metadata"] | {"namespace": DATABASE}})
    apply(secret(SPACE), *claim(SPACE))
    if get("crd", "databaserestores.dbrestore.io", "default") is None:
        kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    chart("upgrade", "--install", RELEASE, CHART, "--wait", "--timeout", "120s")
    kubectl("-n", DATABASE, "rollout", "status", "deploy/postgres", "--timeout=120s", timeout=150)
    yield
    if not in_rehearsal():
        run("helm", "uninstall", RELEASE, "--namespace", SYSTEM, "--wait", timeout=150)
        for name in (SPACE, SYSTEM, DATABASE):
            kubectl("delete", "namespace", name, "--timeout=120s", timeout=150)
        kubectl("delete", "pv", f"{SPACE}-backups", "--ignore-not-found")


@pytest.fixture(scope="module")
def backups(surroundings: None) -> None:
    kubectl("-n", DATABASE, "delete", "pod", "generate", "--ignore-not-found", "--grace-period=0")
    pod = generator()
    words = pod["spec"]["containers"][0]["command"]
    program = re.sub(r"json\.loads\('.*?'\)", lambda _: f"json.loads('{json.dumps(BACKUPS)}')", words[-1])
    pod["spec"]["containers"][0]["command"] = [*words[:-1], program]
    apply(pod | {"metadata": pod["metadata"] | {"namespace": DATABASE}})

    def written() -> bool:
        phase = (get("pod", "generate", DATABASE) or {}).get("status", {}).get("phase")
        assert phase != "Failed", kubectl("-n", DATABASE, "logs", "generate")
        return phase == "Succeeded"

    until("the backups are written", written, 300)


def scrape_config(monitor: Json, folder: Path) -> Json:
    """What the Prometheus Operator makes of a PodMonitor or a ServiceMonitor, as far as the chart's go."""
    spec, pods = monitor["spec"], monitor["kind"] == "PodMonitor"
    (endpoint,) = spec["podMetricsEndpoints" if pods else "endpoints"]
    of = "pod" if pods else "service"
    port = "__meta_kubernetes_pod_container_port_name" if pods else "__meta_kubernetes_endpoint_port_name"
    keep = [
        {
            "source_labels": [f"__meta_kubernetes_{of}_label_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}"],
            "regex": re.escape(value),
            "action": "keep",
        }
        for name, value in spec["selector"]["matchLabels"].items()
    ]
    keep.append({"source_labels": [port], "regex": endpoint["port"], "action": "keep"})
    keep.append({"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)", "action": "drop"})
    labels = [
        {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": target}
        for source, target in (("namespace", "namespace"), ("pod_name", "pod"))
    ]
    return {
        "job_name": f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}",
        "honor_labels": endpoint["honorLabels"],
        "metrics_path": endpoint["path"],
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": endpoint["interval"],
        "file_sd_configs": [{"files": [str(folder / f"{'pod' if pods else 'endpoints'}.json")]}],
        "relabel_configs": keep + labels,
    }


class Discovery(threading.Thread):
    """The targets of `role: pod` and `role: endpoints` of some namespaces, anew every half second, in a file for each role."""

    def __init__(self, folder: Path, namespaces: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self._folder, self._namespaces = folder, namespaces
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.5):
            with contextlib.suppress(CommandFailed):  # the API server is away: what was found stays
                self.write()

    def stop(self) -> None:
        self._over.set()
        self.join()

    def write(self) -> None:
        pods, endpoints = [], []
        for name in self._namespaces:
            there, services = items("pods", name), items("services", name)
            pods += [target for pod in there for target in _targets(pod)]
            for service in services:
                meta = _meta("service", service["metadata"])
                chosen = service["spec"].get("selector", {}).items()
                fitting = [p for p in there if chosen and chosen <= p["metadata"].get("labels", {}).items()]
                for target in (t for pod in fitting for t in _targets(pod)):
                    port = {"__meta_kubernetes_endpoint_port_name": target["labels"][_PORT]}
                    endpoints.append({"targets": target["targets"], "labels": target["labels"] | meta | port})
        for role, found in (("pod", pods), ("endpoints", endpoints)):
            fresh = self._folder / f"{role}.new"
            fresh.write_text(json.dumps(found))
            fresh.rename(self._folder / f"{role}.json")


_PORT = "__meta_kubernetes_pod_container_port_name"


def _meta(of: str, metadata: Json) -> dict[str, str]:
    told = {f"__meta_kubernetes_{of}_name": metadata["name"], "__meta_kubernetes_namespace": metadata["namespace"]}
    for label, value in metadata.get("labels", {}).items():
        told[f"__meta_kubernetes_{of}_label_{re.sub(r'[^a-zA-Z0-9_]', '_', label)}"] = value
    return told


def _targets(pod: Json) -> list[Json]:
    """One for each port of a pod that has an address."""
    ip, ports = pod["status"].get("podIP"), [p for c in pod["spec"]["containers"] for p in c.get("ports", [])]
    labels = _meta("pod", pod["metadata"]) | {"__meta_kubernetes_pod_phase": pod["status"]["phase"]}
    return [
        {"targets": [f"{ip}:{port['containerPort']}"], "labels": labels | {_PORT: port.get("name", "")}}
        for port in ports
        if ip
    ]


@pytest.fixture(scope="module")
def prometheus(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    both = ("--set", "metrics.podMonitor.enabled=true", "--set", "metrics.serviceMonitor.enabled=true")
    rendered = yaml.safe_load_all(chart("template", RELEASE, CHART, "--kube-version", "1.29.0", *both))
    monitors = [m for m in rendered if m and m["kind"] in ("PodMonitor", "ServiceMonitor")]
    assert len(monitors) == 2
    folder = tmp_path_factory.mktemp("prometheus")
    # all of them: which ones count is for the monitors to say
    discovery = Discovery(folder, (SYSTEM, SPACE, DATABASE))
    discovery.write()
    discovery.start()
    config = {
        "global": {"evaluation_interval": "2s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [scrape_config(monitor, folder) for monitor in monitors],
    }
    try:
        with Prometheus(folder, config) as prometheus:
            until("the operator is scraped", lambda: prometheus.query("dbrestore_operator_info"), 30)
            yield prometheus
    finally:
        discovery.stop()


@dataclass
class Ended:
    """Two restores that are over: one that succeeded, and one that was made to fail."""

    good: Restore
    bad: Restore
    began: float


def restore(name: str, backup: str, limit: int) -> Restore:
    database = name.replace("-", "_")
    sql(f"drop database if exists {database} with (force)")
    sql(f"create database {database}")
    sql(schema_sql(), database)
    kubectl("-n", SPACE, "delete", "dbr", name, "--ignore-not-found")
    made = Restore(SPACE, name, database, backup)
    return made.set(target__host=f"pg.{DATABASE}", rejects={"limitPercent": limit})


def planned() -> None:
    """A schedule whose restore has succeeded: one that was due on New Year's Day, made up for."""
    name = "mon-planned"
    spec = restore(name, "dirty", 5).manifest["spec"]
    kubectl("-n", SPACE, "delete", "dbrs", name, "--ignore-not-found")
    kind = {"apiVersion": "dbrestore.io/v1alpha1", "kind": "DatabaseRestoreSchedule"}
    meta = {"metadata": {"name": name, "namespace": SPACE}}
    apply(kind | meta | {"spec": {"schedule": "@yearly", "suspend": True, "template": {"spec": spec}}})
    last = (datetime.now(UTC) - timedelta(days=365)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for words, patch in (
        (["--subresource=status"], {"status": {"lastScheduleTime": last}}),
        ([], {"spec": {"suspend": False}}),
    ):
        kubectl("-n", SPACE, "patch", "dbrs", name, *words, "--type=merge", "-p", json.dumps(patch))
    until("its restore succeeds", lambda: (get("dbrs", name, SPACE) or {})["status"].get("lastSuccessfulTime"), 60)


@pytest.fixture(scope="module")
def ended(backups: None, prometheus: Prometheus) -> Ended:
    began = time.time()
    bad, good = restore("mon-dirty", "dirty", 0), restore("mon-half-a-million", "monitored", 5)
    bad.apply().wait_phase("Failed", seconds=120)
    planned()
    # Prometheus comes by once more before the pod goes
    good.set(hooks={"postRestore": [{"name": "wait", "sql": "select pg_sleep(3)"}]}).apply().wait_succeeded(420)
    phase = f'dbrestore_restore_phase{{restore="{good.name}",phase="Succeeded"}}'
    until("the end is scraped", lambda: prometheus.number(phase) == 1, 30)
    return Ended(good, bad, began)


def test_prometheus_final_numbers_are_those_of_status_and_ledger(ended: Ended, prometheus: Prometheus) -> None:
    good = ended.good
    progress = good.status["progress"]
    of_status = {key: progress[f"records{key.capitalize()}"] for key in OUTCOMES}
    of_ledger = json.loads(sql(f"select {_COUNTS} from dbrestore.tasks where run = '{good.run}'", good.database))
    assert of_status == of_ledger
    assert of_status["read"] == 500_000 and of_status["rejected"] > 0
    wanted = {key: number for key, number in of_ledger.items() if key != "read"}
    who = f'{{namespace="{SPACE}",restore="{good.name}"}}'
    of_operator = {labels["outcome"]: n for labels, n in prometheus.query(f"dbrestore_restore_records{who}")}
    assert of_operator == wanted
    counted = prometheus.query(f"sum by (outcome) (max_over_time(dbrestore_records_total{who}[1h]))")
    assert {labels["outcome"]: n for labels, n in counted} == wanted
    rejects = prometheus.number(f"sum(max_over_time(dbrestore_rejects_total{who}[1h]))")
    assert rejects == int(sql(f"select count(*) from dbrestore.rejects where run = '{good.run}'", good.database))
    pods = {labels["pod"] for labels, _ in prometheus.query(f"max_over_time(dbrestore_progress_ratio{who}[1h])")}
    assert pods == {pod["metadata"]["name"] for pod in good.pods()}


def test_the_board_shows_them(ended: Ended, prometheus: Prometheus) -> None:
    board = json.loads((Path(CHART) / "files" / "dashboard.json").read_text(encoding="utf-8"))
    empty = []
    # a restore that never waits has no time that it waited for; the panel says 0
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", "10s").replace("$__range", "1h")
            query = query.replace("$namespace", SPACE).replace("$restore", f"{ended.good.name}|{ended.bad.name}")
            if not prometheus.over(query, ended.began):
                empty.append(panel["title"])
    assert not empty


def alerts(prometheus: Prometheus) -> list[Any]:
    return [(a["labels"], a["state"]) for a in prometheus.ask("alerts")["alerts"]]


def test_the_failed_restore_alerts_and_the_good_one_is_silent(ended: Ended, prometheus: Prometheus) -> None:
    def fires() -> list[Any]:
        return [labels for labels, state in alerts(prometheus) if state == "firing"]

    found = until("RestoreFailed fires", fires, 90)
    assert [(a["alertname"], a["restore"], a["reason"]) for a in found] == [
        ("RestoreFailed", ended.bad.name, ended.bad.condition("Succeeded")["reason"])
    ]
    assert not [labels for labels, _ in alerts(prometheus) if labels.get("restore") == ended.good.name]


def test_the_runbooks_commands_run(ended: Ended) -> None:
    address = (get("service", "pg", DATABASE) or {})["spec"]["clusterIP"]
    own = {
        "NAMESPACE": SPACE,
        "RESTORE": ended.bad.name,
        "SCHEDULE": "mon-planned",
        "OPERATOR": SYSTEM,
        "DSN": f"postgresql://app:{PASSWORD}@{address}/{ended.bad.database}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    typed = []
    for page in sorted((ROOT / "docs" / "runbooks").glob("*.md")):
        for block in re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            typed += [(page.name, line[2:]) for line in block.splitlines() if line.startswith("$ ")]
    assert len(typed) > 20
    for page_name, command in typed:
        if command.startswith("export "):
            continue
        end = subprocess.run(
            ["bash", "-c", command], env=os.environ | own, capture_output=True, text=True, timeout=60
        )  # fmt: skip
        # `auth can-i` says no with exit code 1, in a word
        if end.returncode and end.stdout.strip() not in ("yes", "no"):
            raise CommandFailed(f"{page_name}: {command}\n{end.stdout}\n{end.stderr}")
        assert end.stdout.strip() or "--field-selector" in command or "lastError" in command, f"{page_name}: {command}"


def test_nothing_is_left_of_a_restore_that_is_deleted(ended: Ended, prometheus: Prometheus) -> None:
    who = f'dbrestore_restore_info{{restore="{ended.bad.name}"}}'
    assert prometheus.query(who)
    ended.bad.delete()
    until("its series end", lambda: not prometheus.query(who), 30)
    until("its alert ends", lambda: not [a for a, _ in alerts(prometheus) if a.get("restore") == ended.bad.name], 30)
