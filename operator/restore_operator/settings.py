"""The operator's settings, from the environment. Each is `RESTORE_OPERATOR_` and the field's name in capitals."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PREFIX = "RESTORE_OPERATOR_"


class BadSetting(Exception):
    """A variable that cannot be read; the message names it and says what would be right."""


def _doc(default: Any, doc: str, *, least: int = 0, most: int | None = None) -> Any:
    return field(default=default, metadata={"doc": doc, "least": least, "most": most})


@dataclass(frozen=True)
class Settings:
    restorer_image: str = _doc("database-restore-operator:0.1.0", "Image of the restore pods.")
    restorer_image_pull_policy: str = _doc("IfNotPresent", "Always, IfNotPresent or Never.")
    cpu_request: str = _doc("250m", "CPU that a restore pod asks for, where jobTemplate.resources says nothing.")
    memory_request: str = _doc("256Mi", "Memory that a restore pod asks for.")
    memory_limit: str = _doc("1Gi", "Memory that a restore pod may use.")
    spool_limit: str = _doc("1Gi", "Size of the pod's /tmp.")
    job_ttl_seconds: int = _doc(86_400, "A finished Job is removed after so many seconds, once its verdict is stored.")
    scrape_annotations: bool = _doc(False, "Restore pods carry prometheus.io/scrape, port and path.")
    progress_seconds: int = _doc(5, "Seconds between two looks at a running restore.", least=1)
    progress_from_logs: bool = _doc(False, "Read progress from the pod's log where its port cannot be reached.")
    resync_seconds: int = _doc(
        300, "Every unfinished restore is looked at after so many seconds, up to twice that.", least=10
    )
    concurrency: int = _doc(8, "Restores that are looked at side by side.", least=1)
    port: int = _doc(8080, "Port of /metrics, /healthz and /readyz.", least=1, most=65_535)
    log_level: str = _doc("INFO", "DEBUG, INFO, WARNING or ERROR.")
    log_format: str = _doc("json", "json or text.")

    @staticmethod
    def of(environment: Mapping[str, str] = os.environ) -> Settings:
        """The settings that the variables say. Raises BadSetting."""
        given: dict[str, Any] = {}
        for each in dataclasses.fields(Settings):
            name = PREFIX + each.name.upper()
            if (text := environment.get(name, "")) != "":
                given[each.name] = _read(name, text, each)
        for name, words in _WORDS.items():
            if given.get(name, words[0]) not in words:
                raise BadSetting(f"{PREFIX}{name.upper()} is {given[name]!r}: must be one of {', '.join(words)}")
        return Settings(**given)


_WORDS = {
    "restorer_image_pull_policy": ("IfNotPresent", "Always", "Never"),
    "log_level": ("INFO", "DEBUG", "WARNING", "ERROR"),
    "log_format": ("json", "text"),
}


def _read(name: str, text: str, setting: dataclasses.Field[Any]) -> Any:
    if isinstance(setting.default, bool):
        if text.lower() not in ("true", "false"):
            raise BadSetting(f"{name} is {text!r}: must be true or false")
        return text.lower() == "true"
    if isinstance(setting.default, int):
        least, most = setting.metadata["least"], setting.metadata["most"]
        if not text.isdecimal() or int(text) < least:
            raise BadSetting(f"{name} is {text!r}: must be a whole number, {least} at least")
        if most is not None and int(text) > most:
            raise BadSetting(f"{name} is {text!r}: must be a whole number, {most} at most")
        return int(text)
    return text
