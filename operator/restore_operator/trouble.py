"""Why a pod does not start, in one word and a sentence that names the object and the remedy: out of its waiting reason, its
conditions and the events. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from . import reasons
from .api import DatabaseRestore
from .observed import Pod, Warning

_IMAGE = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
    "ImageInspectError",
)


def why_not_started(
    restore: DatabaseRestore, pods: tuple[Pod, ...], warnings: Iterable[Warning]
) -> tuple[str, str] | None:
    """(reason, message) of what keeps the pods from running; None when nothing speaks against it yet. The message names the
    pod or Job, what the cluster said of it, and what helps."""
    for pod in pods:
        if pod.phase not in ("Pending", "Running") or pod.running:
            continue
        if pod.waiting and pod.waiting not in ("ContainerCreating", "PodInitializing"):
            reason = _of_waiting(pod)
            what = pod.waiting_message or pod.waiting
            if reason == reasons.CANNOT_START and pod.waiting_message:
                what = f"{pod.waiting}: {pod.waiting_message}"
            return reason, said(restore, reason, f"pod {pod.name}", what)
        if pod.unscheduled:
            reason = _of_text(pod.unscheduled, reasons.UNSCHEDULABLE)
            return reason, said(restore, reason, f"pod {pod.name}", pod.unscheduled)
    # An event stays for an hour: only the latest counts, and only while what it tells of lasts.
    known = [(_of_event(w), w) for w in warnings if not _is_past(w, pods)]
    latest = max(
        ((reason, w) for reason, w in known if reason),
        key=lambda item: item[1].time.timestamp() if item[1].time else 0,
        default=None,
    )
    return (latest[0], said(restore, latest[0], latest[1].about, latest[1].message)) if latest else None


def _is_past(event: Warning, pods: tuple[Pod, ...]) -> bool:
    """Whether the pods have got beyond it. To hold its time against another event's is not enough: the scheduler's have fractions
    of a second, the kubelet's have none."""
    match event.reason:
        case "FailedScheduling":
            return any(pod.placed for pod in pods if event.about == f"pod {pod.name}")
        case "FailedCreate":
            return any(pod.created > event.time for pod in pods if pod.created and event.time)
        case _:
            return False


def said(restore: DatabaseRestore, reason: str, about: str, what: str) -> str:
    """One line: whom it is about, what the cluster said, and what helps."""
    first = re.sub(r"\s+", " ", what).strip()[:600].rstrip(". ")
    return ": ".join(part for part in (about, first, _remedy(restore, reason, about, first)) if part)


def _remedy(restore: DatabaseRestore, reason: str, about: str, what: str) -> str:
    space = restore.metadata.namespace
    match reason:
        case reasons.SECRET_MISSING:
            return "create it, or mend spec.target"
        case reasons.CLAIM_MISSING:
            return "create it, or mend spec.source.persistentVolumeClaim"
        case reasons.VOLUME_UNAVAILABLE:
            return _volume_remedy(restore, what.lower())
        case reasons.IMAGE_UNAVAILABLE:
            return "mend the operator's restorer image, or spec.jobTemplate.imagePullSecrets"
        case reasons.UNSCHEDULABLE:
            return (
                "no node takes it: mend nodeSelector, tolerations, affinity or resources of spec.jobTemplate, or give the "
                "cluster a node that fits"
            )
        case reasons.QUOTA_EXCEEDED:
            return f"raise the quota of namespace {space}, or lower spec.jobTemplate.resources"
        case reasons.POD_FORBIDDEN:
            return (
                f"namespace {space} does not admit it: mend what is named there in spec.jobTemplate or spec.source, or allow it "
                "in the namespace's policy"
            )
        case _:
            return (
                "its container cannot be started: mend spec.jobTemplate or the operator's restorer image; "
                f"`kubectl -n {space} describe {about or 'pods'}` says more"
            )


def _volume_remedy(restore: DatabaseRestore, what: str) -> str:
    """Which volume it is, by the name that the spec gives it."""
    claim, ca = restore.spec.source.persistent_volume_claim, restore.spec.target.tls.ca_secret_ref
    if ca is not None and 'volume "ca"' in what:
        return f"secret {ca.name} (spec.target.tls.caSecretRef) cannot be mounted: mend it"
    if claim is None:
        return "the volume of spec.source.volume cannot be mounted: mend it there, or where it is stored"
    named = f"claim {claim.claim_name} (spec.source.persistentVolumeClaim)"
    if "unbound" in what:
        return f"{named} is not bound: give it a PersistentVolume, or a StorageClass that makes one"
    if "is being deleted" in what:
        return f"{named} is being deleted: create it again once it is gone"
    return (
        f"{named} cannot be mounted on the pod's node: free it where another node holds it, or use a claim that many nodes "
        "can mount (ReadWriteMany, ReadOnlyMany)"
    )


def _of_waiting(pod: Pod) -> str:
    if pod.waiting in _IMAGE:
        return reasons.IMAGE_UNAVAILABLE
    return _of_text(pod.waiting_message, reasons.CANNOT_START)


def _of_text(text: str, otherwise: str) -> str:
    low = text.lower()
    if "persistentvolumeclaim" in low and ("not found" in low or "unbound" in low or "is being deleted" in low):
        # The scheduler says "not found" of unbound claims too, at the end of its sentence: it found no pod to put out for this.
        return reasons.VOLUME_UNAVAILABLE if "unbound" in low or "not found" not in low else reasons.CLAIM_MISSING
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
