"""How the pods of a Job ended: the report that speaks for it, and what a person is told."""

from __future__ import annotations

from restorer.report import Report

from . import reasons
from .observed import Pod


def report_of(pods: tuple[Pod, ...]) -> Report | None:
    """The report that speaks for the Job: of several pods the one that says how the run ended. A pod that only worked on tasks
    of others hands back what the leading one stored (AlreadyCompleted)."""

    def rank(pod: Pod) -> tuple[int, int, float]:
        assert pod.report is not None
        final = pod.report.outcome in ("Succeeded", "Failed", "Cancelled")
        own = pod.report.reason not in (reasons.ALREADY_COMPLETED, reasons.TARGET_BUSY)
        return final, own, pod.finished.timestamp() if pod.finished else 0.0

    told = [pod for pod in pods if pod.report is not None and pod.report.outcome]
    return max(told, key=rank).report if told else None


def last_words(pods: tuple[Pod, ...]) -> str:
    """What the pod that ended last said; else how it ended."""
    ended = sorted(
        (p for p in pods if p.exit_code is not None), key=lambda p: p.finished.timestamp() if p.finished else 0.0
    )
    if not ended:
        return ""
    last = ended[-1]
    if last.exit_reason == "OOMKilled":
        return "the pod ran out of memory: raise spec.jobTemplate.resources.limits.memory, or lower spec.load"
    if last.report is not None and last.report.message:
        return last.report.message
    return f"pod {last.name} ended with exit code {last.exit_code}"
