"""The API server, as far as the operator needs it: a Protocol of six methods, the real adapter, and the fake that tests share.

Objects are the API's own JSON. `tests/operator/test_kube_contract.py` holds both to the same behaviour.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.exceptions import ApiException

from . import api, schedule_api

Json = dict[str, Any]
TIMEOUT = 30  # seconds of one request
PAGE = 250  # objects of one page of a list: bounds the memory of an answer


@dataclass(frozen=True)
class Kind:
    """A kind of object: where it lives."""

    prefix: str
    plural: str

    def path(self, namespace: str | None, name: str = "", sub: str = "") -> str:
        parts = [self.prefix, *(["namespaces", namespace] if namespace else []), self.plural, name, sub]
        return "/".join(part for part in parts if part)


RESTORES = Kind(f"/apis/{api.API_VERSION}", api.PLURAL)
SCHEDULES = Kind(f"/apis/{api.API_VERSION}", schedule_api.PLURAL)
JOBS = Kind("/apis/batch/v1", "jobs")
PODS = Kind("/api/v1", "pods")
EVENTS = Kind("/api/v1", "events")


class KubeError(Exception):
    """The API server said no, or nothing. `status`: of HTTP; 0 when there was no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} ({status})" if status else message)
        self.status, self.message = status, message


class Conflict(KubeError):
    """409: it is there already, or it is not the object that was meant."""


class Refused(KubeError):
    """400, 403, 422: the API server does not take it, for the reason it gives."""


class KubeApi(Protocol):
    async def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """The object; None when it is not there."""

    async def list(self, kind: Kind, namespace: str | None, *, labels: str = "", fields: str = "") -> list[Json]:
        """Every object that the selectors match. `namespace` None: of all namespaces."""

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        """The object as it is stored. Raises Conflict when the name is taken, Refused when it is not admitted."""

    async def patch(self, kind: Kind, namespace: str, name: str, body: Json, *, sub: str = "") -> Json | None:
        """The object after a merge patch; None when it is not there. Raises Conflict when the body says a
        `metadata.resourceVersion` that is not the object's any more."""

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Deletes the object of that UID, its dependants first. One that is not there is no error."""

    async def log(self, namespace: str, pod: str, lines: int) -> str:
        """The last lines of a pod's log; "" when it cannot be read."""


class RealKube:
    """The adapter: `async with RealKube.connect() as kube`."""

    def __init__(self, transport: ApiClient) -> None:
        self._transport = transport
        self._host = transport.configuration.host

    @classmethod
    async def connect(cls) -> RealKube:
        """With the pod's service account, else with KUBECONFIG. Raises KubeError when there is neither."""
        settings = client.Configuration()
        try:
            if (named := os.environ.get("KUBECONFIG")) or not os.environ.get("KUBERNETES_SERVICE_HOST"):
                place = named or str(Path.home() / ".kube" / "config")
                await config.load_kube_config(config_file=place, client_configuration=settings)
            else:
                config.load_incluster_config(client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise KubeError(0, f"no cluster is configured: {error}; set KUBECONFIG") from None
        settings.connection_pool_maxsize = 32
        return cls(ApiClient(configuration=settings))

    async def __aenter__(self) -> RealKube:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        return await self._found("GET", kind.path(namespace, name))

    async def list(self, kind: Kind, namespace: str | None, *, labels: str = "", fields: str = "") -> list[Json]:
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE)}
        items: list[Json] = []
        while True:
            words = urlencode({k: v for k, v in query.items() if v})
            page = json.loads(await self._ask("GET", f"{kind.path(namespace)}?{words}"))
            items += page.get("items") or []
            if not (more := page["metadata"].get("continue")):
                return items
            query["continue"] = more

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        # Strict: an unknown kind of volume would become an empty one in silence.
        made: Json = json.loads(await self._ask("POST", f"{kind.path(namespace)}?fieldValidation=Strict", body))
        return made

    async def patch(self, kind: Kind, namespace: str, name: str, body: Json, *, sub: str = "") -> Json | None:
        return await self._found("PATCH", kind.path(namespace, name, sub), body, "application/merge-patch+json")

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        try:
            await self._found("DELETE", kind.path(namespace, name), options)
        except Conflict:
            pass  # another object has taken its name: the one that was meant is gone

    async def log(self, namespace: str, pod: str, lines: int) -> str:
        try:
            return await self._ask("GET", f"{PODS.path(namespace, pod, 'log')}?tailLines={lines}&limitBytes=262144")
        except KubeError:
            return ""

    async def _found(self, method: str, path: str, body: Json | None = None, content: str = "") -> Json | None:
        try:
            answer: Json = json.loads(await self._ask(method, path, body, content))
            return answer
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    async def _ask(self, method: str, path: str, body: Json | None = None, content: str = "") -> str:
        headers = {"Accept": "application/json", "Content-Type": content or "application/json"}
        await self._transport.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        try:
            answer = await self._transport.call_api(method, self._host + path, headers, body, _request_timeout=TIMEOUT)
            data: bytes = await answer.read()
            text = data.decode("utf-8", "replace")
        except ApiException as error:
            raise _said(error.status or 0, str(error.body or error.reason)) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeError(0, f"the API server does not answer: {type(error).__name__}") from None
        if not 200 <= answer.status <= 299:
            raise _said(answer.status, text)
        return text


