"""The CRD against a real API server: what is good is taken, what is not is refused in words that help."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import yaml
from conftest import CRD, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from kube_server import ApiError, KubeServer
from manifests import RESTORES, Json, changed, restore
from restore_operator import api, crd, explain

_LONG = "x" * 300
_names = (f"case-{n}" for n in itertools.count(1))

# What is wrong -> what the refusal must name.
INVALID: list[tuple[str, Json, list[str]]] = [
    ("no source", {"source": {}}, ["spec.source", "exactly one of persistentVolumeClaim and volume"]),
    ("two sources", {"source.volume": {"emptyDir": {}}}, ["spec.source", "exactly one"]),
    ("claim without name", {"source.persistentVolumeClaim": {}}, ["claimName", "Required"]),
    ("claim with a bad name", {"source.persistentVolumeClaim.claimName": "My_Claim"}, ["claimName", "PersistentVolumeClaim"]),
    ("absolute path", {"source.path": "/data"}, ["spec.source.path", "not absolute"]),
    ("path that leads out", {"source.path": "a/../../b"}, ["spec.source.path", "'..'"]),
    ("Exact without a name", {"source.snapshot": {"policy": "Exact"}}, ["spec.source.snapshot.name", "Exact"]),
    ("a name without Exact", {"source.snapshot": {"name": "20241219"}}, ["spec.source.snapshot.name", "only there"]),
    ("AtOrBefore without a time", {"source.snapshot": {"policy": "AtOrBefore"}}, ["spec.source.snapshot.time"]),
    ("a time without AtOrBefore", {"source.snapshot": {"time": "2024-12-19T00:00:00Z"}}, ["spec.source.snapshot.time"]),
    ("a time that is none", {"source.snapshot": {"policy": "AtOrBefore", "time": "noon"}}, ["time", "date-time"]),
    ("a snapshot that leads out", {"source.snapshot": {"policy": "Exact", "name": "../x"}}, ["snapshot.name", "'..'"]),
    ("a marker that leads out", {"source.snapshot.completeMarker": "/ok"}, ["completeMarker", "not absolute"]),
    ("unknown format", {"source.format": "CSV"}, ["spec.source.format", '"JSON"']),
    ("no host", {"target.host": None}, ["spec.target.host", "Required"]),
    ("a URL as host", {"target.host": "postgres://pg"}, ["spec.target.host", "without scheme"]),
    ("host with a path", {"target.host": "pg/app"}, ["spec.target.host", "path"]),
    ("no database", {"target.database": None}, ["spec.target.database", "Required"]),
    ("a database name too long", {"target.database": "x" * 64}, ["spec.target.database", "63"]),
    ("no credentials", {"target.credentialsSecretRef": None}, ["credentialsSecretRef", "Required"]),
    ("secret with a bad name", {"target.credentialsSecretRef.name": "A b"}, ["credentialsSecretRef.name", "Secret"]),
    ("key with a bad name", {"target.credentialsSecretRef.passwordKey": "a/b"}, ["passwordKey", "key of a Secret"]),
    ("port 0", {"target.port": 0}, ["spec.target.port", "greater than or equal to 1"]),
    ("port 65536", {"target.port": 65536}, ["spec.target.port", "65535"]),
    ("port as text", {"target.port": "5432"}, ["spec.target.port", "integer"]),
    ("VerifyFull without a CA", {"target.tls.mode": "VerifyFull"}, ["spec.target.tls.caSecretRef", "VerifyFull"]),
    ("unknown TLS mode", {"target.tls.mode": "require"}, ["spec.target.tls.mode", '"Require"']),
    ("no table at all", {"tables.include": []}, ["spec.tables.include", "at least 1"]),
    ("a file mapped twice", {"tables.mappings": [{"file": "a"}, {"file": "a"}]}, ["spec.tables.mappings", "Duplicate"]),
    ("a mapping without file", {"tables.mappings": [{"table": "a"}]}, ["mappings[0].file", "Required"]),
    ("unknown mode", {"mode": "apply"}, ["spec.mode", '"Apply"']),
    ("unknown cleanup", {"cleanup": "Drop"}, ["spec.cleanup", '"Truncate"']),
    ("Truncate unconfirmed", {"cleanup": "Truncate"}, ["spec.confirm", "pg-rw/app"]),
    ("Delete confirmed wrongly", {"cleanup": "Delete", "confirm": "pg-rw/prod"}, ["spec.confirm", "confirm: pg-rw/app"]),
    ("unknown onConflict", {"onConflict": "Replace"}, ["spec.onConflict", '"Update"']),
    ("batchRows 0", {"load.batchRows": 0}, ["spec.load.batchRows", "1"]),
    ("batchRows past a million", {"load.batchRows": 1_000_001}, ["spec.load.batchRows", "1000000"]),
    ("batchBytes too small", {"load.batchBytes": "1Ki"}, ["spec.load.batchBytes", "64Ki"]),
    ("batchBytes too large", {"load.batchBytes": "2Gi"}, ["spec.load.batchBytes", "1Gi"]),
    ("batchBytes too small a number", {"load.batchBytes": 100}, ["spec.load.batchBytes", "64Ki"]),
    ("batchBytes that is no quantity", {"load.batchBytes": "lots"}, ["spec.load.batchBytes"]),
    ("workers 0", {"load.workers": 0}, ["spec.load.workers", "1"]),
    ("pods 65", {"load.pods": 65}, ["spec.load.pods", "64"]),
    ("a dry run in two pods", {"mode": "DryRun", "load.pods": 2}, ["spec.load.pods", "DryRun"]),
    ("both limits", {"rejects": {"limit": 1, "limitPercent": 1}}, ["spec.rejects", "not both"]),
    ("percent 101", {"rejects": {"limitPercent": 101}}, ["limitPercent", "100"]),
    ("a negative limit", {"rejects": {"limit": -1}}, ["spec.rejects.limit", "0"]),
    ("a ledger schema with a blank", {"ledger.schema": "a b"}, ["spec.ledger.schema"]),
    ("retry that shrinks", {"retry": {"initialSeconds": 9, "maxSeconds": 2}}, ["retry.initialSeconds", "maxSeconds"]),
    ("retry of no second", {"retry.initialSeconds": 0}, ["spec.retry.initialSeconds", "1"]),
    ("unknown resumePolicy", {"resumePolicy": "Never"}, ["spec.resumePolicy", '"Resume"']),
    ("notNull without a column", {"verification.notNull": ["users"]}, ["verification.notNull", "table.column"]),
    ("two queries of one name", {"verification.queries": [{"name": "a", "sql": "select 1", "expect": "1"}] * 2}, ["Duplicate"]),
    ("query without SQL", {"verification.queries": [{"name": "a", "expect": "1"}]}, ["queries[0].sql", "Required"]),
    ("hook without a name", {"hooks.preRestore": [{"sql": "select 1"}]}, ["preRestore[0].name", "Required"]),
    ("deadline 0", {"activeDeadlineSeconds": 0}, ["spec.activeDeadlineSeconds", "1"]),
    ("stall timeout 0", {"stallTimeoutSeconds": 0}, ["spec.stallTimeoutSeconds", "1"]),
    ("a negative backoffLimit", {"backoffLimit": -1}, ["spec.backoffLimit", "0"]),
    ("a label of ours", {"jobTemplate.labels": {"dbrestore.io/run": "x"}}, ["spec.jobTemplate.labels", "another prefix"]),
    ("memory that is no quantity", {"jobTemplate.resources.limits": {"memory": "much"}}, ["jobTemplate.resources.limits"]),
    ("an empty runID", {"runID": ""}, ["spec.runID"]),
    ("a runID with a slash", {"runID": "a/b"}, ["spec.runID", "letters"]),
    ("a runID too long", {"runID": "x" * 64}, ["spec.runID", "63"]),
    ("an unknown field", {"sorce": {}}, ['unknown field "spec.sorce"']),
    ("a path too long", {"source.path": _LONG * 4}, ["spec.source.path", "1024"]),
    ("suspend as text", {"suspend": "yes"}, ["spec.suspend", "boolean"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(kube: KubeServer) -> str:
    kube.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "crd"}})
    return RESTORES.format("crd")


@pytest.mark.parametrize(("changes", "words"), [case[1:] for case in INVALID], ids=[case[0] for case in INVALID])
def test_an_invalid_manifest_is_refused_by_name(kube: KubeServer, place: str, changes: Json, words: list[str]) -> None:
    with pytest.raises(ApiError) as refused:
        kube.create(place, changed(restore(next(_names), "crd"), changes))
    assert refused.value.status in (400, 422)
    for word in words:
        assert word in refused.value.message


def test_a_name_that_is_no_label_is_refused(kube: KubeServer, place: str) -> None:
    with pytest.raises(ApiError, match=r"metadata\.name: must have at most 63 characters"):
        kube.create(place, restore("x" * 64, "crd"))


VALID: dict[str, Json] = {
    "no more than it must": {},
    "an inline volume": {"source": {"volume": {"nfs": {"server": "nas", "path": "/backups"}}}},
    "exact snapshot": {"source.snapshot": {"policy": "Exact", "name": "20241219_103045"}},
    "at or before": {"source.snapshot": {"policy": "AtOrBefore", "time": "2024-12-19T10:30:00Z"}},
    "truncate confirmed": {"cleanup": "Truncate", "confirm": "pg-rw/app"},
    "an IPv6 host": {"target.host": "fd00::5"},
    "bytes as a number": {"load.batchBytes": 1_000_000},
    "a limit": {"rejects": {"limit": 0}},
    "resources": {"jobTemplate.resources": {"requests": {"cpu": 1, "memory": "512Mi"}, "limits": {"cpu": "1.5"}}},
    "a run named by commit": {"runID": "main-3f2a91c"},
    "affinity": {"jobTemplate.affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}},
}


@pytest.mark.parametrize("changes", VALID.values(), ids=list(VALID))
def test_a_good_manifest_is_taken_and_the_operator_reads_it(kube: KubeServer, place: str, changes: Json) -> None:
    sent = changed(restore(next(_names), "crd"), changes)
    made = kube.create(place, sent)
    read = api.DatabaseRestore.model_validate(made)
    assert read.status.observed_generation == -1
    # The API server's defaults and the operator's own are the same.
    here = api.ClusterSpec.model_validate(sent["spec"])
    assert read.spec.resolved() == here.resolved()


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("**/*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_taken(kube: KubeServer, place: str, file: Any) -> None:
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        if document and document.get("kind") == api.KIND:
            document["metadata"] |= {"name": next(_names), "namespace": "crd"}
            api.DatabaseRestore.model_validate(kube.create(place, document))


CHANGES: list[tuple[str, Json, Json]] = [
    ("the target", {}, {"target.host": "elsewhere"}),
    ("one setting of the load", {}, {"load.workers": 4}),
    ("an optional field added", {}, {"confirm": "pg-rw/app"}),
    ("an optional field taken away", {"confirm": "pg-rw/app"}, {"confirm": None}),
    ("a snapshot's marker", {}, {"source.snapshot.completeMarker": "_SUCCESS"}),
    ("the resources of the pod", {}, {"jobTemplate.resources": {"limits": {"memory": "1Gi"}}}),
    ("the inside of a volume", {"source": {"volume": {"nfs": {"server": "a", "path": "/b"}}}}, {"source.volume.nfs.path": "/c"}),
    ("the affinity", {"jobTemplate.affinity": {"nodeAffinity": {"a": 1}}}, {"jobTemplate.affinity": {"nodeAffinity": {"a": 2}}}),
    ("a hook", {}, {"hooks.preRestore": [{"name": "a", "sql": "select 1"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_change_needs_a_new_run(kube: KubeServer, place: str, before: Json, after: Json) -> None:
    made = kube.create(place, changed(restore(next(_names), "crd"), before))
    path = f"{place}/{made['metadata']['name']}"
    with pytest.raises(ApiError, match=r"give spec\.runID a new value in the same change") as refused:
        kube.request("PUT", path, changed(made, after))
    assert refused.value.status == 422
    kube.request("PUT", path, changed(made, after | {"runID": "2"}))


def test_suspend_and_cancel_need_no_new_run_but_a_cancelled_run_stays_cancelled(kube: KubeServer, place: str) -> None:
    path = f"{place}/{kube.create(place, restore(next(_names), 'crd'))['metadata']['name']}"
    kube.patch(path, {"spec": {"suspend": True}})
    kube.patch(path, {"spec": {"suspend": False}})
    kube.patch(path, {"spec": {"cancel": True}})
    with pytest.raises(ApiError, match="a cancelled run stays cancelled"):
        kube.patch(path, {"spec": {"cancel": False}})
    kube.patch(path, {"spec": {"cancel": False, "runID": "2"}})


def test_the_file_is_what_the_models_make() -> None:
    assert CRD.read_text(encoding="utf-8") == crd.text(), "run `make crds`"


def _paths(schema: Json, path: str = "") -> list[str]:
    found = [path]
    if "x-kubernetes-preserve-unknown-fields" in schema:
        return found
    for name, inner in schema.get("properties", {}).items():
        found += _paths(inner, f"{path}.{name}" if path else name)
    for key in ("items", "additionalProperties"):
        if key in schema:
            found += _paths(schema[key], f"{path}[]")
    return found


def test_every_field_has_its_line_and_no_line_is_left_over() -> None:
    assert sorted(_paths(crd.spec_schema())) == sorted(explain.SPEC)
    assert sorted(_paths(crd.status_schema())) == sorted(explain.STATUS)


def test_every_list_map_and_text_has_a_bound() -> None:
    def check(schema: Json, path: str) -> None:
        if schema.get("type") == "array":
            assert "maxItems" in schema, path
        if "additionalProperties" in schema:
            assert "maxProperties" in schema, path
        if schema.get("type") == "string":
            assert {"maxLength", "enum", "format"} & schema.keys(), path
        for name, inner in schema.get("properties", {}).items():
            check(inner, f"{path}.{name}")
        for key in ("items", "additionalProperties"):
            if key in schema:
                check(schema[key], path + "[]")

    check(crd.spec_schema(), "spec")
    check(crd.status_schema(), "status")


_text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["source.path", "target.host", "target.database", "runID", "confirm", "load.batchBytes", "ledger.schema"]),
        _text | st.integers(-5, 2_000_000).map(str),
        max_size=2,
    )
)  # fmt: skip
def test_what_the_api_server_takes_the_operator_can_read(kube: KubeServer, place: str, changes: Json) -> None:
    """Two ways to judge a spec must not differ in the direction that would leave a resource unread."""
    try:
        made = kube.create(place, changed(restore(next(_names), "crd"), changes))
    except ApiError:
        return
    api.DatabaseRestore.model_validate(made)
