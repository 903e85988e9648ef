"""Guards of the layout: Python's own `operator` stays what it is, and every module has a name that says what it is."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORDS_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}


def test_operator_is_a_plain_folder() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists(), "it would shadow Python's own operator module"


def test_no_tests_under_the_packages_folders() -> None:
    found = [p for top in ("operator", "restorer") for p in (ROOT / top).rglob("*.py") if _is_test(p)]
    assert found == [], "pytest would put operator/ on the path: tests belong into tests/"


def _is_test(path: Path) -> bool:
    return path.name == "conftest.py" or path.name.startswith("test_") or path.name.endswith("_test.py")


@pytest.mark.parametrize("top", ["operator", "restorer"])
def test_no_module_without_a_meaning(top: str) -> None:
    found = [p for p in (ROOT / top).rglob("*") if p.stem in WORDS_THAT_SAY_NOTHING]
    assert found == []


def test_operator_is_pythons_own_everywhere() -> None:
    """From the project's root, where `operator/` lies, as from elsewhere; with and without what -m adds to the path."""
    code = "import operator, restorer, restore_operator; print(operator.__file__, operator.add(1, 1))"
    stdlib = str(Path(subprocess.__file__).parent / "operator.py")
    for folder in (ROOT, ROOT / "tests"):
        run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        assert run.stdout.split() == [stdlib, "2"]


def test_the_path_holds_no_second_operator() -> None:
    """`operator/` is on the path for `restore_operator`; nothing in it may be importable as `operator` itself."""
    for entry in filter(None, sys.path):
        candidate = Path(entry) / "operator"
        assert not (candidate / "__init__.py").exists()


def test_packages_are_typed() -> None:
    for package in ("operator/restore_operator", "restorer/restorer"):
        assert (ROOT / package / "py.typed").exists()


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-runtime.txt"])
def test_the_locks_hold_what_the_project_needs(lock: str) -> None:
    """An image is installed from the second one alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {re.split(r"[\[<>=~! ]", each)[0].lower() for each in project["dependencies"]}
    locked = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / lock).read_text("utf-8"), re.M))
    assert needed <= locked, f"{needed - locked}: run `make lock`"
