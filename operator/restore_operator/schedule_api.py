"""The resource: DatabaseRestoreSchedule of `dbrestore.io/v1alpha1`, as pydantic models around a DatabaseRestore's own spec.

Named and meant as in a CronJob, where it has the same field. `schedule_crd.py` makes the CustomResourceDefinition of these models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from restorer.spec import Model, Seconds

from .api import ClusterSpec, Condition, Metadata, StatusModel, Words

KIND = "DatabaseRestoreSchedule"
PLURAL = "databaserestoreschedules"
SHORT = "dbrs"

PER_RUN = ("runID", "suspend", "cancel")  # of a restore's spec: not in a template, each run has its own
Limit = Annotated[int, Field(ge=0, le=100)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class TemplateMetadata(Model):
    labels: Words = {}
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=64)] = {}


class RestoreTemplate(Model):
    metadata: TemplateMetadata = TemplateMetadata()
    spec: ClusterSpec


class ScheduleSpec(Model):
    schedule: Annotated[str, Field(max_length=256)]
    time_zone: Annotated[str, Field(max_length=64)] = "UTC"
    suspend: bool = False
    concurrency_policy: Literal["Forbid", "Replace"] = "Forbid"
    starting_deadline_seconds: Seconds | None = None
    successful_restores_history_limit: Limit = 3
    failed_restores_history_limit: Limit = 1
    template: RestoreTemplate


class ActiveRef(StatusModel):
    name: str
    uid: str


class ScheduleStatus(StatusModel):
    """What the operator says of a schedule. Times are RFC 3339 in UTC."""

    observed_generation: int = -1
    active: Annotated[list[ActiveRef], Field(max_length=16)] = []
    last_schedule_time: Time | None = None
    last_successful_time: Time | None = None
    last_missed_time: Time | None = None
    next_schedule_time: Time | None = None
    conditions: Annotated[list[Condition], Field(max_length=16)] = []

    def as_json(self) -> dict[str, Any]:
        """As the API server stores it: without what says nothing."""
        made: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {key: value for key, value in made.items() if value != []}


class DatabaseRestoreSchedule(BaseModel):
    """The whole resource, as the API server hands it out."""

    model_config = ConfigDict(populate_by_name=True, extra="ignore", frozen=True)

    metadata: Metadata
    spec: ScheduleSpec
    status: ScheduleStatus = ScheduleStatus()
