"""Where the tests' kube-apiserver and etcd come from.

In this order: KUBEBUILDER_ASSETS, this project's own cache, `setup-envtest`, a build of the pinned Kubernetes module with
`go` into the cache (minutes, once: `make kube` does it, for a test has no such time). What is missing is said; under CI it is an
error, elsewhere the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

KUBERNETES = "1.34.4"
ETCD = "v3.6.4"
NAMES = ("kube-apiserver", "etcd")


class Missing(Exception):
    """No binaries, and no way to make them; the message says what would help."""


def folder(*, build: bool = False) -> Path:
    """The folder that holds `kube-apiserver` and `etcd`; built when that is needed and `build` allows it. Raises Missing."""
    if named := os.environ.get("KUBEBUILDER_ASSETS"):
        if not _complete(Path(named)):
            raise Missing(f"KUBEBUILDER_ASSETS={named} does not hold {' and '.join(NAMES)}")
        return Path(named)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = home / "database-restore-operator" / f"kubernetes-{KUBERNETES}"
    if _complete(cache):
        return cache
    if shutil.which("setup-envtest"):
        minor = KUBERNETES.rpartition(".")[0]
        found = _run(["setup-envtest", "use", f"{minor}.x", "-p", "path"], Path.cwd()).strip()
        return Path(found)
    if build and shutil.which("go"):
        _build(cache)
        return cache
    raise Missing(
        "there is no kube-apiserver to test against: set KUBEBUILDER_ASSETS, or install setup-envtest, or run `make kube` with "
        "Go 1.24 or newer"
    )


def _complete(where: Path) -> bool:
    return all(os.access(where / name, os.X_OK) for name in NAMES)


def _build(cache: Path) -> None:
    """Builds both into the cache: minutes, once. A module of our own takes the staging modules by their versions, as
    k8s.io/kubernetes itself replaces them by folders that its module does not hold."""
    cache.mkdir(parents=True, exist_ok=True)
    packages = {
        "kube-apiserver": ("k8s.io/kubernetes/cmd/kube-apiserver", f"k8s.io/kubernetes@v{KUBERNETES}"),
        "etcd": ("go.etcd.io/etcd/server/v3", f"go.etcd.io/etcd/server/v3@{ETCD}"),
    }
    for name, (package, module) in packages.items():
        with tempfile.TemporaryDirectory(prefix="kube-build-") as place:
            here = Path(place)
            _run(["go", "mod", "init", "built.for/tests"], here)
            if name == "kube-apiserver":
                own = _run(["go", "mod", "download", "-json", module], here)
                mod = Path(own.partition('"GoMod": "')[2].partition('"')[0]).read_text(encoding="utf-8")
                staging = [line.split()[0] for line in mod.splitlines() if "=> ./staging/" in line]
                staging = [word for word in staging if word != "replace"]
                for each in staging:
                    _run(["go", "mod", "edit", f"-replace={each}={each}@v0.{KUBERNETES.partition('.')[2]}"], here)
            _run(["go", "get", module], here)
            _run(["go", "build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", str(cache / name), package], here)


def _run(command: list[str], where: Path) -> str:
    end = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=1800)
    if end.returncode:
        raise Missing(f"{' '.join(command)} failed: {end.stderr.strip()[-500:]}")
    return end.stdout


if __name__ == "__main__":
    try:
        print(folder(build=True))
    except Missing as error:
        print(f"kube: {error}", file=sys.stderr)
        sys.exit(1 if os.environ.get("CI") else 0)
