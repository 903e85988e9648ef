"""The README's quick start and docs/kubernetes.md, word for word, in the order in which they stand there."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest
from cluster import CommandFailed, get, kubectl, run
from installed import NAMESPACE, RELEASE, ROOT, install, is_installed

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.M | re.S)


def commands(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = [line for block in _BLOCK.findall(text) for line in block.splitlines()]
    return [line[2:] for line in lines if line.startswith(("$ helm ", "$ kubectl "))]


@pytest.fixture
def bare_cluster() -> Iterator[None]:
    """No release, no CRD, no namespace that the pages make. The other tests' release is put back afterwards."""
    was_installed = is_installed()

    def clear() -> None:
        for release, namespace in (("dbr", "dbrestore"), (RELEASE, NAMESPACE)):
            run("helm", "uninstall", release, "-n", namespace, "--ignore-not-found", "--wait", timeout=150)
        for plural in ("databaserestoreschedules", "databaserestores"):
            kubectl("delete", "crd", f"{plural}.dbrestore.io", "--ignore-not-found", timeout=150)
        kubectl("delete", "namespace", "lms", "dbrestore", "--ignore-not-found", timeout=150)
        kubectl("delete", "pv", "lms-backups", "--ignore-not-found")

    clear()
    yield
    clear()
    if was_installed:
        install()


def test_every_command_of_the_pages_runs(bare_cluster: None) -> None:
    typed = [("README.md", c) for c in commands("README.md")]
    typed += [("docs/kubernetes.md", c) for c in commands("docs/kubernetes.md")]
    assert len(typed) >= 18
    for page, command in typed:
        end = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=660
        )
        if end.returncode:
            raise CommandFailed(f"{page}: {command}\n{end.stdout}\n{end.stderr}")
        if command.startswith("kubectl -n lms wait"):
            status = (get("dbr", "lms", "lms") or {})["status"]
            progress = status["progress"]
            assert (progress["recordsRead"], progress["recordsInserted"]) == (60_000, 59_406)
