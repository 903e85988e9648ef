"""The operator's metrics by name, kind, labels and meaning; `metrics.py` and
`schedule_metrics.py` serve them, `metrics_page.py` writes docs/metrics.md of them."""

from __future__ import annotations

from typing import get_args

from restorer.watch.families import Family
from restorer.watch.figures import LEVELS, OUTCOMES

from .api import Condition, Phase

WHO = ("namespace", "restore")
PHASES: tuple[str, ...] = get_args(Phase)
TRUTHS: tuple[str, ...] = get_args(Condition.model_fields["status"].annotation)
RESULTS = ("ok", "error")

INFO = Family(
    "dbrestore_restore_info",
    "gauge",
    "A restore; always 1. run: spec.runID; snapshot: its name once it is known.",
    (*WHO, "run", "mode", "snapshot"),
)
PHASE = Family(
    "dbrestore_restore_phase",
    "gauge",
    "1 for the phase that a restore is in, 0 for the others.",
    (*WHO, "phase"),
    values=(("phase", PHASES),),
)
CONDITION = Family(
    "dbrestore_restore_condition",
    "gauge",
    "1 for the status that a condition of the restore has, 0 for the others; nothing for a condition that is not there.",
    (*WHO, "type", "status"),
    values=(
        ("type", ("Succeeded", "Ready", "Reconciling", "Stalled", "Progressing", "Degraded")),
        ("status", TRUTHS),
    ),
)
REASON = Family(
    "dbrestore_restore_reason",
    "gauge",
    "The reason of the condition Succeeded (docs/reference.md lists them); always 1.",
    (*WHO, "reason"),
)
RATIO = Family("dbrestore_restore_progress_ratio", "gauge", "Bytes done of bytes in all, 0 to 1.", WHO)
RECORDS = Family(
    "dbrestore_restore_records",
    "gauge",
    "Records of the run by what became of them.",
    (*WHO, "outcome"),
    values=(("outcome", OUTCOMES),),
)
SIZE = Family("dbrestore_restore_size_bytes", "gauge", "Bytes of the backup, decompressed.", WHO)
LOADED = Family("dbrestore_restore_loaded_bytes", "gauge", "Bytes of the backup that are loaded.", WHO)
TABLES = Family("dbrestore_restore_tables", "gauge", "Tables of the backup.", WHO)
TABLES_DONE = Family("dbrestore_restore_tables_done", "gauge", "Tables that are wholly loaded.", WHO)
FALLBACK_BATCHES = Family(
    "dbrestore_restore_fallback_batches",
    "gauge",
    "Batches of the run by the deepest rung of the ladder they needed.",
    (*WHO, "level"),
    values=(("level", LEVELS),),
)
FALLBACK_RECORDS = Family(
    "dbrestore_restore_fallback_records",
    "gauge",
    "Records of the run by the rung of the ladder that settled them.",
    (*WHO, "level"),
    values=(("level", LEVELS),),
)
REJECTS_USED = Family(
    "dbrestore_restore_reject_limit_used_ratio",
    "gauge",
    "Rejected records of those that spec.rejects allows, over what is read so far; above 1 the restore fails. Nothing "
    "where none is allowed, and under a percentage before 1,000 records are read.",
    WHO,
)
ETA = Family(
    "dbrestore_restore_eta_seconds", "gauge", "Estimated seconds until everything is loaded; only while it loads.", WHO
)
DURATION = Family("dbrestore_restore_duration_seconds", "gauge", "Seconds since the start, or that it took.", WHO)
QUEUED = Family(
    "dbrestore_restore_queued_seconds",
    "gauge",
    "Seconds that the restore has waited for its target; only in phase Queued. After a restart of the operator counted "
    "from when the restore began to reconcile.",
    WHO,
)
DEADLINE = Family(
    "dbrestore_restore_deadline_timestamp_seconds",
    "gauge",
    "When spec.activeDeadlineSeconds is over, in Unix time; only from the start to the end.",
    WHO,
)
COMPLETION = Family("dbrestore_restore_completion_timestamp_seconds", "gauge", "When the run ended, in Unix time.", WHO)
SCHEDULE = ("namespace", "schedule")
SCHEDULE_INFO = Family(
    "dbrestore_schedule_info",
    "gauge",
    "A schedule; always 1. cron: spec.schedule; policy: spec.concurrencyPolicy.",
    (*SCHEDULE, "cron", "time_zone", "policy"),
)
SCHEDULE_SUSPENDED = Family("dbrestore_schedule_suspended", "gauge", "1 while spec.suspend is true, else 0.", SCHEDULE)
SCHEDULE_READY = Family(
    "dbrestore_schedule_ready",
    "gauge",
    "1 while the schedule is in force, 0 when it cannot be read or its restore cannot be made: its condition Ready.",
    SCHEDULE,
)
SCHEDULE_ACTIVE = Family("dbrestore_schedule_active", "gauge", "Restores of the schedule that are not over.", SCHEDULE)
SCHEDULE_LAST = Family(
    "dbrestore_schedule_last_schedule_timestamp_seconds",
    "gauge",
    "The scheduled time of the last restore that was made, in Unix time.",
    SCHEDULE,
)
SCHEDULE_SUCCESS = Family(
    "dbrestore_schedule_last_success_timestamp_seconds",
    "gauge",
    "When a restore of the schedule last ended in success, in Unix time.",
    SCHEDULE,
)
SCHEDULE_MISSED = Family(
    "dbrestore_schedule_last_missed_timestamp_seconds",
    "gauge",
    "The last scheduled time that no restore was made for, in Unix time; nothing while none was missed.",
    SCHEDULE,
)
SCHEDULE_NEXT = Family(
    "dbrestore_schedule_next_schedule_timestamp_seconds",
    "gauge",
    "The first scheduled time that is neither run nor missed, in Unix time: lies in the past while a restore that is due has "
    "not been made. Nothing while suspended.",
    SCHEDULE,
)
OPERATOR = Family("dbrestore_operator_info", "gauge", "The operator; always 1.", ("version",))
RECONCILES = Family(
    "dbrestore_reconcile_total", "counter", "Looks at a restore.", ("result",), values=(("result", RESULTS),)
)
RECONCILE_DURATION = Family(
    "dbrestore_reconcile_duration_seconds",
    "histogram",
    "Seconds that a look took.",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
DEPTH = Family("dbrestore_queue_depth", "gauge", "Restores that wait to be looked at.")
OLDEST = Family("dbrestore_queue_oldest_seconds", "gauge", "How long the oldest of them waits.")
OF_RESTORES = (
    INFO, PHASE, CONDITION, REASON, RATIO, RECORDS, SIZE, LOADED, TABLES, TABLES_DONE, FALLBACK_BATCHES, FALLBACK_RECORDS,
    REJECTS_USED, ETA, DURATION, QUEUED, DEADLINE, COMPLETION,
)  # fmt: skip
OF_SCHEDULES = (
    SCHEDULE_INFO, SCHEDULE_SUSPENDED, SCHEDULE_READY, SCHEDULE_ACTIVE, SCHEDULE_LAST, SCHEDULE_SUCCESS, SCHEDULE_MISSED,
    SCHEDULE_NEXT,
)  # fmt: skip
OF_OPERATOR = (OPERATOR, RECONCILES, RECONCILE_DURATION, DEPTH, OLDEST)
