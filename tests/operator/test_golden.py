"""Manifests, the Jobs that they make and the statuses that come of it, as files that a person can read: a folder of tests/data each.

`python tests/operator/test_golden.py` writes them anew; the diff is for a person to judge.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_server import KubeServer
from manifests import RESTORES
from restore_operator.api import DatabaseRestore
from restore_operator.job import job_name, make_job
from restore_operator.observed import Job, Observed, Pod
from restore_operator.reconcile import plan
from restore_operator.settings import Settings
from restore_operator.status import as_json
from restorer.events import PhaseChanged, RunStarted, TableStart
from restorer.report import Counters, FallbackLevel, RejectSample, Report, SnapshotInfo, TableReport, Totals
from restorer.watch.progress import Progress

DATA = Path(__file__).resolve().parents[1] / "data"
BEGAN, NOW = datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, 0, 5, tzinfo=UTC)
SUCCEEDED = Report(
    "lms/staging-reset/7",
    outcome="Succeeded",
    message="97 rows into 1 table in 4 s; 3 rejected",
    snapshot=SnapshotInfo("20241219_103045", 5000, 1),
    completion_time="2030-01-01T00:04:00Z",
    seconds=4,
    totals=Totals(read=100, inserted=97, rejected=3, tables=1, bytes=5000),
    tables=[TableReport("users", "Done", read=100, inserted=97, rejected=3, seconds=4)],
    rejected_sample=[RejectSample("users", 7, "NotNull", "23502")],
)
FAILED = Report(
    "lms/reset/1",
    outcome="Failed",
    reason="RejectLimitExceeded",
    message="11 of 40 records of the file posts are rejected, 10 are allowed: mend the backup, or raise spec.rejects.limit",
    snapshot=SnapshotInfo("20241219_103045", 5000, 2),
    completion_time="2030-01-01T00:04:00Z",
    seconds=4,
    totals=Totals(read=100, inserted=89, rejected=11, tables=2, bytes=4400),
    fallback=[FallbackLevel("Copy", 1, 60), FallbackLevel("Merge", 1, 40)],
    tables=[
        TableReport("users", "Done", read=60, inserted=60, seconds=2),
        TableReport("posts", "Failed", read=40, inserted=29, rejected=11, seconds=2, error="too many rejects"),
    ],
    rejected_sample=[RejectSample("posts", 3, "ForeignKey", "23503", "posts_author_fkey")],
)
CANCELLED = Report(
    "lms/reset/1",
    outcome="Cancelled",
    reason="Cancelled",
    message="run lms/reset/1 is cancelled",
    snapshot=SnapshotInfo("20241219_103045", 5000, 2),
    totals=Totals(read=40, inserted=40, tables=2, bytes=2000),
    tables=[TableReport("users", "Pending", read=40, inserted=40, seconds=2)],
)


def _job(restore: DatabaseRestore, attempt: int = 1, state: str = "Active", **more: Any) -> Job:
    name = job_name(restore, attempt)
    finished = None if state == "Active" else NOW
    return Job(name, f"j-{attempt}", restore.spec.run_id, attempt, state, created=BEGAN, finished=finished, **more)


def _ended(job: Job, code: int, report: Report, index: int = 0) -> Pod:
    name = f"{job.name}-{index}"
    return Pod(
        name, f"p-{index}", job.name, "Failed" if code else "Succeeded", exit_code=code, report=report, finished=NOW
    )


def _succeeded(restore: DatabaseRestore) -> Observed:
    job = _job(restore, state="Complete")
    return Observed((job,), (_ended(job, 0, SUCCEEDED),))


def _of_two_pods(restore: DatabaseRestore) -> Observed:
    job = _job(restore, state="Complete")
    helper = Report("lms/staging-reset/7", outcome="Succeeded", reason="AlreadyCompleted", message="done already")
    return Observed((job,), (_ended(job, 0, helper, 1), _ended(job, 0, SUCCEEDED)))


def _running(restore: DatabaseRestore) -> Observed:
    job = _job(restore, pods_alive=1)
    progress = Progress(clock=lambda: 0.0, wall=lambda: NOW.timestamp())
    users = TableStart("users", 4000, 4000, Counters(read=60, inserted=60), "Done")
    posts = TableStart("posts", 1000, 500, Counters(read=20, inserted=18, rejected=2), "Loading")
    progress(RunStarted("lms/reset/1", "Apply", "20241219_103045", [users, posts], 1, False))
    progress(PhaseChanged("Loading"))
    pod = Pod(f"{job.name}-0", "p-0", job.name, "Running", ip="10.0.0.7", running=True, since=BEGAN)
    return Observed((job,), (pod,), progress=progress.snapshot())


def _failed(restore: DatabaseRestore) -> Observed:
    job = _job(restore, state="Failed", reason="PodFailurePolicy")
    return Observed((job,), (_ended(job, 2, FAILED),))


def _cancelled(restore: DatabaseRestore) -> Observed:
    closing = _job(restore, 2, "Failed", reason="PodFailurePolicy", cancels=True)
    return Observed((closing,), (_ended(closing, 3, CANCELLED),))


def _suspended(restore: DatabaseRestore) -> Observed:
    return Observed((_job(restore, suspended=True),))


def _queued(restore: DatabaseRestore) -> Observed:
    return Observed(ahead=("lms/nightly", "lms/other"))


CASES: dict[str, Callable[[DatabaseRestore], Observed]] = {
    "least": _succeeded,
    "pods-and-tls": _of_two_pods,
    "inline-volume": _succeeded,
    "running": _running,
    "failed": _failed,
    "cancelled": _cancelled,
    "suspended": _suspended,
    "queued": _queued,
}


def _made(case: str) -> dict[str, Any]:
    restore = DatabaseRestore.model_validate(yaml.safe_load((DATA / case / "input.yaml").read_text(encoding="utf-8")))
    said = plan(restore, CASES[case](restore), NOW).status
    attempt = max(said.attempt, 1)
    job = make_job(restore, attempt, Settings(), remaining=14_400, cancel=restore.spec.cancel)
    return {"job.yaml": job, "status.yaml": as_json(said)}


@pytest.mark.parametrize("case", CASES)
def test_the_job_and_the_status_are_as_they_were(case: str) -> None:
    for name, made in _made(case).items():
        assert made == yaml.safe_load((DATA / case / name).read_text(encoding="utf-8")), name


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_them(case: str, kube: KubeServer, namespace: str) -> None:
    """As they stand in the files: nothing in them is unknown to it, or is pruned."""
    given = yaml.safe_load((DATA / case / "input.yaml").read_text(encoding="utf-8"))
    job = yaml.safe_load((DATA / case / "job.yaml").read_text(encoding="utf-8"))
    status = yaml.safe_load((DATA / case / "status.yaml").read_text(encoding="utf-8"))
    name = given["metadata"]["name"]
    path = RESTORES.format(namespace)
    kube.create(f"{path}?dryRun=All", given | {"metadata": {"name": name}})
    kube.create(
        f"/apis/batch/v1/namespaces/{namespace}/jobs", job | {"metadata": job["metadata"] | {"namespace": namespace}}
    )
    kube.create(path, given | {"metadata": {"name": name}, "spec": given["spec"] | {"suspend": True}})
    stored = kube.patch(f"{path}/{name}/status?dryRun=All", {"status": status})
    assert stored["status"] == status


def test_names_fit_whatever_the_resource_is_called() -> None:
    given = yaml.safe_load((DATA / "least" / "input.yaml").read_text(encoding="utf-8"))
    names = set()
    for name in ("x" * 63, "x" * 62 + "y", "a.b", "a"):
        given["metadata"] |= {"name": name, "uid": name}
        made = job_name(DatabaseRestore.model_validate(given), 123)
        assert len(made) <= 63 and "." not in made
        names.add(made)
    assert len(names) == 4


if __name__ == "__main__":
    for case in CASES:
        for file, content in _made(case).items():
            text = yaml.safe_dump(content, sort_keys=False, width=110)
            (DATA / case / file).write_text(text, encoding="utf-8")
