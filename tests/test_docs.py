"""Every command in the README and in docs/ is run, in the order in which it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from restorer.demo.lms import generate, schema_sql

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "docs/restoring.md"]
FOR_A_CLUSTER = ("helm ", "kubectl ")  # tests/e2e/test_docs_commands.py runs these
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.M | re.S)


def commands(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    typed = [line[2:] for block in _BLOCK.findall(text) for line in block.splitlines() if line.startswith("$ ")]
    return [command for command in typed if not command.startswith(FOR_A_CLUSTER)]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_runs(page: str, tmp_path: Path, dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute(schema_sql())
    generate(tmp_path / "backups", records=2_000, bad_percent=1.0)
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    host = str(parts.get("host", ""))
    target = f"{'local' if host.startswith('/') else host}/{parts['dbname']}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"DSN": dsn, "TARGET": target, "PATH": path}
    typed = commands(page)
    assert len(typed) >= 8
    for command in typed:
        # the pages say `backups`; the generated volume holds an application's folder in it, as real ones do
        words = command.replace("--backup backups", "--backup backups/rausachcore")
        end = subprocess.run(["bash", "-c", words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        assert end.returncode == 0, f"{command}\n{end.stdout}\n{end.stderr}"


def test_the_make_targets_that_the_readme_names_exist() -> None:
    targets = set(re.findall(r"`?make ([a-z0-9-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets >= {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", rules, re.M), f"README names `make {target}`, the Makefile does not have it"


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}, which is not there"
