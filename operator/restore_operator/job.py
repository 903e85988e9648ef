"""DatabaseRestore -> the manifest of its Job. Pure.

The pod obeys Pod Security's `restricted` profile, has no API token, reads the password from the Secret by itself and takes the
whole spec out of one environment variable, so that the Job is readable and never changes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from . import observed
from .api import API_VERSION, KIND, DatabaseRestore, JobTemplate
from .settings import Settings

Json = dict[str, Any]

BACKUP, CA, TMP = "/backup", "/etc/restorer/ca", "/tmp"
PORT = 9090  # /metrics, /progress and /healthz of the pod
GRACE = 60  # seconds between SIGTERM and SIGKILL, and by which the Job's own deadline is later than the operator's
WAIT = 60  # seconds that a pod waits for a target that another run still holds
SPEC_VARIABLE = "RESTORE_SPEC"
SCRAPE = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": "/metrics"}


def job_name(restore: DatabaseRestore, attempt: int) -> str:
    """Deterministic, at most 63 characters (the pods carry it as a label): the resource's name, cut; a hash of UID and
    runID, so that a Job of another run is never taken for this one's; the attempt."""
    text = f"{restore.metadata.uid}/{restore.spec.run_id}"
    tail = f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}-{attempt}"
    head = restore.metadata.name.replace(".", "-")[: 57 - len(tail)].rstrip("-")  # 57: an index follows in a pod's name
    return head + tail


def labels(restore: DatabaseRestore, attempt: int, *, cancel: bool = False) -> dict[str, str]:
    """What Job and pods carry."""
    own = {
        "app.kubernetes.io/name": "restorer",
        "app.kubernetes.io/instance": restore.metadata.name,
        "app.kubernetes.io/component": "restore",
        **observed.OWNED,
        observed.RESTORE_LABEL: restore.metadata.name,
        observed.RUN_LABEL: restore.spec.run_id,
        observed.ATTEMPT_LABEL: str(attempt),
    }
    if cancel:
        own[observed.PURPOSE_LABEL] = observed.CANCEL
    return dict(restore.spec.job_template.labels) | own


def make_job(
    restore: DatabaseRestore, attempt: int, settings: Settings, *, remaining: int, cancel: bool = False
) -> Json:
    """The Job's manifest. `remaining`: seconds until the run's deadline. `cancel`: a Job that only closes the run in the
    ledger and reports it."""
    template, pods = restore.spec.job_template, 1 if cancel else restore.spec.load.pods
    marks = labels(restore, attempt, cancel=cancel)
    meta: Json = {"labels": marks}
    if annotations := (SCRAPE if settings.scrape_annotations else {}) | template.annotations:
        meta["annotations"] = annotations
    spec: Json = {
        "backoffLimit": restore.spec.backoff_limit,
        "activeDeadlineSeconds": max(remaining, 1) + GRACE,
        "podFailurePolicy": _failure_policy(),
        "template": {"metadata": meta, "spec": _pod(restore, settings, cancel)},
    }
    if pods > 1:
        # Not a work queue: that would stop replacing pods once one of them has succeeded.
        spec |= {"completionMode": "Indexed", "completions": pods, "parallelism": pods}
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": restore.metadata.name,
        "uid": restore.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,  # true would need a right on the resource's finalizers
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(restore, attempt),
            "namespace": restore.metadata.namespace,
            **meta,
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def _failure_policy() -> Json:
    """By the restorer's exit codes (restorer.errors): 2 and 3 are final; a pod that was told to go, or whose node went,
    does not count."""
    codes = {"containerName": observed.CONTAINER, "operator": "In"}
    return {
        "rules": [
            {"action": "FailJob", "onExitCodes": codes | {"values": [2, 3]}},
            {"action": "Ignore", "onExitCodes": codes | {"values": [143]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]
    }


def _pod(restore: DatabaseRestore, settings: Settings, cancel: bool) -> Json:
    template, source = restore.spec.job_template, restore.spec.source
    if source.persistent_volume_claim is not None:
        claim = source.persistent_volume_claim
        backup: Json = {"persistentVolumeClaim": {"claimName": claim.claim_name, "readOnly": claim.read_only}}
    else:
        backup = dict(source.volume or {})
    volumes = [{"name": "backup", **backup}, {"name": "tmp", "emptyDir": {"sizeLimit": settings.spool_limit}}]
    mounts: list[Json] = [
        {"name": "backup", "mountPath": BACKUP, "readOnly": True},
        {"name": "tmp", "mountPath": TMP},
    ]
    ca = restore.spec.target.tls.ca_secret_ref
    if ca is not None:
        items = [{"key": ca.key, "path": "ca.crt"}]
        volumes.append({"name": "ca", "secret": {"secretName": ca.name, "items": items}})
        mounts.append({"name": "ca", "mountPath": CA, "readOnly": True})
    container = {
        "name": observed.CONTAINER,
        "image": settings.restorer_image,
        "imagePullPolicy": settings.restorer_image_pull_policy,
        "command": ["restorer"],
        "args": [
            *("run", "--file", f"env:{SPEC_VARIABLE}", "--backup", BACKUP, "--json"),
            *("--metrics-port", str(PORT), "--wait", str(WAIT), "--termination-log", "/dev/termination-log"),
        ],
        "env": _environment(restore, cancel),
        "ports": [{"name": "metrics", "containerPort": PORT}],
        "resources": _resources(template, settings),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": "/dev/termination-log",
        "volumeMounts": mounts,
    }
    pod: Json = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": volumes,
    }
    handed_on = template.model_dump(by_alias=True, exclude_defaults=True, exclude_none=True)
    names = ("nodeSelector", "tolerations", "affinity", "priorityClassName", "serviceAccountName", "imagePullSecrets")
    return pod | {name: handed_on[name] for name in names if name in handed_on}


def _resources(template: JobTemplate, settings: Settings) -> Json:
    if template.resources is not None:
        return template.resources.model_dump(exclude_defaults=True)
    return {
        "requests": {"cpu": settings.cpu_request, "memory": settings.memory_request},
        "limits": {"memory": settings.memory_limit},
    }


def _environment(restore: DatabaseRestore, cancel: bool) -> list[Json]:
    """The spec as a manifest in JSON, and libpq's own variables. Values of the Secret are never seen here."""
    spec = restore.spec.resolved() | {"suspend": False, "cancel": cancel}
    spec.pop("jobTemplate")
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": restore.metadata.name, "namespace": restore.metadata.namespace},
        "spec": spec,
    }
    target = restore.spec.target
    secret = target.credentials_secret_ref
    plain = {
        SPEC_VARIABLE: json.dumps(manifest, separators=(",", ":"), ensure_ascii=False),
        "PGHOST": target.host,
        "PGPORT": str(target.port),
        "PGDATABASE": target.database,
        "PGSSLMODE": target.tls.sslmode,
        "HOME": TMP,
    }
    if target.tls.ca_secret_ref is not None:
        plain["PGSSLROOTCERT"] = f"{CA}/ca.crt"
    keys = {"PGUSER": secret.username_key, "PGPASSWORD": secret.password_key}
    from_secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key}}} for name, key in keys.items()
    ]
    return [{"name": name, "value": value} for name, value in plain.items()] + from_secret
