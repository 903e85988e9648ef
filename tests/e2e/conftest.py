"""The whole thing on a real cluster: the chart installed with helm, PostgreSQL and a volume of generated backups beside it.

KUBECONFIG names the cluster. The images E2E_IMAGE (database-restore-operator:dev) and E2E_POSTGRES_IMAGE (postgres:17) must be
on its node, or within its reach; the node must be one, as the backups lie in a folder of it and signals are sent from it.
`make kind-up` makes such a cluster. E2E_KEEP=1 leaves everything standing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest
from cluster import DATABASE_NAMESPACE, CommandFailed, Json, apply, get, in_rehearsal, items, kubectl, sql, until
from installed import NAMESPACE, install, uninstall
from processes import start_sender
from restorer.demo.lms import schema_sql
from restores import Restore
from surroundings import BACKUPS, RESTORES, claim, generator, namespace, postgres, secret


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in item.path.as_posix():
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """PostgreSQL, the volumes with their backups, the namespace of the restores with its secret and claim."""
    kubectl("version")
    apply(namespace(DATABASE_NAMESPACE), namespace(NAMESPACE, restricted=True), namespace(RESTORES, restricted=True))
    apply(*postgres(), secret(RESTORES), *claim(RESTORES))
    kubectl("-n", DATABASE_NAMESPACE, "rollout", "status", "deploy/postgres", "--timeout=120s", timeout=150)
    start_sender()
    sql("app", "drop database if exists template_lms with (force)")
    sql("app", "create database template_lms")
    sql("template_lms", schema_sql())
    yield
    if not in_rehearsal():
        for name in (RESTORES, DATABASE_NAMESPACE):
            kubectl("delete", "namespace", name, "--timeout=120s", timeout=150)
        kubectl("delete", "pv", f"{RESTORES}-backups", "--ignore-not-found")


@pytest.fixture(scope="session")
def backups(cluster: None) -> dict[str, Json]:
    """What a restore of each backup must report: {"small": {"totals": ..., "tables": {...}, "faults": ...}, ...}."""
    pod = ["-n", DATABASE_NAMESPACE]
    kubectl(*pod, "delete", "pod", "generate", "--ignore-not-found", "--grace-period=0")
    apply(generator())

    def written() -> Json | None:
        phase = (get("pod", "generate", DATABASE_NAMESPACE) or {}).get("status", {}).get("phase")
        assert phase != "Failed", kubectl(*pod, "logs", "generate")
        return {"phase": phase} if phase == "Succeeded" else None

    until("the backups are written", written, 180)
    lines = [json.loads(line) for line in kubectl(*pod, "logs", "generate").splitlines()]
    made = {line["name"]: line for line in lines}
    assert made.keys() == BACKUPS.keys()
    return made


@pytest.fixture(scope="session")
def operator(cluster: None) -> Iterator[None]:
    """The chart, installed in all namespaces, and running."""
    install()
    yield
    if not in_rehearsal():
        uninstall()


@pytest.fixture
def restore(
    operator: None, backups: dict[str, Json], request: pytest.FixtureRequest
) -> Iterator[Callable[..., Restore]]:
    """Makes restores named after the test, each test with an empty database of its own; takes them away afterwards."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")[:40].strip("-")
    database = words.replace("-", "_")
    sql("app", f"drop database if exists {database} with (force)")
    sql("app", f"create database {database} template template_lms")
    made: list[str] = []

    def make(backup: str = "small", *, name: str = "") -> Restore:
        full = f"{words}-{name}" if name else words
        made.append(full)
        kubectl("-n", RESTORES, "delete", "dbr", full, "--ignore-not-found")
        return Restore(RESTORES, full, database, backup)

    yield make
    if not in_rehearsal():
        for name in made:
            kubectl("-n", RESTORES, "delete", "dbr", name, "--ignore-not-found")
        sql("app", f"drop database if exists {database} with (force)")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test says what the operator said."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed and items("pods", NAMESPACE):
        try:
            log = kubectl("-n", NAMESPACE, "logs", "-l", "app.kubernetes.io/component=operator", "--tail=25")
        except CommandFailed as error:
            log = str(error)
        report.sections.append(("the operator's log", log))
