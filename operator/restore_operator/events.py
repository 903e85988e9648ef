"""Something that happened -> the Event that tells it. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

from . import observed
from .api import API_VERSION, Metadata


def make_event(kind: str, meta: Metadata, run: str, type: str, reason: str, message: str, now: str) -> dict[str, Any]:
    """The manifest. Its name is made of what it says, so that a look that is repeated does not say it twice: the second one is
    refused as a conflict."""
    text = "/".join((meta.uid, str(meta.generation), run, reason, message))
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{meta.name}.{hashlib.sha256(text.encode()).hexdigest()[:16]}",
            "namespace": meta.namespace,
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": kind,
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        },
        "type": type,
        "reason": reason,
        "message": message[:1024],
        "source": {"component": observed.MANAGED_BY},
        "reportingComponent": observed.MANAGED_BY,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
