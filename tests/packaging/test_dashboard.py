"""The dashboard: every panel's query, asked of a real Prometheus that scraped a real restore and the operator's own metrics.

The restore is the real command against a real PostgreSQL. What stands in for a cluster are the statuses: the operator's own functions
make them of the real pod's /progress and report, and its real port serves them.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import yaml
from manifests import schedule
from programs import CHART, ROOT, Manifest
from prometheus import Prometheus, free_port
from psycopg.conninfo import conninfo_to_dict
from restore_operator import reasons, status
from restore_operator.api import DatabaseRestore, RestoreStatus
from restore_operator.metrics import Metrics, Port
from restore_operator.queue import Queue
from restore_operator.schedule_api import DatabaseRestoreSchedule
from restore_operator.status import Progressing
from restorer.demo.lms import generate, schema_sql
from restorer.report import Report
from restorer.watch.figures import OUTCOMES, Snapshot

sys.path.insert(0, str(ROOT / "tests" / "restorer"))  # the real command as a process
from command import Started

FILE = CHART / "files" / "dashboard.json"
DASHBOARD = json.loads(FILE.read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel, target) for panel in PANELS for target in panel["targets"]]
RECORDS = 80_000


class Operator:
    """The operator's metrics and port, with restores that the test shows to it; in a thread with a loop of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.metrics = Metrics()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready, self._stop = threading.Event(), asyncio.Event()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        async def look(_: Any) -> None:
            with self.metrics.duration.time():
                self.metrics.reconciles.labels("ok").inc()

        self._queue = Queue(look, concurrency=1, failed=lambda key, error: None)
        self.metrics.attach(self._queue)
        port = Port(self.port, self.metrics, self._queue)
        await port.start()
        self._ready.set()
        await self._stop.wait()
        await port.close()
        await self._queue.close()

    def see(self, restore: DatabaseRestore, made: RestoreStatus) -> None:
        self.metrics.restores.see(restore.model_copy(update={"status": made}))
        key = restore.metadata.namespace, restore.metadata.name
        self._loop.call_soon_threadsafe(self._queue.mark, key)

    def __enter__(self) -> Operator:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@dataclass
class Watched:
    """A restore that Prometheus has seen from its first second to its end. `began`: Unix seconds."""

    prometheus: Prometheus
    report: Report
    began: float


def resource(name: str, dsn: str) -> dict[str, Any]:
    parts = conninfo_to_dict(dsn)
    return {
        "apiVersion": "dbrestore.io/v1alpha1",
        "kind": "DatabaseRestore",
        "metadata": {"name": name, "namespace": "lms"},
        "spec": {
            "source": {"persistentVolumeClaim": {"claimName": "backups"}, "path": "rausachcore"},
            "target": {"host": "pg", "database": parts["dbname"], "credentialsSecretRef": {"name": "pg-app"}},
            "load": {"workers": 1, "batchRows": 50},  # slow enough to be watched: an ETA needs 3 s of loading
            "rejects": {"limitPercent": 5},
            # Prometheus comes by once more before the pod goes
            "hooks": {"postRestore": [{"name": "wait", "sql": "select pg_sleep(2)"}]},
        },
    }


