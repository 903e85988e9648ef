"""What the API server refuses beyond types and ranges: CEL rules by the path of the field they stand at.

Each rule's message names the field and says what would be right. Rules are written for Kubernetes 1.29. Sources:
"Validation rules" of the CustomResourceDefinition documentation; a rule on the whole spec guards changes, because a rule on
one field is not asked when the field is removed and added again.
"""

from __future__ import annotations

Rule = dict[str, str]

SUSPENDABLE = ("suspend", "cancel")  # may change without a new run
_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_LABEL_VALUE = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_RESERVED = "k.startsWith('dbrestore.io/') || k.startsWith('app.kubernetes.io/')"


def _rule(rule: str, message: str, **more: str) -> Rule:
    return {"rule": rule, "message": message, **more}


def _below_root(path: str) -> Rule:
    return _rule(
        "!self.startsWith('/') && !self.split('/').exists(part, part == '..')",
        f"spec.{path}: must be a path below the volume's root: not absolute, no '..'",
    )


def _object_name(path: str, kind: str) -> Rule:
    return _rule(
        f"self.matches('{_SUBDOMAIN}')",
        f"spec.{path}: must be the name of a {kind}: lower case letters, digits, '-' and '.'",
    )


def _key(path: str) -> Rule:
    return _rule(
        "self.matches('^[-._a-zA-Z0-9]+$')",
        f"spec.{path}: must be a key of a Secret: letters, digits, '-', '_' and '.'",
    )


ROOT: list[Rule] = [
    _rule(
        "size(self.metadata.name) <= 63", "metadata.name: must have at most 63 characters, to be the value of a label"
    )
]

SPEC: dict[str, list[Rule]] = {
    "": [
        _rule(
            "!(self.cleanup in ['Truncate', 'Delete']) || "
            "(has(self.confirm) && self.confirm == self.target.host + '/' + self.target.database)",
            "spec.confirm: must be the target's host/database when cleanup is Truncate or Delete",
            messageExpression="'spec.confirm: cleanup ' + self.cleanup + ' empties the tables: say confirm: ' + "
            "self.target.host + '/' + self.target.database + ' if that is meant'",
        ),
        _rule(
            "self.mode == 'Apply' || self.load.pods == 1",
            "spec.load.pods: must be 1 when mode is DryRun or VerifyOnly",
        ),
        _rule(
            "!oldSelf.cancel || self.cancel || self.runID != oldSelf.runID",
            "spec.cancel: a cancelled run stays cancelled: give spec.runID a new value to restore again",
        ),
    ],
    "source": [
        _rule(
            "has(self.persistentVolumeClaim) != has(self.volume)",
            "spec.source: say exactly one of persistentVolumeClaim and volume",
        )
    ],
    "source.persistentVolumeClaim.claimName": [
        _object_name("source.persistentVolumeClaim.claimName", "PersistentVolumeClaim")
    ],
    "source.path": [_below_root("source.path")],
    "source.snapshot": [
        _rule(
            "(self.policy == 'Exact') == has(self.name)",
            "spec.source.snapshot.name: is needed with policy Exact, and only there",
        ),
        _rule(
            "(self.policy == 'AtOrBefore') == has(self.time)",
            "spec.source.snapshot.time: is needed with policy AtOrBefore, and only there",
        ),
    ],
    "source.snapshot.name": [_below_root("source.snapshot.name")],
    "source.snapshot.completeMarker": [_below_root("source.snapshot.completeMarker")],
    "target.host": [
        _rule(
            "self.matches('^[A-Za-z0-9:]([A-Za-z0-9._:-]*[A-Za-z0-9:.])?$')",
            "spec.target.host: must be a host name or an address, without scheme, port and path",
        )
    ],
    "target.credentialsSecretRef.name": [_object_name("target.credentialsSecretRef.name", "Secret")],
    "target.credentialsSecretRef.usernameKey": [_key("target.credentialsSecretRef.usernameKey")],
    "target.credentialsSecretRef.passwordKey": [_key("target.credentialsSecretRef.passwordKey")],
    "target.tls": [
        _rule(
            "!(self.mode in ['VerifyCA', 'VerifyFull']) || has(self.caSecretRef)",
            "spec.target.tls.caSecretRef: is needed when mode is VerifyCA or VerifyFull",
        )
    ],
    "target.tls.caSecretRef.name": [_object_name("target.tls.caSecretRef.name", "Secret")],
    "target.tls.caSecretRef.key": [_key("target.tls.caSecretRef.key")],
    "load.batchBytes": [
        _rule(
            "type(self) == int ? self >= 65536 && self <= 1073741824 : quantity(string(self)).isGreaterThan(quantity('65535'))"
            " && quantity(string(self)).isLessThan(quantity('1073741825'))",
            "spec.load.batchBytes: must be between 64Ki and 1Gi",
        )
    ],
    "rejects": [
        _rule("!(has(self.limit) && has(self.limitPercent))", "spec.rejects: say limit or limitPercent, not both"),
    ],
    "retry": [
        _rule("self.initialSeconds <= self.maxSeconds", "spec.retry.initialSeconds: must not be more than maxSeconds")
    ],
    "verification.notNull[]": [
        _rule("self.matches('^[^.]+([.][^.]+)+$')", "spec.verification.notNull: must name a column as table.column")
    ],
    "jobTemplate.labels": [
        _rule(
            f"!self.exists(k, {_RESERVED})",
            "spec.jobTemplate.labels: labels of dbrestore.io/ and app.kubernetes.io/ are the operator's: choose another prefix",
        )
    ],
    "jobTemplate.annotations": [
        _rule(
            "!self.exists(k, k.startsWith('dbrestore.io/'))",
            "spec.jobTemplate.annotations: those of dbrestore.io/ are the operator's: choose another prefix",
        )
    ],
    "runID": [
        _rule(
            f"self.matches('{_LABEL_VALUE}')",
            "spec.runID: must be letters, digits, '-', '_' and '.', at most 63, the first and last a letter or digit",
        )
    ],
}


def unchanged(optional: dict[str, bool]) -> Rule:
    """The rule that a spec changes only together with its runID. `optional`: field of the spec -> whether it may be
    missing once defaults are filled in."""
    terms = ["self.runID != oldSelf.runID"]
    same = []
    for name, may_miss in optional.items():
        if name in (*SUSPENDABLE, "runID"):
            continue
        equal = f"self.{name} == oldSelf.{name}"
        if may_miss:
            equal = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || {equal})"
        same.append(f"({equal})" if may_miss else equal)
    return _rule(
        " || ".join([*terms, "(" + " && ".join(same) + ")"]),
        "spec: a change of anything but suspend and cancel needs a new run: give spec.runID a new value in the same change",
    )
