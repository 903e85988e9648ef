"""kubectl and helm as a person types them, against the cluster that KUBECONFIG names, and psql in the database's pod."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

import yaml

Json = dict[str, Any]
T = TypeVar("T")

DATABASE_NAMESPACE = "dbr-e2e-database"


class CommandFailed(Exception):
    """A command ended with something else than 0; the message is the command and what it said."""


def run(program: str, *words: str, input: str | None = None, timeout: float = 90) -> str:
    """-> stdout. Raises CommandFailed."""
    path = shutil.which(program)
    if path is None:
        raise RuntimeError(f"{program} is not on the path: the cluster tests need kubectl, helm and KUBECONFIG")
    end = subprocess.run([path, *words], input=input, capture_output=True, text=True, timeout=timeout)
    if end.returncode:
        raise CommandFailed(f"{program} {' '.join(words)}: {end.stderr.strip() or end.stdout.strip()}")
    return end.stdout


def kubectl(*words: str, input: str | None = None, timeout: float = 90) -> str:
    return run("kubectl", *words, input=input, timeout=timeout)


def apply(*manifests: Json) -> None:
    kubectl("apply", "-f", "-", input=yaml.safe_dump_all(manifests))


def get(kind: str, name: str, namespace: str) -> Json | None:
    text = kubectl("-n", namespace, "get", kind, name, "-o", "json", "--ignore-not-found")
    found: Json | None = json.loads(text) if text.strip() else None
    return found


def items(kind: str, namespace: str, selector: str = "") -> list[Json]:
    text = kubectl("-n", namespace, "get", kind, "-l", selector, "-o", "json")
    found: list[Json] = json.loads(text)["items"]
    return found


def until(what: str, look: Callable[[], T | None], seconds: float = 60, every: float = 0.3) -> T:
    """Looks until there is something; `what` is said when there is nothing in time, with what was there last."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {seconds:.0f} s: {what}; last: {found!r}")
        time.sleep(every)


def sql(database: str, statement: str) -> str:
    """What psql prints, unaligned and without a header, as the superuser of the tests' server."""
    words = [
        "exec",
        "-i",
        "deploy/postgres",
        "--",
        "psql",
        "-U",
        "app",
        "-d",
        database,
        "-qtAX",
        "-v",
        "ON_ERROR_STOP=1",
    ]
    return kubectl("-n", DATABASE_NAMESPACE, *words, input=statement).strip()


def in_rehearsal() -> bool:
    """E2E_KEEP=1 leaves everything standing at the end, to look at it or to run again at once."""
    return bool(os.environ.get("E2E_KEEP"))
