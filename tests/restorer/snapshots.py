"""A small snapshot folder for tests of what is read from one."""

from __future__ import annotations

import json
from pathlib import Path

ROWS = [{"id": 1, "a": "x"}, {"id": 2, "a": "y"}]
GOOD = json.dumps(ROWS).encode()


def snapshot(root: Path, name: str, **files: bytes) -> Path:
    """A folder `name` with these files (table users, when none is given; `.json` where the name has no suffix). -> the folder"""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in (files or {"users": GOOD}).items():
        (folder / (file if "." in file else file + ".json")).write_bytes(data)
    return folder
