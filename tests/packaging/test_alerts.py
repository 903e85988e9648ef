"""The alerts: Prometheus' own promtool says when each fires and when it is silent; each has a runbook, and the chart carries them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from programs import CHART, ROOT, Manifest, Run, runner

RULES = CHART / "files" / "alerts.yaml"
CASES = ROOT / "tests" / "packaging" / "alerts"
RUNBOOKS = ROOT / "docs" / "runbooks"
WANTED = {
    "RestoreFailed", "RestoreStalled", "RestoreRejectsHigh", "RestoreTakesTooLong", "RestoreQueueStuck", "OperatorDown",
    "OperatorErrors", "RestoreScheduleMissed",
}  # fmt: skip


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def promtool() -> Run:
    return runner("promtool")


def test_promtool_finds_nothing_wrong_with_the_rules(promtool: Run) -> None:
    end = promtool("check", "rules", str(RULES))
    assert end.returncode == 0, end.stdout + end.stderr
    assert f"{len(rules())} rules found" in end.stdout


def test_these_alerts_are_there() -> None:
    assert {rule["alert"] for rule in rules()} == WANTED


@pytest.mark.parametrize("alert", sorted(WANTED))
def test_it_fires_when_it_should_and_only_then(promtool: Run, alert: str) -> None:
    file = CASES / f"{alert}.yaml"
    checks = [check for case in yaml.safe_load(file.read_text())["tests"] for check in case["alert_rule_test"]]
    assert {check["alertname"] for check in checks} == {alert}
    fired = {frozenset(a["exp_labels"].items()) & _causes(alert) for c in checks for a in c["exp_alerts"]}
    assert fired == {frozenset({cause}) for cause in _causes(alert)}, "a rule that no case makes fire"
    assert any(not check["exp_alerts"] for check in checks), "no case keeps it silent"
    end = promtool("test", "rules", str(file))
    assert end.returncode == 0, end.stdout + end.stderr


def _causes(alert: str) -> frozenset[tuple[str, str]]:
    """What tells the rules of one alert apart: `cause`, and the severity of one that is alone."""
    own = [rule["labels"] for rule in rules() if rule["alert"] == alert]
    return frozenset(("cause", r["cause"]) if "cause" in r else ("severity", r["severity"]) for r in own)


@pytest.mark.parametrize("rule", rules(), ids=lambda r: f"{r['alert']}-{r['labels'].get('cause', '')}")
def test_each_says_what_is_wrong_and_what_to_read(rule: dict[str, Any]) -> None:
    said = rule["annotations"]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert len(said["summary"]) < 120
    assert said["description"].endswith(".")
    assert said["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    page = (RUNBOOKS / f"{rule['alert']}.md").read_text(encoding="utf-8")
    for part in ("**What it means.**", "**What to look at.**", "**What to do", "```console\n$ "):
        assert part in page
    if "cause" in rule["labels"]:
        assert f"`cause: {rule['labels']['cause']}`" in page


def test_every_runbook_is_listed_with_its_severity() -> None:
    text = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == WANTED | {"README"}
    for rule in rules():
        assert f"| [{rule['alert']}]({rule['alert']}.md) | {rule['labels']['severity']} |" in text


def test_the_chart_carries_the_rules_as_they_are(render: Callable[..., list[Manifest]]) -> None:
    switch = "metrics.prometheusRule.enabled=true"
    made = [m for m in render(switch) if m["kind"] == "PrometheusRule"]
    assert len(made) == 1 and made[0]["spec"] == yaml.safe_load(RULES.read_text(encoding="utf-8"))
    moved = render(
        switch, "metrics.prometheusRule.runbooks=https://wiki.example/dbr", "metrics.prometheusRule.labels.release=p"
    )
    (rule,) = [m for m in moved if m["kind"] == "PrometheusRule"]
    links = [r["annotations"]["runbook_url"] for g in rule["spec"]["groups"] for r in g["rules"]]
    assert links[0] == "https://wiki.example/dbr/RestoreFailed.md"
    assert rule["metadata"]["labels"]["release"] == "p"
