"""A manifest, the Job that it makes and the status that its report makes, as files that a person can read.

`python tests/operator/test_golden.py` writes them anew; the diff is for a person to judge.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from restore_operator.api import DatabaseRestore
from restore_operator.job import job_name, make_job
from restore_operator.observed import Job, Observed, Pod
from restore_operator.reconcile import plan
from restore_operator.settings import Settings
from restore_operator.status import as_json
from restorer.report import RejectSample, Report, SnapshotInfo, TableReport, Totals

DATA = Path(__file__).resolve().parents[1] / "data" / "restore"
NOW = datetime(2030, 1, 1, 0, 5, tzinfo=UTC)
REPORT = Report(
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


def _made() -> dict[str, Any]:
    restore = DatabaseRestore.model_validate(yaml.safe_load((DATA / "input.yaml").read_text(encoding="utf-8")))
    name = job_name(restore, 1)
    job = Job(name, "j-1", "7", 1, "Complete", created=datetime(2030, 1, 1, tzinfo=UTC), finished=NOW)
    pod = Pod(f"{name}-0", "p-1", name, "Succeeded", exit_code=0, report=REPORT, finished=NOW)
    said = plan(restore, Observed((job,), (pod,)), NOW).status
    return {"job.yaml": make_job(restore, 1, Settings(), remaining=14_400), "status.yaml": as_json(said)}


def test_the_job_and_the_status_are_as_they_were() -> None:
    for name, made in _made().items():
        assert made == yaml.safe_load((DATA / name).read_text(encoding="utf-8")), name


def test_names_fit_whatever_the_resource_is_called() -> None:
    given = yaml.safe_load((DATA / "input.yaml").read_text(encoding="utf-8"))
    names = set()
    for name in ("x" * 63, "x" * 62 + "y", "a.b", "a"):
        given["metadata"] |= {"name": name, "uid": name}
        made = job_name(DatabaseRestore.model_validate(given), 123)
        assert len(made) <= 63 and "." not in made
        names.add(made)
    assert len(names) == 4


if __name__ == "__main__":
    for file, content in _made().items():
        (DATA / file).write_text(yaml.safe_dump(content, sort_keys=False, width=110), encoding="utf-8")
