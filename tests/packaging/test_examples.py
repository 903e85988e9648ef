"""Every example is taken by the API server, and does on a real PostgreSQL what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from programs import ROOT, Run
from restore_operator.api import ClusterSpec
from restorer.demo.lms import Generated, generate, schema_sql

PLAYGROUND = ROOT / "examples" / "playground.yaml"
EXAMPLES = sorted(set((ROOT / "examples").glob("*.yaml")) - {PLAYGROUND})


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return generate(tmp_path_factory.mktemp("backups"), records=2_000)


def test_each_example_is_named_in_their_readme() -> None:
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert len(EXAMPLES) >= 10
    for example in [*EXAMPLES, PLAYGROUND]:
        assert f"]({example.name})" in text


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_the_api_server_takes_it(kubectl: Run, example: Path) -> None:
    end = kubectl("create", "--dry-run=server", "--validate=strict", "-o", "yaml", "-f", str(example))
    assert end.returncode == 0, end.stderr
    filled_in, written = yaml.safe_load(end.stdout), yaml.safe_load(example.read_text(encoding="utf-8"))
    # what the API server fills in is what the models fill in
    assert ClusterSpec.model_validate(filled_in["spec"]) == ClusterSpec.model_validate(written["spec"])


def test_the_api_server_takes_the_playground(kubectl: Run) -> None:
    end = kubectl("create", "--dry-run=server", "--validate=strict", "-f", str(PLAYGROUND))
    complaints = [line for line in end.stderr.splitlines() if 'namespaces "lms" already exists' not in line]
    assert complaints == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_the_command_runs_it(example: Path, backup: Generated, dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute(schema_sql())
    words = [sys.executable, "-m", "restorer", "run", "-f", str(example), "--backup", str(backup.root), "--dsn", dsn]
    end = subprocess.run(words, capture_output=True, text=True, timeout=60)
    users = db.execute("select count(*) from users").fetchone()
    if example.stem == "truncate":  # it confirms another database than this one
        assert (end.returncode, users) == (2, (0,))
        assert "'pg-rw/lms' was confirmed" in end.stderr
        return
    assert end.returncode == 0, end.stderr
    assert users == (0 if example.stem == "dry-run" else backup.expected()["users"]["inserted"],)
    if example.stem == "subset-of-tables":
        untouched = db.execute("select count(*) from profiles").fetchone()
        assert untouched == (0,)
        roles = db.execute('select count(*) from "_RoleToUser"').fetchone()
        assert roles == (0,)
