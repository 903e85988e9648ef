"""The CustomResourceDefinition of schedules: `python -m restore_operator.schedule_crd > crds/databaserestoreschedules.dbrestore.io.yaml`.

The template's schema is that of a DatabaseRestore, with its rules and defaults, but for what each run has of its own.
"""

from __future__ import annotations

from typing import Any

from . import api, crd, explain, rules, schedule_api

Schema = dict[str, Any]

SCHEDULE = (
    "A DatabaseRestoreSchedule makes a DatabaseRestore at each time that its cron expression names: nightly resets, and "
    "drills that restore into a scratch database and verify."
)

SPEC: dict[str, str] = {
    "": "When to restore, and what.",
    "schedule": "Five cron fields (minute, hour, day of month, month, day of week), or @hourly, @daily, @weekly, @monthly, @yearly.",
    "timeZone": "Name in the tz database, e.g. Europe/Berlin. A fixed time that a change to summer time skips comes right after it; "
    "one that the change back repeats comes once.",
    "suspend": "Nothing is started while it is true. Afterwards the last missed time is, unless its starting deadline has passed.",
    "concurrencyPolicy": "When the restore before is still active: Forbid waits for it, Replace deletes it.",
    "startingDeadlineSeconds": "A restore that could not be started so many seconds after its time is missed. No deadline when not given.",
    "successfulRestoresHistoryLimit": "Succeeded restores that are kept.",
    "failedRestoresHistoryLimit": "Failed and cancelled restores that are kept.",
    "template": "The restores that are made.",
    "template.metadata": "What they carry besides the operator's own labels.",
    "template.metadata.labels": "Labels; not below dbrestore.io/ and app.kubernetes.io/.",
    "template.metadata.labels[]": "The label's value.",
    "template.metadata.annotations": "Annotations.",
    "template.metadata.annotations[]": "The annotation's value.",
    "template.spec": "As in a DatabaseRestore, without runID (it is made of the scheduled time), suspend and cancel.",
}

STATUS: dict[str, str] = {
    "": "What became of the schedule. Written by the operator only.",
    "observedGeneration": "Generation of the spec that this status is about; -1 until the operator has seen the resource.",
    "active": "Restores of this schedule that are not over.",
    "active[]": "One restore.",
    "active[].name": "Its name.",
    "active[].uid": "Its UID.",
    "lastScheduleTime": "The scheduled time of the last restore that was made.",
    "lastSuccessfulTime": "When a restore last ended in success.",
    "lastMissedTime": "The last scheduled time that no restore was made for.",
    "nextScheduleTime": "When the next restore is due; not there while suspended.",
    "conditions": "Ready, Stalled, LastRestoreSucceeded.",
    "conditions[]": "One condition.",
    "conditions[].type": "Ready: the schedule is in force. Stalled: it cannot be read. LastRestoreSucceeded: how the last restore ended.",
    "conditions[].status": "True, False or Unknown.",
    "conditions[].observedGeneration": "Generation of the spec that this condition is about.",
    "conditions[].lastTransitionTime": "When status last changed.",
    "conditions[].reason": "Why, in one CamelCase word.",
    "conditions[].message": "Why, in a sentence.",
}

COLUMNS: list[Schema] = [
    {"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"},
    {"name": "Time Zone", "type": "string", "jsonPath": ".spec.timeZone"},
    {"name": "Suspend", "type": "boolean", "jsonPath": ".spec.suspend"},
    {"name": "Active", "type": "string", "jsonPath": ".status.active[*].name"},
    {"name": "Last Schedule", "type": "date", "jsonPath": ".status.lastScheduleTime"},
    {"name": "Last Success", "type": "date", "jsonPath": ".status.lastSuccessfulTime"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "Next", "type": "string", "jsonPath": ".status.nextScheduleTime", "priority": 1},
    {"name": "Last Restore", "type": "string", "priority": 1,
     "jsonPath": '.status.conditions[?(@.type=="LastRestoreSucceeded")].reason'},
]  # fmt: skip


