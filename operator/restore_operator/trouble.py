"""Why a pod does not start, in one word and a sentence: out of its waiting reason, its conditions and the events. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from . import reasons
from .observed import Pod, Warning

_IMAGE = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
    "ImageInspectError",
)
_REMEDIES = {
    reasons.SECRET_MISSING: "create it, or mend spec.target",
    reasons.CLAIM_MISSING: "create it, or mend spec.source.persistentVolumeClaim",
    reasons.VOLUME_UNAVAILABLE: "the volume cannot be mounted where the pod is",
    reasons.IMAGE_UNAVAILABLE: "check the operator's restorer image and imagePullSecrets",
    reasons.UNSCHEDULABLE: "no node takes the pod",
    reasons.QUOTA_EXCEEDED: "raise the quota, or lower spec.jobTemplate.resources",
    reasons.POD_FORBIDDEN: "the namespace does not admit the pod",
    reasons.CANNOT_START: "the container cannot be started",
}


def why_not_started(pods: Iterable[Pod], warnings: Iterable[Warning]) -> tuple[str, str] | None:
    """(reason, message) of what keeps the pods from running; None when nothing speaks against it yet."""
    for pod in pods:
        if pod.phase not in ("Pending", "Running") or pod.running:
            continue
        if pod.waiting and pod.waiting not in ("ContainerCreating", "PodInitializing"):
            return _said(_of_waiting(pod), pod.waiting_message or pod.waiting)
        if pod.unscheduled:
            return _said(_of_text(pod.unscheduled, reasons.UNSCHEDULABLE), pod.unscheduled)
    # An event stays for an hour: only the latest counts.
    known = [(_of_event(w), w) for w in warnings]
    latest = max(
        ((reason, w) for reason, w in known if reason),
        key=lambda item: item[1].time.timestamp() if item[1].time else 0,
        default=None,
    )
    return _said(latest[0], latest[1].message) if latest else None


def _said(reason: str, what: str) -> tuple[str, str]:
    first = re.sub(r"\s+", " ", what).strip()[:600]
    return reason, f"{first}: {_REMEDIES[reason]}"


def _of_waiting(pod: Pod) -> str:
    if pod.waiting in _IMAGE:
        return reasons.IMAGE_UNAVAILABLE
    return _of_text(pod.waiting_message, reasons.CANNOT_START)


def _of_text(text: str, otherwise: str) -> str:
    low = text.lower()
    if "persistentvolumeclaim" in low and ("not found" in low or "unbound" in low or "is being deleted" in low):
        return reasons.CLAIM_MISSING if "not found" in low else reasons.VOLUME_UNAVAILABLE
    if "secret" in low and (
        "not found" in low or "couldn't find key" in low or "references non-existent secret key" in low
    ):
        return reasons.SECRET_MISSING
    return otherwise


def _of_event(event: Warning) -> str:
    match event.reason:
        case "FailedMount" | "FailedAttachVolume":
            return _of_text(event.message, reasons.VOLUME_UNAVAILABLE)
        case "FailedCreate":
            return reasons.QUOTA_EXCEEDED if "exceeded quota" in event.message else reasons.POD_FORBIDDEN
        case "FailedScheduling":
            return _of_text(event.message, reasons.UNSCHEDULABLE)
        case _:
            return ""
