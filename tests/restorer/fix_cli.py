"""The command's own entry, called in this process, and what every refusal must be like."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Ended
from restorer.cli.main import main

SECRET = "the-value-of-a-record"  # in every bad record; must never be shown
PASSWORD = "hunter2"  # in every password
Cli = Callable[..., Ended]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command's entry, in this process."""
    for name in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSERVICE", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)

    def call(*args: object) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["restorer", *map(str, args)])
        began = time.monotonic()
        code = main()
        said = capsys.readouterr()
        return Ended(code, said.out, said.err, time.monotonic() - began)

    return call


def plain(end: Ended) -> list[str]:
    """The lines that are for people; the others must be the JSON log."""
    return [line for line in end.lines if not line.startswith("{") or not json.loads(line)]


def check_refused(end: Ended, code: int, words: tuple[str, ...], report: Path | None = None, lines: int = 1) -> None:
    """One line that says all `words`, the exit code, a report that says the same; no traceback, value or password."""
    said = plain(end)
    assert len(said) == lines, end.err
    assert all(line.startswith("restorer: ") for line in said)
    for word in words:
        assert any(word in line for line in said), f"{word!r} is not in {said}"
    assert end.code == code, end.err
    for text in (end.out, end.err, report.read_text() if report else ""):
        assert "Traceback" not in text
        assert SECRET not in text
        assert PASSWORD not in text
    if report is not None:
        told = json.loads(report.read_text())
        assert told["outcome"] == "Failed"
        assert told["reason"]
        assert told["message"]
        assert set(told["totals"]) >= {"read", "inserted", "updated", "duplicate", "conflict", "rejected"}
