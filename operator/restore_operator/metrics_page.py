"""docs/metrics.md, made of the metrics that the code serves: `python -m restore_operator.metrics_page > docs/metrics.md`."""

from __future__ import annotations

from collections.abc import Iterable

from restorer.watch import metrics as restorer
from restorer.watch.families import Family

from . import families

_HEAD = """# Metrics

Made by `make crds` from `restorer/restorer/watch/metrics.py` and `operator/restore_operator/families.py`: edit these.

Every series carries `namespace` and `restore` (or `schedule`), the resource's; so scrape with `honorLabels: true`, as the chart's
monitors do. No label holds a value of a record, and every label is bounded: by the backup's tables, or by a fixed set of words. How
Prometheus finds the pods, what alerts there are and the board: [monitoring](monitoring.md).
"""
_RESTORER = """
## A restore pod (port 9090), and `restorer run --metrics-port`

Counters tell what this process did: after a restart they begin at 0, over several pods they add up. Gauges tell how the whole run
stands, over all attempts and pods: of several pods take one (`max by (namespace, restore)`). They go with the pod.
"""
_RESTORES = """
## The operator (port 8080), about restores

Made of the statuses, so they are there again after a restart of the operator, stay after the pod's end and go when the resource
goes. What a pod of two seconds did, no scrape may have seen: these say it.
"""
_SCHEDULES = """
## The operator (port 8080), about schedules

Made of the statuses too. They carry `namespace` and `schedule`; a missed time is told by its own time, so that a restart forgets none.
"""
_OPERATOR = """
## The operator (port 8080), about itself
"""


def text() -> str:
    """The whole page."""
    return "".join(
        [
            _HEAD,
            _RESTORER,
            _table(restorer.FAMILIES),
            _RESTORES,
            _table(families.OF_RESTORES),
            _SCHEDULES,
            _table(families.OF_SCHEDULES),
            _OPERATOR,
            _table(families.OF_OPERATOR),
        ]
    )


def _table(rows: Iterable[Family]) -> str:
    return "\n| Metric | Kind | Labels | |\n|---|---|---|---|\n" + "".join(map(_row, rows))


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    sets = "".join(f" `{label}`: {', '.join(words)}." for label, words in family.values)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.help}{sets} |\n"


if __name__ == "__main__":
    print(text(), end="")
