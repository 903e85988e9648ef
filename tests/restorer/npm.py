"""Packages by npm's own client, as they are: nothing of theirs is run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def pack(package: str, folder: Path, seconds: float) -> Path:
    """Fetches the package's archive into `folder`, which is empty. Raises OSError or subprocess.SubprocessError where there is no npm,
    or it reaches nothing."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    command = [npm, "pack", "--silent", "--ignore-scripts", "--fetch-retries=1", package]
    subprocess.run(command, cwd=folder, check=True, timeout=seconds, capture_output=True)
    (archive,) = folder.iterdir()
    return archive
