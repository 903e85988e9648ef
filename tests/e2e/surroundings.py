"""What the tests need in a cluster besides the chart: PostgreSQL, and a volume with generated backups."""

from __future__ import annotations

import json
import os

from cluster import DATABASE_NAMESPACE, Json

IMAGE = os.environ.get("E2E_IMAGE", "database-restore-operator:dev")
POSTGRES = os.environ.get("E2E_POSTGRES_IMAGE", "postgres:17")
PASSWORD = "e2e-password"
RESTORES = "dbr-e2e"  # the namespace of the restores
HOST_PATH = "/var/lib/dbr-e2e-backups"
# name -> records, percent bad
BACKUPS = {"small": (3_000, 1.0), "clean": (3_000, 0.0), "large": (150_000, 1.0)}

_GENERATE = """
import json, pathlib, shutil
from restorer.demo.lms import generate
for name, (records, bad) in json.loads('%s').items():
    folder = pathlib.Path('/backups') / name
    shutil.rmtree(folder, ignore_errors=True)
    generate(folder, records, bad_percent=bad)
    expected = json.loads((folder / 'expected.json').read_text())
    print(json.dumps({"name": name, **expected}))
"""


def namespace(name: str, *, restricted: bool = False) -> Json:
    level = "restricted" if restricted else "privileged"
    labels = {f"pod-security.kubernetes.io/{mode}": level for mode in ("enforce", "warn")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def secret(namespace: str, name: str = "pg-app", password: str = PASSWORD) -> Json:
    data = {"username": "app", "password": password}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": data,
    }


def postgres() -> list[Json]:
    labels = {"app": "postgres"}
    folder = "/var/lib/postgresql/data"
    environment = {
        "POSTGRES_USER": "app",
        "POSTGRES_PASSWORD": PASSWORD,
        "POSTGRES_DB": "app",
        "PGDATA": f"{folder}/server",
    }
    container = {
        "name": "postgres",
        "image": POSTGRES,
        "args": ["postgres", "-c", "fsync=off", "-c", "max_connections=300"],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": [{"containerPort": 5432}],
        # over TCP: while the image sets the database up, only the socket answers
        "readinessProbe": {"exec": {"command": ["pg_isready", "-h", "127.0.0.1", "-U", "app"]}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": folder}],
    }
    # a volume, so that the data outlive a server that is killed
    spec: Json = {"containers": [container], "volumes": [{"name": "data", "emptyDir": {}}]}
    pod = {"metadata": {"labels": labels}, "spec": spec | {"terminationGracePeriodSeconds": 5}}
    where = {"name": "postgres", "namespace": DATABASE_NAMESPACE}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": where,
            "spec": {"selector": {"matchLabels": labels}, "strategy": {"type": "Recreate"}, "template": pod},
        },
        service("pg", DATABASE_NAMESPACE),
    ]


def service(name: str, namespace: str) -> Json:
    spec: Json = {"selector": {"app": "postgres"}, "ports": [{"port": 5432}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def alias(name: str, namespace: str) -> Json:
    """A name in another namespace for the tests' PostgreSQL."""
    spec = {"type": "ExternalName", "externalName": f"pg.{DATABASE_NAMESPACE}.svc.cluster.local"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def claim(namespace: str, name: str = "backups") -> list[Json]:
    """A claim of the folder on the node that holds the backups, through a volume of its own."""
    volume = f"{namespace}-{name}"
    size = {"storage": "1Gi"}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "storageClassName": "manual",
                "capacity": size,
                "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": HOST_PATH, "type": "DirectoryOrCreate"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "storageClassName": "manual",
                "volumeName": volume,
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": size},
            },
        },
    ]


def generator() -> Json:
    """A pod that writes the backups and prints what a restore of each must report. Root: the folder on the node is root's."""
    container = {
        "name": "generate",
        "image": IMAGE,
        "command": ["python", "-c", _GENERATE % json.dumps(BACKUPS)],
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [{"name": "backups", "mountPath": "/backups"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "generate", "namespace": DATABASE_NAMESPACE},
        "spec": {
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [{"name": "backups", "hostPath": {"path": HOST_PATH, "type": "DirectoryOrCreate"}}],
        },
    }
