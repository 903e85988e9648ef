"""A TCP proxy in front of a PostgreSQL that counts round trips: how often a client speaks again after the server has spoken."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo


class CountingProxy:
    """`dsn`: the same database through the proxy."""

    def __init__(self, dsn: str) -> None:
        with psycopg.connect(dsn) as conn:
            self._host, self._port = conn.info.host, conn.info.port
        self.trips = 0
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.dsn = make_conninfo(dsn, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")
        threading.Thread(target=self._accept, daemon=True).start()

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        return server

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server, answered = self._connect(), threading.Event()
                threading.Thread(target=self._ask, args=(client, server, answered), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client, answered), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, answered: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if answered.is_set():
                    answered.clear()
                    with self._lock:
                        self.trips += 1
                server.sendall(data)
        server.close()

    def _answer(self, server: socket.socket, client: socket.socket, answered: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                answered.set()
                client.sendall(data)
        client.close()

    def __enter__(self) -> CountingProxy:
        return self

    def __exit__(self, *_: Any) -> None:
        self._listening.close()
