"""The CustomResourceDefinition, made of the models: `python -m restore_operator.crd > crds/databaserestores.dbrestore.io.yaml`.

The schema is structural (every field typed, nothing preserved unknown but Kubernetes' own types), has a description on every
field, a bound on every list, map and text (CEL's cost budget counts them), and the API's defaults.
"""

from __future__ import annotations

from typing import Any

import yaml
from restorer.spec import Load

from . import api, explain, rules

Schema = dict[str, Any]

_LONG = 16_384  # characters of a text that has no bound of its own
_KEYS = 256  # entries of a map that has no bound of its own
_QUANTITY = r"^[0-9]+(Ki|Mi|Gi|k|M|G)?$"
_ANY_QUANTITY = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)

# What the API server is to fill in where it is not the engine's own default.
_DEFAULTS: dict[str, Any] = {"load.batchBytes": f"{Load().batch_bytes >> 20}Mi", "rejects": {"limitPercent": 1}}
_OPEN = ("source.volume", "jobTemplate.affinity")  # Kubernetes' own types, handed on as they are
_QUANTITIES = ("jobTemplate.resources.requests[]", "jobTemplate.resources.limits[]")
_KEYED = {  # lists of named items: nothing occurs twice, and server-side apply merges by the key
    "tables.mappings": "file",
    "verification.queries": "name",
    "hooks.preRestore": "name",
    "hooks.postRestore": "name",
}
_EXTRA: dict[str, Schema] = {
    "load.batchBytes": {"x-kubernetes-int-or-string": True, "pattern": _QUANTITY, "maxLength": 24},
    "source.snapshot.time": {"format": "date-time"},
    "tables.include": {"minItems": 1},
    **{path: {"x-kubernetes-int-or-string": True, "pattern": _ANY_QUANTITY, "maxLength": 64} for path in _QUANTITIES},
}

COLUMNS: list[Schema] = [
    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
    {"name": "Percent", "type": "integer", "jsonPath": ".status.progress.percent"},
    {"name": "Records", "type": "integer", "jsonPath": ".status.progress.recordsRead"},
    {"name": "Rejected", "type": "integer", "jsonPath": ".status.progress.recordsRejected"},
    {"name": "ETA", "type": "integer", "description": "Seconds left.", "jsonPath": ".status.progress.etaSeconds"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "Snapshot", "type": "string", "jsonPath": ".status.snapshot.name", "priority": 1},
    {"name": "Attempt", "type": "integer", "jsonPath": ".status.attempt", "priority": 1},
    {"name": "Message", "type": "string", "jsonPath": ".status.message", "priority": 1},
]


def custom_resource_definition() -> Schema:
    """The whole manifest, ready to be applied."""
    schema = resource(api.KIND, explain.RESTORE, rules.ROOT, spec_schema(), status_schema())
    return definition(kind=api.KIND, plural=api.PLURAL, short=api.SHORT, columns=COLUMNS, schema=schema)


def definition(*, kind: str, plural: str, short: str, columns: list[Schema], schema: Schema) -> Schema:
    """The definition of a namespaced kind with that schema."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{api.GROUP}"},
        "spec": {
            "group": api.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": api.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def resource(kind: str, description: str, root: list[rules.Rule], spec: Schema, status: Schema) -> Schema:
    """The schema of the whole resource. An unseen one reads as in progress: its generation is never -1."""
    return {
        "type": "object",
        "description": description,
        "required": ["spec"],
        "x-kubernetes-validations": root,
        "properties": {
            "apiVersion": {"type": "string", "description": f"{api.API_VERSION}."},
            "kind": {"type": "string", "description": f"{kind}."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status | {"default": {"observedGeneration": -1}},
        },
    }


def structural(
    model: Schema, words: dict[str, str], cel: dict[str, list[rules.Rule]], *, defaults: bool = True
) -> Schema:
    """A model's JSON schema as Kubernetes wants it, with what is said of each field, its rules, and its defaults."""
    return _Structural(model, words, cel, defaults=defaults).schema()


def spec_schema() -> Schema:
    """The structural schema of `spec`."""
    schema = _Structural(api.ClusterSpec.model_json_schema(), explain.SPEC, rules.SPEC, defaults=True).schema()
    required = schema.get("required", [])
    may_miss = {name: name not in required and "default" not in p for name, p in schema["properties"].items()}
    schema["x-kubernetes-validations"] = [rules.unchanged(may_miss), *schema["x-kubernetes-validations"]]
    return schema


