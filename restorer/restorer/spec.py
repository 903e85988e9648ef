"""What a person asks: the spec of a DatabaseRestore, for the command line and for the cluster alike.

pydantic models; the operator builds its CRD from them. JSON names are camelCase, as in a manifest. Fields that only a
cluster acts on (`jobTemplate`, deadlines, `suspend`, `cancel`) are here too, so that the very manifest that
`kubectl apply` takes also runs with `restorer run -f`.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

_QUANTITY = re.compile(r"(\d+)(Ki|Mi|Gi|k|M|G)?")
_UNITS = {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "k": 10**3, "M": 10**6, "G": 10**9}

Name = Annotated[str, Field(min_length=1, max_length=253)]
Identifier = Annotated[str, Field(min_length=1, max_length=63)]  # NAMEDATALEN - 1
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]
Sql = Annotated[str, Field(min_length=1, max_length=16_384)]


def parse_quantity(value: Any) -> Any:
    """A Kubernetes quantity of bytes (`8Mi`, `500k`, 1048576) -> int. What is neither a string nor a number is left for pydantic
    to refuse."""
    if not isinstance(value, str):
        return value
    if match := _QUANTITY.fullmatch(value.strip()):
        return int(match[1]) * _UNITS[match[2]]
    raise ValueError("is neither a number of bytes nor a quantity such as 16Mi")


def _below_root(value: str) -> str:
    if value.startswith("/") or ".." in PurePosixPath(value).parts:
        raise ValueError("must be a path below the volume's root: not absolute, no '..'")
    return value


class Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class ClaimSource(Model):
    claim_name: Name
    read_only: bool = True


class Snapshot(Model):
    """Which snapshot folder below `path`. `time`: RFC 3339, for AtOrBefore. `completeMarker`: a file that must exist in it."""

    policy: Literal["Latest", "Exact", "AtOrBefore"] = "Latest"
    name: Annotated[str, Field(max_length=253), AfterValidator(_below_root)] | None = None
    time: Annotated[str, Field(max_length=64)] | None = None
    complete_marker: Annotated[str, Field(max_length=253), AfterValidator(_below_root)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Snapshot:
        if self.policy == "Exact" and not self.name:
            raise ValueError("snapshot.name is needed with policy Exact")
        if self.policy == "AtOrBefore" and not self.time:
            raise ValueError("snapshot.time is needed with policy AtOrBefore")
        return self


class Source(Model):
    persistent_volume_claim: ClaimSource | None = None
    volume: dict[str, Any] | None = None
    path: Annotated[str, Field(max_length=1024), AfterValidator(_below_root)] = ""
    snapshot: Snapshot = Snapshot()
    format: Literal["Auto", "JSON", "NDJSON"] = "Auto"


class CredentialsRef(Model):
    name: Name
    username_key: Name = "username"
    password_key: Name = "password"


class SecretKeyRef(Model):
    name: Name
    key: Name = "ca.crt"


class Tls(Model):
    """As libpq's sslmode: Disable, Prefer, Require, VerifyCA (verify-ca), VerifyFull (verify-full)."""

    mode: Literal["Disable", "Prefer", "Require", "VerifyCA", "VerifyFull"] = "Prefer"
    ca_secret_ref: SecretKeyRef | None = None

    @property
    def sslmode(self) -> str:
        return {"VerifyCA": "verify-ca", "VerifyFull": "verify-full"}.get(self.mode, self.mode.lower())


class Target(Model):
    host: Name | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    database: Identifier | None = None
    schema_: Annotated[Identifier, Field(alias="schema")] = "public"
    credentials_secret_ref: CredentialsRef | None = None
    tls: Tls = Tls()


class Mapping(Model):
    """One file -> one table; `columns`: JSON key -> column name."""

    file: Name
    table: Identifier | None = None
    columns: dict[str, Identifier] = {}


class Tables(Model):
    """Globs on table names; `exclude` wins."""

    include: Annotated[list[Name], Field(max_length=256)] = ["*"]
    exclude: Annotated[list[Name], Field(max_length=256)] = []
    mappings: Annotated[list[Mapping], Field(max_length=256)] = []


class Load(Model):
    """`batchRows` rows or `batchBytes` bytes, whichever comes first, are one transaction."""

    batch_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    batch_bytes: Annotated[int, Field(ge=65_536, le=1 << 30), BeforeValidator(parse_quantity)] = 3 << 20
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    pods: Annotated[int, Field(ge=1, le=64)] = 1


