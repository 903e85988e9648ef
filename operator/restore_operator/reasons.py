"""Every word that a condition, an event or `lastError` may give as its reason, and the sentences that go with them.

CamelCase, as Kubernetes' API conventions ask; documented in docs/reference.md. Sentences name the thing and the remedy, and
hold no value of a record.
"""

from __future__ import annotations

# Active: the reason of Reconciling, and of Succeeded while it is Unknown.
QUEUED = "Queued"
VALIDATING = "Validating"
LOADING = "Loading"
VERIFYING = "Verifying"
SUSPENDED = "Suspended"
SUSPENDING = "Suspending"
CANCELLING = "Cancelling"
STOPPING = "Stopping"

# The pod cannot start. It heals by itself when the cause goes away.
SECRET_MISSING = "SecretMissing"
CLAIM_MISSING = "ClaimMissing"
VOLUME_UNAVAILABLE = "VolumeUnavailable"
IMAGE_UNAVAILABLE = "ImageUnavailable"
UNSCHEDULABLE = "Unschedulable"
QUOTA_EXCEEDED = "QuotaExceeded"
POD_FORBIDDEN = "PodForbidden"
CANNOT_START = "PodCannotStart"
RETRYING = "Retrying"

# The end.
SUCCEEDED = "Succeeded"
ALREADY_COMPLETED = "AlreadyCompleted"
VALIDATION_FAILED = "ValidationFailed"
LOAD_FAILED = "LoadFailed"
REJECT_LIMIT_EXCEEDED = "RejectLimitExceeded"
VERIFICATION_FAILED = "VerificationFailed"
CANCELLED = "Cancelled"
DEADLINE_EXCEEDED = "DeadlineExceeded"
FAILURES = (VALIDATION_FAILED, LOAD_FAILED, REJECT_LIMIT_EXCEEDED, VERIFICATION_FAILED)  # that a restorer reports

# Progressing and Degraded.
NO_PROGRESS = "NoProgress"
PROGRESS_UNAVAILABLE = "ProgressUnavailable"
NOT_LOADING = "NotLoading"
ROWS_REJECTED = "RowsRejected"
FALLBACK_USED = "FallbackUsed"
AS_EXPECTED = "AsExpected"

# The restorer's own word for a target that somebody else holds (restorer.database.ledger).
TARGET_BUSY = "TargetBusy"
# What the operator itself could not do.
OPERATOR_ERROR = "OperatorError"
OUT_OF_MEMORY = "OutOfMemory"


def waits_for(other: str) -> str:
    return f"waits for {other}, which restores into the same database"


WAITS_FOR_HOLDER = "the target is held by a restore that this operator does not run; it is tried again"
HELD = "suspended before its start; set spec.suspend to false to start it"
STOPPED = "suspended; what is committed stays; set spec.suspend to false to go on"
STOPPING_MESSAGE = "the pod is told to stop after the batch at hand"
CANCELLING_MESSAGE = "the run is being closed; what is committed stays"
NEVER_STARTED = "cancelled before its start; nothing was written"
CANCELLED_MESSAGE = "cancelled; what is committed stays; a new run needs another spec.runID"
LEDGER_NOT_TOLD = (
    "cancelled; what is committed stays; the target's ledger could not be told, as the database did not answer"
)
RUN_REPLACED = "the pod of the run before is being stopped"
JOB_VANISHED = "the Job {job} is gone; attempt {attempt} goes on where it stopped"
PROGRESS_HIDDEN = (
    "the pod's port 9090 cannot be reached; allow it from the operator, or set progress.fromLogs in the chart"
)
REPORT_LOST = "succeeded; the pod's report is lost"


def starting(job: str) -> str:
    return f"Job {job} is made; its pod is being started"


def going(job: str) -> str:
    return f"Job {job} is being deleted; the run goes on in another once it is gone"


def no_progress(pod: str, target: str, seconds: int) -> str:
    return (
        f"pod {pod} runs, and no batch was committed to {target} for {seconds} s: most often another session there holds a lock "
        "(pg_stat_activity and pg_blocking_pids() tell which); end that session, and the restore goes on by itself"
    )


def deadline(seconds: int) -> str:
    return f"not done after activeDeadlineSeconds ({seconds} s); what is committed stays; raise it and give spec.runID a new value"
