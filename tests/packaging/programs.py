"""helm and kubectl as people use them: from KUBEBUILDER_ASSETS or the path. What is missing is said; under CI it is an error."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "database-restore-operator"

PACKAGED = ("prometheus", "promtool")  # the system's packages; where they cannot be had, no run fails for it

Run = Callable[..., subprocess.CompletedProcess[str]]
Manifest = dict[str, Any]


def program(name: str) -> str:
    path = os.pathsep.join(filter(None, [os.environ.get("KUBEBUILDER_ASSETS"), os.environ.get("PATH")]))
    if found := shutil.which(name, path=path):
        return found
    if os.environ.get("CI") and name not in PACKAGED:
        raise RuntimeError(f"{name} is neither in KUBEBUILDER_ASSETS nor on the path")
    pytest.skip(f"{name} is neither in KUBEBUILDER_ASSETS nor on the path")


def runner(name: str, **environment: str) -> Run:
    """A function that runs the program and gives back how it ended; `input`: what it reads."""
    path = program(name)

    def run(*words: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        env = os.environ | environment
        return subprocess.run([path, *words], input=input, env=env, capture_output=True, text=True, timeout=60)

    return run
