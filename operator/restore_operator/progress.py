"""How far a running pod is: GET http://podIP:9090/progress, bounded in time and size; where the network forbids that and the
setting allows it, the last line of its log that tells progress."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import aiohttp
import msgspec
from restorer.watch.figures import Snapshot

from .job import PORT
from .kube import KubeApi
from .observed import Pod

TIMEOUT = 2.0  # seconds, of the whole question
LARGEST = 4 << 20  # bytes of an answer: thousands of tables
LINES = 50


class ProgressReader:
    """Asks pods. One session for all of them; `async with` closes it."""

    def __init__(self, kube: KubeApi, *, from_logs: bool = False, port: int = PORT) -> None:
        self._kube, self._from_logs, self._port = kube, from_logs, port
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ProgressReader:
        # No proxy of the environment: pods are asked directly.
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT), trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def read(self, namespace: str, pods: Sequence[Pod]) -> Snapshot | None:
        """Of the pods that run, the one that is furthest (each of several tells of the whole run). None when none answers."""
        running = [pod for pod in pods if pod.running and pod.ip]
        told = [s for s in await asyncio.gather(*(self._ask(pod) for pod in running[:4])) if s is not None]
        if not told and self._from_logs:
            logs = [await self._kube.log(namespace, pod.name, LINES) for pod in running[:1]]
            told = [s for s in map(last_figures, logs) if s is not None]
        return max(told, key=lambda s: (s.last_update_time, s.records_read), default=None)

    async def _ask(self, pod: Pod) -> Snapshot | None:
        assert self._session is not None
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        try:
            async with self._session.get(f"http://{host}:{self._port}/progress", allow_redirects=False) as answer:
                if answer.status != 200:
                    return None
                body = bytearray()
                async for chunk in answer.content.iter_chunked(1 << 16):
                    body += chunk
                    if len(body) > LARGEST:
                        return None
            return msgspec.json.decode(bytes(body), type=Snapshot)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
            return None


def last_figures(log: str) -> Snapshot | None:
    """The latest figures in a log of JSON lines (`restorer run --json`)."""
    for line in reversed(log.splitlines()):
        try:
            told = json.loads(line)
            if isinstance(told, dict) and "percent" in told:
                return _of_line(told)
        except ValueError:
            continue
    return None


def _of_line(told: dict[str, object]) -> Snapshot | None:
    """A log line has some of the figures; what it leaves out counts as nothing. It is written while the run loads."""
    empty: dict[str, object] = {}
    for each in msgspec.structs.fields(Snapshot):
        kind = each.type
        empty[each.encode_name] = "" if kind is str else 0 if kind is int else False if kind is bool else None
    at = str(told.get("ts", ""))[:19]  # to the second
    empty |= {"fallback": [], "rejectsByReason": {}, "tables": []}
    empty |= {"phase": "Loading", "lastUpdateTime": f"{at}Z" if at else ""}
    try:
        return msgspec.convert(empty | {k: v for k, v in told.items() if k in empty}, type=Snapshot)
    except msgspec.ValidationError:
        return None
