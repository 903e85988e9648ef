"""Manifests that the tests apply: one that is good, and what is done to it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
CRD = ROOT / "crds" / "databaserestores.dbrestore.io.yaml"
SCHEDULE_CRD = ROOT / "crds" / "databaserestoreschedules.dbrestore.io.yaml"
SCHEDULES = "/apis/dbrestore.io/v1alpha1/namespaces/{}/databaserestoreschedules"
RESTORES = "/apis/dbrestore.io/v1alpha1/namespaces/{}/databaserestores"


def restore(name: str = "reset", namespace: str = "lms", **changes: Any) -> Json:
    """A DatabaseRestore that says no more than it must. `changes`: dotted path below spec (`__` for the dot) -> value;
    None takes the field away."""
    made: Json = {
        "apiVersion": "dbrestore.io/v1alpha1",
        "kind": "DatabaseRestore",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "source": {"persistentVolumeClaim": {"claimName": "backups"}},
            "target": {"host": "pg-rw", "database": "app", "credentialsSecretRef": {"name": "pg-app"}},
        },
    }
    return changed(made, **{key.replace("__", "."): value for key, value in changes.items()})


def schedule(name: str = "nightly", namespace: str = "lms", **changes: Any) -> Json:
    """A DatabaseRestoreSchedule that says no more than it must."""
    made: Json = {
        "apiVersion": "dbrestore.io/v1alpha1",
        "kind": "DatabaseRestoreSchedule",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"schedule": "30 2 * * *", "template": {"spec": restore()["spec"]}},
    }
    return changed(made, **{key.replace("__", "."): value for key, value in changes.items()})


def changed(manifest: Json, changes: Json | None = None, /, **more: Any) -> Json:
    """A copy with fields of its spec set (dotted paths), or taken away by None."""
    made = copy.deepcopy(manifest)
    for path, value in {**(changes or {}), **more}.items():
        at = made["spec"]
        *parents, last = path.split(".")
        for parent in parents:
            at = at.setdefault(parent, {})
        if value is None:
            at.pop(last, None)
        else:
            at[last] = value
    return made
