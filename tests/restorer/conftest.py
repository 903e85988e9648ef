import pytest
from fix_cli import cli
from fix_disorder import disorder
from fix_people import backup, people
from fix_restore import at
from fix_target import good, own, target
from restorer.source import whole

__all__ = ["at", "backup", "cli", "disorder", "good", "own", "parts", "people", "target"]


@pytest.fixture(params=[whole._PART, 24], ids=["", "parted"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows with a bad record, and some that follow, are decoded in parts: as large as they are, and of a record or two."""
    monkeypatch.setattr(whole, "_PART", request.param)