class Rejects(Model):
    """How many records may be rejected before the restore fails; 1 % of those read when neither is given."""

    limit_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    limit: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Rejects:
        if self.limit is not None and self.limit_percent is not None:
            raise ValueError("give rejects.limit or rejects.limitPercent, not both")
        return self

    @property
    def percent(self) -> int | None:
        return None if self.limit is not None else 1 if self.limit_percent is None else self.limit_percent

    def exceeded(self, rejected: int, read: int, *, final: bool) -> bool:
        """Whether the limit is passed. A percentage counts over what was read; before the end only once 1,000 records
        are read, so that one early bad record does not stop a run."""
        if self.limit is not None:
            return rejected > self.limit
        return rejected * 100 > (self.percent or 0) * read and (final or self.percent == 0 or read >= 1000)


class Ledger(Model):
    schema_: Annotated[Identifier, Field(alias="schema", pattern=r"^[A-Za-z_][A-Za-z0-9_$]*$")] = "dbrestore"
    reject_retention_days: Annotated[int, Field(ge=0, le=3650)] = 30


class Retry(Model):
    """Per batch, on transient database errors: exponential backoff with full jitter."""

    initial_seconds: Seconds = 1
    max_seconds: Seconds = 60
    max_elapsed_seconds: Annotated[int, Field(ge=0, le=86_400)] = 900


class Query(Model):
    """A check after the load: the first column of the first row, as text, must equal `expect`."""

    name: Name
    sql: Sql
    expect: Annotated[str, Field(max_length=1024)]


class Verification(Model):
    row_counts: bool = True
    foreign_keys: bool = True
    sequences: bool = True
    not_null: Annotated[list[Name], Field(max_length=256)] = []
    queries: Annotated[list[Query], Field(max_length=64)] = []


class Hook(Model):
    name: Name
    sql: Sql


class Hooks(Model):
    pre_restore: Annotated[list[Hook], Field(max_length=32)] = []
    post_restore: Annotated[list[Hook], Field(max_length=32)] = []


class RestoreSpec(Model):
    source: Source = Source()
    target: Target = Target()
    tables: Tables = Tables()
    mode: Literal["Apply", "DryRun", "VerifyOnly"] = "Apply"
    cleanup: Literal["None", "Truncate", "Delete", "RequireEmpty"] = "None"
    confirm: Annotated[str, Field(max_length=512)] | None = None
    on_conflict: Literal["Skip", "Update", "Reject"] = "Skip"
    load: Load = Load()
    rejects: Rejects = Rejects()
    ledger: Ledger = Ledger()
    retry: Retry = Retry()
    resume_policy: Literal["Resume", "Restart"] = "Resume"
    verification: Verification = Verification()
    hooks: Hooks = Hooks()
    active_deadline_seconds: Seconds | None = None
    stall_timeout_seconds: Seconds = 300
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    job_template: dict[str, Any] = {}
    suspend: bool = False
    cancel: bool = False
    run_id: Annotated[str, Field(alias="runID", min_length=1, max_length=63)] = "1"

    def resolved(self) -> dict[str, Any]:
        """The spec with every default in it, in JSON's types and names."""
        return self.model_dump(mode="json", by_alias=True)

    def digest(self) -> str:
        """`sha256:…` over what decides which rows a run leaves behind. How fast it goes, what limits it and how it is
        watched (load, retry, deadlines, suspend…) may change between two attempts at the same run."""
        text = json.dumps(_decisive(self.resolved()), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _decisive(spec: dict[str, Any]) -> dict[str, Any]:
    chosen = {key: spec[key] for key in ("tables", "mode", "cleanup", "onConflict", "hooks")}
    return chosen | {"source.format": spec["source"]["format"], "target.schema": spec["target"]["schema"]}


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The decisive fields in which two resolved specs differ."""
    before, after = _decisive(old), _decisive(new)
    return [f"spec.{key}" for key in before if before[key] != after[key]]


class ObjectMeta(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str = "restore"
    namespace: str = "default"


class Manifest(BaseModel):
    """A DatabaseRestore as `kubectl apply` takes it; `status` and unknown metadata are passed over."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    api_version: Annotated[Literal["dbrestore.io/v1alpha1"], Field(alias="apiVersion")]
    kind: Literal["DatabaseRestore"]
    metadata: ObjectMeta
    spec: RestoreSpec