def status_schema() -> Schema:
    """The structural schema of `status`: nothing in it is filled in by the API server."""
    schema = _Structural(api.RestoreStatus.model_json_schema(), explain.STATUS, {}, defaults=False).schema()
    schema["properties"]["conditions"] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    return schema


class _Structural:
    """pydantic's JSON schema -> what Kubernetes calls structural: no references, no unions, no titles."""

    def __init__(
        self, model: Schema, words: dict[str, str], cel: dict[str, list[rules.Rule]], *, defaults: bool
    ) -> None:
        self.model, self.words, self.cel, self.defaults = model, words, cel, defaults
        self.definitions: dict[str, Schema] = model.get("$defs", {})

    def schema(self) -> Schema:
        return self._at("", self.model)

    def _at(self, path: str, given: Schema) -> Schema:
        given = self._resolved(given)
        made: Schema = {"description": self.words[path]}
        if path in _OPEN:
            return made | {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        if "x-kubernetes-int-or-string" in (extra := _EXTRA.get(path, {})):
            made |= {"x-kubernetes-int-or-string": True}
        else:
            made["type"] = given["type"]
        for key in (
            "enum",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "pattern",
            "minItems",
            "maxItems",
            "format",
        ):
            if key in given:
                made[key] = given[key]
        if "const" in given:
            made["enum"] = [given["const"]]
        if given["type"] == "integer" and "x-kubernetes-int-or-string" not in extra:
            made.setdefault("format", "int64")
        if given["type"] == "string" and not ({"enum", "maxLength", "format"} & made.keys()):
            made["maxLength"] = _LONG
        made |= extra
        if "x-kubernetes-int-or-string" in extra:
            made.pop("minimum", None), made.pop("maximum", None)
        self._inner(path, given, made)
        if self.defaults:
            self._default(path, given, made)
        if path in self.cel:
            made["x-kubernetes-validations"] = self.cel[path]
        return made

    def _inner(self, path: str, given: Schema, made: Schema) -> None:
        """What stands below: items, values, properties."""
        match given:
            case {"type": "array", "items": items}:
                made["items"] = self._at(f"{path}[]", items)
                made.setdefault("maxItems", 256)
                if path in _KEYED:
                    made |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [_KEYED[path]]}
                elif path != "conditions":
                    made["x-kubernetes-list-type"] = "atomic"
            case {"type": "object", "properties": properties}:
                dot = f"{path}." if path else ""
                made["properties"] = {name: self._at(dot + name, p) for name, p in properties.items()}
                if "required" in given:
                    made["required"] = given["required"]
            case {"type": "object", "additionalProperties": values}:
                made["additionalProperties"] = self._at(f"{path}[]", values)
                made["maxProperties"] = given.get("maxProperties", _KEYS)

    def _default(self, path: str, given: Schema, made: Schema) -> None:
        if path in _DEFAULTS:
            made["default"] = _DEFAULTS[path]
        elif "properties" in made:
            if "default" in given and given["default"] is not None:
                # Spelled out: rules are asked of a default before the fields' own defaults are filled in.
                made["default"] = {name: p["default"] for name, p in made["properties"].items() if "default" in p}
        elif given.get("default") is not None:
            if path.split(".")[0] == "jobTemplate":
                return  # nothing to be seen where nothing is said
            made["default"] = given["default"]

    def _resolved(self, given: Schema) -> Schema:
        """The schema that a reference, a wrapped reference or `X | None` stands for."""
        while True:
            if "$ref" in given:
                name = given["$ref"].rpartition("/")[2]
                given = self.definitions[name] | {k: v for k, v in given.items() if k != "$ref"}
            elif "allOf" in given:
                given = given["allOf"][0] | {k: v for k, v in given.items() if k != "allOf"}
            elif "anyOf" in given:
                real = [choice for choice in given["anyOf"] if choice.get("type") != "null"]
                given = real[0] | {k: v for k, v in given.items() if k != "anyOf"}
            else:
                return given


class _Dumper(yaml.SafeDumper):
    """Lists indented, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def text(manifest: Schema | None = None, source: str = "operator/restore_operator/api.py") -> str:
    """The manifest as YAML, with the line that says where it comes from."""
    body = yaml.dump(
        manifest or custom_resource_definition(), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True
    )
    return f"# Made by `make crds` from {source}: edit that.\n{body}"


if __name__ == "__main__":
    print(text(), end="")