def _field(value: str, more: str = "") -> str:
    """The regular expression of one cron field: `*`, values, ranges, steps, lists."""
    term = f"([*]|({value})(-({value}))?){more}(/[0-9]{{1,2}})?"
    return f"{term}(,{term})*"


# Which names of months and days there are, and that a range goes upwards, the operator sees; it says so in Ready.
_CRON = (
    f"^ *{_field('[0-5]?[0-9]')}"
    f" +{_field('[01]?[0-9]|2[0-3]')}"
    f" +(L|LW|{_field('0?[1-9]|[12][0-9]|3[01]')})"
    f" +{_field('0?[1-9]|1[0-2]|[A-Za-z]{3}')}"
    f" +{_field('[0-7]|[A-Za-z]{3}', '(L|#[1-5])?')} *$"
)

RULES: dict[str, list[rules.Rule]] = {
    "schedule": [
        {
            "rule": f"self in ['@yearly', '@annually', '@monthly', '@weekly', '@daily', '@midnight', '@hourly'] || self.matches('{_CRON}')",
            "message": "spec.schedule: must be five cron fields (minute, hour, day of month, month, day of week), or one of "
            "@hourly, @daily, @weekly, @monthly, @yearly; the time zone goes into spec.timeZone",
        }
    ],
    "timeZone": [
        {
            "rule": "self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$') && self != 'Local'",
            "message": "spec.timeZone: must be the name of a time zone in the tz database, as Europe/Berlin",
        }
    ],
    "template.metadata.labels": [
        rules.SPEC["jobTemplate.labels"][0]
        | {
            "message": "spec.template.metadata.labels: labels of dbrestore.io/ and app.kubernetes.io/ are the operator's: choose another prefix"
        }
    ],
    "template.metadata.annotations": [
        rules.SPEC["jobTemplate.annotations"][0]
        | {
            "message": "spec.template.metadata.annotations: those of dbrestore.io/ are the operator's: choose another prefix"
        }
    ],
}
ROOT: list[rules.Rule] = [
    {
        "rule": "size(self.metadata.name) <= 50",
        "message": "metadata.name: must have at most 50 characters: the restores' names are made of it and the time",
    }
]


def custom_resource_definition() -> Schema:
    """The whole manifest, ready to be applied."""
    return crd.definition(
        kind=schedule_api.KIND,
        plural=schedule_api.PLURAL,
        short=schedule_api.SHORT,
        columns=COLUMNS,
        schema=crd.resource(schedule_api.KIND, SCHEDULE, ROOT, spec_schema(), status_schema()),
    )


def spec_schema() -> Schema:
    """The structural schema of `spec`."""
    model = schedule_api.ScheduleSpec.model_json_schema()
    template = model["$defs"]["RestoreTemplate"]["properties"]
    template["spec"] = {"type": "object", "properties": {}}  # its own schema stands in for it below
    schema = crd.structural(model, SPEC, RULES)
    schema["properties"]["template"]["properties"]["spec"] = template_schema()
    return schema


def template_schema() -> Schema:
    """A restore's spec as a template: nothing of a single run in it, and no rules on changes."""
    cel = {path: [_in_template(r) for r in each if "oldSelf" not in r["rule"]] for path, each in rules.SPEC.items()}
    schema = crd.structural(api.ClusterSpec.model_json_schema(), explain.SPEC, cel)
    for name in schedule_api.PER_RUN:
        del schema["properties"][name]
    return schema | {"description": SPEC["template.spec"]}


def status_schema() -> Schema:
    """The structural schema of `status`."""
    schema = crd.structural(schedule_api.ScheduleStatus.model_json_schema(), STATUS, {}, defaults=False)
    schema["properties"]["conditions"] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    return schema


def _in_template(rule: rules.Rule) -> rules.Rule:
    """The rule with messages that name the field where it stands."""
    said = {
        key: rule[key].replace("spec.", "spec.template.spec.")
        for key in ("message", "messageExpression")
        if key in rule
    }
    return rule | said


def text() -> str:
    """The manifest as YAML, with the line that says where it comes from."""
    return crd.text(custom_resource_definition(), "operator/restore_operator/schedule_api.py")


if __name__ == "__main__":
    print(text(), end="")
