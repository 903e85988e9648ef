"""Figures out of a running pod's log, where its port is closed to the operator. Away from the tests that share an operator: that one may
not read logs, and would say so of these pods."""

from __future__ import annotations

import io
from pathlib import Path

from kube_server import OPERATOR_USER, KubeServer
from kubelet import Kubelet
from operator_process import Operator
from restore_operator.progress import last_figures
from restorer.events import PhaseChanged, RunStarted, TableStart
from restorer.report import Counters
from restorer.watch.log import EventLog
from restorer.watch.progress import Progress
from world import World


def test_where_the_port_is_closed_the_log_tells(granted: KubeServer, namespace: str, tmp_path: Path) -> None:
    """The log is the restorer's own, and the API server gets it from the node as `kubectl logs` would."""
    _may_read_logs(granted, namespace)
    world = World(granted, namespace)
    with (
        Kubelet(granted, tmp_path, f"node-of-{namespace}"[:60]) as kubelet,
        Operator(granted, tmp_path, "--namespace", namespace, progress_from_logs="true"),
    ):
        world.apply()
        # Nobody listens on that address.
        pod = world.running(world.wait_job(), ip="127.0.8.1", since="2020-01-01T00:00:00Z", node=kubelet.node)
        world.wait(lambda: world.condition("Progressing").get("status") == "Unknown", say=world.status)
        kubelet.logs[namespace, pod["metadata"]["name"]] = _log_of_a_restorer()
        status = world.wait_phase("Running")
        told = {
            key: status["progress"][key] for key in ("percent", "recordsRead", "recordsInserted", "recordsRejected")
        }
        assert told == {"percent": 50, "recordsRead": 50, "recordsInserted": 48, "recordsRejected": 2}
        assert status["progress"]["lastUpdateTime"] and "tables" not in status
        assert world.condition("Progressing")["status"] == "True"
        assert world.condition("Degraded")["reason"] == "RowsRejected"


def test_a_log_that_tells_nothing_is_no_progress() -> None:
    assert last_figures("") is None
    assert last_figures('Killed\n{"event": "phase"}\n[1]\n{"percent": "half"}') is None
    told = last_figures('{"percent": 5}\n{"percent": 7, "recordsRead": 3}\n{"event": "table started"}\n{half a li')
    assert told is not None and (told.percent, told.records_read) == (7, 3)


def _log_of_a_restorer() -> str:
    seconds, lines = iter(range(0, 1000, 20)), io.StringIO()
    progress = Progress()
    log = EventLog(progress, stream=lines, clock=lambda: float(next(seconds)))
    table = TableStart("users", 1000, 500, Counters(read=50, inserted=48, rejected=2), "Loading")
    for event in (RunStarted("x", "Apply", "20241219_103045", [table], 1, False), PhaseChanged("Loading")):
        progress(event)
        log(event)
    assert '"percent"' in lines.getvalue()
    return lines.getvalue() + "not a line of JSON\n"


def _may_read_logs(kube: KubeServer, namespace: str) -> None:
    """What the chart's value progress.fromLogs adds."""
    rbac, group = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}", "rbac.authorization.k8s.io"
    meta = {"apiVersion": f"{group}/v1", "metadata": {"name": "logs"}}
    rules = [{"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}]
    kube.create(f"{rbac}/roles", meta | {"kind": "Role", "rules": rules})
    subjects = [{"kind": "User", "name": OPERATOR_USER, "apiGroup": group}]
    reference = {"apiGroup": group, "kind": "Role", "name": "logs"}
    kube.create(f"{rbac}/rolebindings", meta | {"kind": "RoleBinding", "roleRef": reference, "subjects": subjects})