def nightly(now: datetime) -> DatabaseRestoreSchedule:
    """A schedule whose restore of yesterday has succeeded."""
    yesterday = (now - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {"lastScheduleTime": yesterday, "lastSuccessfulTime": yesterday}
    return DatabaseRestoreSchedule.model_validate(schedule(schedule="@daily") | {"status": status})


@pytest.fixture(scope="module")
def watched(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    generate(folder / "backups", records=RECORDS, bad_percent=1.0)
    name = f"watched_{time.time_ns()}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    dsn = psycopg.conninfo.make_conninfo(server, dbname=name)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(schema_sql())
    pod = free_port()
    with Operator() as operator:
        config = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
            "scrape_configs": [
                {"job_name": job, "honor_labels": True, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
                for job, port in (("restores", pod), ("operator", operator.port))
            ],
        }
        with Prometheus(folder, config) as prometheus:
            began = time.time()
            report = _restore(folder, dsn, pod, operator)
            prometheus.until(
                "the end is scraped",
                lambda: prometheus.number('dbrestore_restore_phase{restore="reset",phase="Succeeded"}') == 1,
            )
            yield Watched(prometheus, report, began)
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _restore(folder: Path, dsn: str, port: int, operator: Operator) -> Report:
    """Runs the command, and shows the operator's metrics what the operator would have seen."""
    body = resource("reset", dsn)
    restore = DatabaseRestore.model_validate(body)
    manifest = folder / "restore.yaml"
    manifest.write_text(yaml.safe_dump(body))
    others = [DatabaseRestore.model_validate(resource(other, dsn)) for other in ("waits", "failed")]
    now = datetime.now(UTC)
    operator.see(others[0], status.active(RestoreStatus(run_id="1"), others[0], now, "Queued", reasons.QUEUED, "waits"))
    failed = status.ended(RestoreStatus(run_id="1"), others[1], now, "Failed", reasons.LOAD_FAILED, "a broken file")
    operator.see(others[1], failed)
    operator.metrics.schedules.see(nightly(now))
    started = Started(
        "run", "--file", manifest, "--backup", folder / "backups", "--dsn", dsn, "--json", "--metrics-port", port
    )  # fmt: skip
    now = datetime.now(UTC)
    seen = RestoreStatus(run_id="1", start_time=now.strftime("%Y-%m-%dT%H:%M:%SZ"))
    try:
        while started.process.poll() is None:
            if (progress := _progress(port)) is not None and progress.phase == "Loading":
                ongoing = Progressing("True", reasons.LOADING)
                seen = status.active(
                    status.loading(seen, progress), restore, datetime.now(UTC), "Running", reasons.LOADING,
                    progressing=ongoing,
                )  # fmt: skip
                operator.see(restore, seen)
            time.sleep(0.2)
        end = started.end()
    finally:
        started.close()
    assert end.code == 0, end.err
    report = msgspec.json.decode(end.out.splitlines()[-1], type=Report)
    said = status.ended(seen, restore, datetime.now(UTC), "Succeeded", reasons.SUCCEEDED, report.message, report)
    operator.see(restore, said)
    return report


def _progress(port: int) -> Snapshot | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=2) as answer:
            return msgspec.json.decode(answer.read(), type=Snapshot)
    except OSError:
        return None


def filled_in(query: str, *, namespace: str = ".*", restore: str = ".*") -> str:
    for name, value in (("namespace", namespace), ("restore", restore), ("__rate_interval", "5s"), ("__range", "1h")):
        query = query.replace(f"${name}", value)
    assert "$" not in query, f"a variable that the dashboard does not have: {query}"
    return query


@pytest.mark.slow  # a restore, an operator and a Prometheus that looks at both
@pytest.mark.parametrize(
    ("panel", "target"), QUERIES, ids=[f"{p['title']} {t['refId']}".replace(" ", "-") for p, t in QUERIES]
)
def test_every_panel_has_data_of_the_restore(watched: Watched, panel: dict[str, Any], target: dict[str, Any]) -> None:
    # a quotient with nothing above and below it is NaN: no data either
    for everything in (dict[str, str](), {"namespace": "lms", "restore": "reset|failed|waits"}):
        series = watched.prometheus.over(filled_in(target["expr"], **everything), watched.began)
        numbers = [value for one in series for _, value in one["values"] if value != "NaN"]
        assert numbers, f"{panel['title']}: no data for {target['expr']}"
    for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
        assert all(label in one["metric"] for one in series), f"{panel['title']}: no label {label}"


@pytest.mark.parametrize("panel", PANELS, ids=lambda p: p["title"].replace(" ", "-"))
def test_a_choice_of_restores_is_a_choice(panel: dict[str, Any]) -> None:
    """Which panels listen to which variable."""
    rows = [row for row in DASHBOARD["panels"] if row["type"] == "row" and row["gridPos"]["y"] < panel["gridPos"]["y"]]
    listens = {"Fleet": {"namespace"}, "One restore": {"namespace", "restore"}, "Operator": set()}[rows[-1]["title"]]
    for target in panel["targets"]:
        selectors = re.findall(r"dbrestore_\w+(\{[^}]*\})?", target["expr"])
        for selector in selectors:
            assert {v for v in ("namespace", "restore") if f'{v}=~"${v}"' in selector} == listens


@pytest.mark.slow
def test_the_variables_find_what_was_scraped(watched: Watched) -> None:
    variables = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "restore"]
    for name, found in (("namespace", {"lms"}), ("restore", {"reset", "waits", "failed"})):
        asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variables[name]["definition"])
        assert asked
        series = watched.prometheus.query(f"last_over_time({filled_in(asked[1])}[1h])")
        assert {labels[asked[2]] for labels, _ in series} == found


@pytest.mark.slow
def test_the_final_numbers_are_the_reports(watched: Watched) -> None:
    report, ask = watched.report, watched.prometheus.query
    assert report.totals.rejected > 0 and report.totals.conflict > 0
    wanted = {outcome: getattr(report.totals, outcome) for outcome in OUTCOMES}
    of_operator = {labels["outcome"]: n for labels, n in ask('dbrestore_restore_records{restore="reset"}')}
    assert of_operator == wanted
    of_pod = ask('sum by (outcome) (max_over_time(dbrestore_records_total{restore="reset"}[1h]))')
    assert {labels["outcome"]: n for labels, n in of_pod} == wanted
    by_table = ask('sum by (table) (max_over_time(dbrestore_records_total{restore="reset"}[1h]))')
    assert {labels["table"]: n for labels, n in by_table} == {t.name: t.read for t in report.tables}
    rungs = {labels["level"]: n for labels, n in ask('dbrestore_restore_fallback_records{restore="reset"}')}
    assert rungs == {rung.level: rung.records for rung in report.fallback}
    reasons_of_pod = ask('sum(max_over_time(dbrestore_rejects_total{restore="reset"}[1h]))')
    assert reasons_of_pod[0][1] == report.totals.rejected
    ratio = watched.prometheus.number('dbrestore_restore_progress_ratio{restore="reset"}')
    assert ratio == 1


def test_the_file_is_what_the_script_writes() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "dashboard")], capture_output=True, text=True, check=True
    )
    assert FILE.read_text(encoding="utf-8") == made.stdout, "run `make dashboard`"


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_chart_hands_it_to_grafanas_sidecar(render: Callable[..., list[Manifest]]) -> None:
    made = render("metrics.dashboard.enabled=true", "metrics.dashboard.annotations.grafana_folder=Databases")
    (found,) = [m for m in made if m["kind"] == "ConfigMap"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Databases"}
    assert json.loads(found["data"]["database-restores.json"]) == DASHBOARD
