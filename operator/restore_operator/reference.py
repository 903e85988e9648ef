"""docs/reference.md, made of the CRD, the settings and the reasons: `python -m restore_operator.reference > docs/reference.md`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from . import crd, reasons, schedule, schedule_crd
from .settings import PREFIX, Settings

Schema = dict[str, Any]

_HEAD = """# Reference

Made by `make crds` from the models in `operator/restore_operator`: edit these. `kubectl explain databaserestore.spec` says the same.

"""
_REASONS: list[tuple[str, tuple[str, ...]]] = [
    (
        "Under way (`Succeeded=Unknown`, `Reconciling=True`)",
        (
            reasons.QUEUED, reasons.VALIDATING, reasons.LOADING, reasons.VERIFYING, reasons.SUSPENDING, reasons.SUSPENDED,
            reasons.CANCELLING, reasons.STOPPING, reasons.RETRYING,
        ),
    ),
    (
        "The pod cannot start; heals when the cause goes away, ends as `DeadlineExceeded` when it does not",
        (
            reasons.SECRET_MISSING, reasons.CLAIM_MISSING, reasons.VOLUME_UNAVAILABLE, reasons.IMAGE_UNAVAILABLE,
            reasons.UNSCHEDULABLE, reasons.QUOTA_EXCEEDED, reasons.POD_FORBIDDEN, reasons.CANNOT_START,
        ),
    ),
    ("Done (`Succeeded=True`)", (reasons.SUCCEEDED, reasons.ALREADY_COMPLETED)),
    (
        "Over without success (`Succeeded=False`, `Stalled=True`)",
        (*reasons.FAILURES, reasons.CANCELLED, reasons.DEADLINE_EXCEEDED),
    ),
    ("`Progressing`", (reasons.LOADING, reasons.NO_PROGRESS, reasons.PROGRESS_UNAVAILABLE)),
    ("`Degraded`", (reasons.ROWS_REJECTED, reasons.FALLBACK_USED)),
    ("Conditions and events of a schedule", schedule.REASONS),
]  # fmt: skip


def text() -> str:
    """The whole page."""
    parts = [
        _HEAD,
        "## spec\n\n",
        _table("spec", crd.spec_schema()),
        "\n## status\n\n",
        _table("status", crd.status_schema()),
    ]
    parts += [
        "\n## DatabaseRestoreSchedule: spec\n\n",
        "`template.spec` takes every field of a DatabaseRestore's spec, above, but runID, suspend and cancel.\n\n",
        _table("spec", _without_template(schedule_crd.spec_schema())),
        "\n## DatabaseRestoreSchedule: status\n\n",
        _table("status", schedule_crd.status_schema()),
    ]
    parts += ["\n## Reasons\n\n| When | Reasons |\n|---|---|\n"]
    parts += [f"| {when} | {', '.join(f'`{word}`' for word in words)} |\n" for when, words in _REASONS]
    parts += ["\n## Settings of the operator\n\nFrom its environment.\n\n| Variable | Default | |\n|---|---|---|\n"]
    for each in dataclasses.fields(Settings):
        default = str(each.default).lower() if isinstance(each.default, bool) else each.default
        parts.append(f"| `{PREFIX}{each.name.upper()}` | `{default}` | {each.metadata['doc']} |\n")
    return "".join(parts)


def _without_template(schema: Schema) -> Schema:
    """The schedule's own fields: what stands below template.spec is the restore's."""
    template = schema["properties"]["template"]["properties"]["spec"]
    template.pop("properties"), template.pop("x-kubernetes-validations")
    return schema


def _table(path: str, schema: Schema) -> str:
    return "| Field | Type | Default | |\n|---|---|---|---|\n" + "".join(_rows(path, schema))


def _rows(path: str, schema: Schema) -> list[str]:
    rows = []
    for name, inner in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        needed = " **Required.**" if name in schema.get("required", []) else ""
        rows.append(
            f"| `{here}` | {_type(inner)} | {_default(inner)} | {inner['description']}{_rules(inner)}{needed} |\n"
        )
        rows += _rows(here, inner)
        if "items" in inner:
            rows += _rows(f"{here}[]", inner["items"])
    return rows


def _type(schema: Schema) -> str:
    if "enum" in schema:
        return " \\| ".join(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    kind = str(schema["type"])
    if kind == "array":
        return f"list of {_type(schema['items'])}, at most {schema['maxItems']}"
    if "additionalProperties" in schema:
        return f"map, at most {schema['maxProperties']}"
    least, most = schema.get("minimum"), schema.get("maximum")
    if most is not None:
        return f"{kind}, {least or 0} to {most}"
    if least is not None:
        return f"{kind}, {least} at least"
    return kind


def _default(schema: Schema) -> str:
    if "default" not in schema or "properties" in schema:
        return ""
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`"


def _rules(schema: Schema) -> str:
    said = [rule["message"].partition(": ")[2] for rule in schema.get("x-kubernetes-validations", [])]
    return "".join(f" {sentence[0].upper()}{sentence[1:]}." for sentence in said)


if __name__ == "__main__":
    print(text(), end="")