def _said(status: int, text: str) -> KubeError:
    try:
        message = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        message = text.strip()[:300] or "no reason given"
    kind = Conflict if status == 409 else Refused if status in (400, 403, 422) else KubeError
    return kind(status, message)


class FakeKube:
    """The same in memory. `requests` counts what was asked; `refuse` makes the next request of a method fail."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Json] = {}
        self.requests: list[tuple[str, str]] = []
        self.refuse: dict[str, KubeError] = {}
        self.logs: dict[tuple[str, str], str] = {}
        self._versions = itertools.count(1)

    def _asked(self, method: str, kind: Kind) -> None:
        self.requests.append((method, kind.plural))
        if error := self.refuse.pop(method, None):
            raise error

    async def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        self._asked("get", kind)
        return copy.deepcopy(self.objects.get((kind.plural, namespace, name)))

    async def list(self, kind: Kind, namespace: str | None, *, labels: str = "", fields: str = "") -> list[Json]:
        self._asked("list", kind)
        wanted = [pair.split("=", 1) for pair in labels.split(",") if pair]
        where = [pair.split("=", 1) for pair in fields.split(",") if pair]
        return [
            copy.deepcopy(item)
            for (plural, space, _), item in sorted(self.objects.items())
            if plural == kind.plural
            and namespace in (None, space)
            and all(item["metadata"].get("labels", {}).get(key) == value for key, value in wanted)
            and all(_at(item, key) == value for key, value in where)
        ]

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        self._asked("create", kind)
        key = (kind.plural, namespace, body["metadata"]["name"])
        if key in self.objects:
            raise Conflict(409, f'{kind.plural} "{key[2]}" already exists')
        made = copy.deepcopy(body)
        made["metadata"] |= {
            "uid": str(uuid.uuid4()),
            "namespace": namespace,
            "generation": 1,
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return self._store(key, made)

    async def patch(self, kind: Kind, namespace: str, name: str, body: Json, *, sub: str = "") -> Json | None:
        self._asked("patch", kind)
        key = (kind.plural, namespace, name)
        if (found := self.objects.get(key)) is None:
            return None
        known = found["metadata"]["resourceVersion"]
        if body.get("metadata", {}).get("resourceVersion", known) != known:
            raise Conflict(409, f'{kind.plural} "{name}" was modified')
        only = {k: v for k, v in body.items() if (k == "status") == (sub == "status") and k != "metadata"}
        return self._store(key, _merged(found, only))

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        self._asked("delete", kind)
        key = (kind.plural, namespace, name)
        if key in self.objects and self.objects[key]["metadata"]["uid"] == uid:
            del self.objects[key]

    async def log(self, namespace: str, pod: str, lines: int) -> str:
        return "\n".join(self.logs.get((namespace, pod), "").splitlines()[-lines:])

    def _store(self, key: tuple[str, str, str], item: Json) -> Json:
        item["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[key] = item
        return copy.deepcopy(item)


def _at(item: Json, path: str) -> Any:
    value: Any = item
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    made = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), value)
    return made
