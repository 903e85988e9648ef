"""A real Prometheus as a process (Debian's package `prometheus`), and what a test asks of it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from programs import program

Json = dict[str, Any]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


class Prometheus:
    """`with Prometheus(folder, config) as prometheus`. `config` is prometheus.yml."""

    def __init__(self, folder: Path, config: Json) -> None:
        self._binary, self._folder, self._port = program("prometheus"), folder, free_port()
        self._config = folder / "prometheus.yml"
        self._config.write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        words = [
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen([self._binary, *words], stdout=log, stderr=log, cwd=self._folder)
        try:
            self.until("Prometheus is ready", self._ready, 30)
        except AssertionError as error:
            self.__exit__(None, None, None)
            raise AssertionError(f"{error}\n{(self._folder / 'log').read_text()}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "it ended at once"
        try:
            self._get("/-/ready")
            return True
        except OSError:
            return False

    def _get(self, path: str, **words: object) -> bytes:
        url = f"http://127.0.0.1:{self._port}{path}?{urllib.parse.urlencode(words)}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=10) as answer:
            body: bytes = answer.read()
        return body

    def ask(self, path: str, **words: object) -> Any:
        """`data` of an answer of the HTTP API. A query that it refuses is an AssertionError with its words."""
        try:
            return json.loads(self._get(f"/api/v1/{path}", **words))["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{words}: {error.read().decode()}") from None

    def query(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Now: labels and value of each series."""
        found = self.ask("query", query=query)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def number(self, query: str) -> float | None:
        """The one value; None when there is none."""
        found = self.query(query)
        assert len(found) < 2, found
        return found[0][1] if found else None

    def over(self, query: str, since: float) -> list[Json]:
        """The series of the query from `since` (Unix seconds) until now, every half second."""
        found: list[Json] = self.ask("query_range", query=query, start=since, end=time.time(), step=0.5)["result"]
        return found

    @staticmethod
    def until(what: str, happened: Callable[[], Any], seconds: float = 20) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := happened()):
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
            time.sleep(0.1)
        return found
