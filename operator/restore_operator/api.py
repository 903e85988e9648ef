"""The resource: DatabaseRestore of `dbrestore.io/v1alpha1`, as pydantic models on top of the engine's own spec.

What a cluster asks for beyond the command line stands here: a target and credentials that must be named, the pod's
template, the defaults of the API. `crd.py` makes the CustomResourceDefinition of these models; nothing else defines a field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from restorer.spec import CredentialsRef, Identifier, Load, Model, Name, Rejects, RestoreSpec, Seconds, Source, Target

GROUP = "dbrestore.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "DatabaseRestore"
PLURAL = "databaserestores"
SHORT = "dbr"

Phase = Literal["Queued", "Validating", "Running", "Verifying", "Succeeded", "Failed", "Cancelled", "Suspended"]
Quantity = Annotated[str | int, Field(union_mode="left_to_right")]
Words = Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=64)]
Count = Annotated[int, Field(ge=0)]


class ClusterTarget(Target):
    host: Name
    database: Identifier
    credentials_secret_ref: CredentialsRef


class ClusterLoad(Load):
    workers: Annotated[int, Field(ge=1, le=64)] = 2


class Resources(Model):
    requests: Annotated[dict[str, Quantity], Field(max_length=16)] = {}
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] = {}


class Toleration(Model):
    key: Annotated[str, Field(max_length=317)] | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: Annotated[str, Field(max_length=63)] | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class PullSecret(Model):
    name: Name


class JobTemplate(Model):
    labels: Words = {}
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=64)] = {}
    resources: Resources | None = None
    node_selector: Words = {}
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    affinity: dict[str, Any] | None = None
    priority_class_name: Name | None = None
    service_account_name: Name | None = None
    image_pull_secrets: Annotated[list[PullSecret], Field(max_length=16)] = []


class ClusterSpec(RestoreSpec):
    """The engine's spec with what a cluster must be told, and the API's own defaults."""

    source: Source
    target: ClusterTarget
    load: ClusterLoad = ClusterLoad()
    rejects: Rejects = Rejects(limit_percent=1)
    active_deadline_seconds: Seconds = 14_400
    job_template: JobTemplate = JobTemplate()  # type: ignore[assignment]  # the engine passes it over unread


class StatusModel(BaseModel):
    """Of what the operator itself wrote; a field of a newer version is passed over."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class Condition(StatusModel):
    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    observed_generation: int = 0
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    reason: Annotated[str, Field(max_length=1024)]
    message: Annotated[str, Field(max_length=32_768)] = ""


class JobRef(StatusModel):
    name: str
    uid: str


class SnapshotStatus(StatusModel):
    name: str = ""
    bytes: Count = 0
    tables: Count = 0


class ProgressStatus(StatusModel):
    percent: Annotated[int, Field(ge=0, le=100)] = 0
    bytes_total: Count = 0
    bytes_done: Count = 0
    records_read: Count = 0
    records_inserted: Count = 0
    records_updated: Count = 0
    records_duplicate: Count = 0
    records_conflict: Count = 0
    records_rejected: Count = 0
    tables_total: Count = 0
    tables_done: Count = 0
    records_per_second: Count = 0
    eta_seconds: Count | None = None
    table: str = ""
    last_update_time: str = ""


class FallbackStatus(StatusModel):
    level: str
    batches: Count = 0
    records: Count = 0


class TableStatus(StatusModel):
    name: str
    state: str
    read: Count = 0
    inserted: Count = 0
    updated: Count = 0
    duplicate: Count = 0
    conflict: Count = 0
    rejected: Count = 0
    seconds: Count = 0
    error: str = ""


class RejectedStatus(StatusModel):
    table: str
    record: Count
    reason: str
    sqlstate: Annotated[str, Field(alias="sqlState")] = ""
    constraint: str = ""


class LastError(StatusModel):
    reason: str
    message: str = ""
    table: str = ""
    sqlstate: Annotated[str, Field(alias="sqlState")] = ""
    time: str = ""


class RestoreStatus(StatusModel):
    """What the operator says of a restore. Times are RFC 3339 in UTC."""

    observed_generation: int = -1
    phase: Phase | None = None
    run_id: Annotated[str, Field(alias="runID")] = ""
    spec_hash: str = ""
    attempt: Count = 0
    start_time: str | None = None
    completion_time: str | None = None
    job_ref: JobRef | None = None
    snapshot: SnapshotStatus | None = None
    conditions: Annotated[list[Condition], Field(max_length=16)] = []
    progress: ProgressStatus | None = None
    fallback: Annotated[list[FallbackStatus], Field(max_length=8)] = []
    tables: Annotated[list[TableStatus], Field(max_length=100)] = []
    tables_omitted: Count = 0
    rejected_sample: Annotated[list[RejectedStatus], Field(max_length=5)] = []
    last_error: LastError | None = None
    message: str = ""

    def condition(self, kind: str) -> Condition | None:
        return next((c for c in self.conditions if c.type == kind), None)


class Metadata(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: str
    namespace: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None


class DatabaseRestore(BaseModel):
    """The whole resource, as the API server hands it out."""

    model_config = ConfigDict(populate_by_name=True, extra="ignore", frozen=True)

    metadata: Metadata
    spec: ClusterSpec
    status: RestoreStatus = RestoreStatus()

    @property
    def run(self) -> str:
        """The run's key in the ledger of the target."""
        return f"{self.metadata.namespace}/{self.metadata.name}/{self.spec.run_id}"
