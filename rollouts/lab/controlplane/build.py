"""Building the control plane's programs from the Go modules that tools/controlplane pins."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from rollouts.lab.cache import cache_folder
from rollouts.lab.controlplane.errors import ControlPlaneError
from rollouts.lab.gobuild import GoBuildError, go_build

__all__ = ["API_SERVER", "CONTROLLERS", "binaries_directory", "build", "built_binaries", "one_builder"]

API_SERVER = ("kube-apiserver", "etcd")
"""The programs that store and serve objects."""
CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
"""The programs that act on them."""
_PACKAGES = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
}
_MODULE = Path(__file__).resolve().parents[3] / "tools" / "controlplane"
_VERSION_PACKAGE = "k8s.io/component-base/version"


def _module_files() -> tuple[Path, Path]:
    files = (_MODULE / "go.mod", _MODULE / "go.sum")
    if not all(file.is_file() for file in files):
        raise ControlPlaneError(
            f"{_MODULE} is not there: kube-apiserver is built from a checkout of the project. "
            "Use the in-memory API server (--control-plane memory), or set KUBEBUILDER_ASSETS"
        )
    return files


def binaries_directory() -> Path:
    """Where the binaries of the pinned versions are, built or not: one folder per go.mod and go.sum."""
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in _module_files())).hexdigest()[:16]
    return cache_folder() / "controlplane" / digest


def built_binaries(programs: Collection[str] = API_SERVER) -> Path | None:
    """The folder with these programs; None when one is not built (or this is no checkout)."""
    try:
        folder = binaries_directory()
    except ControlPlaneError:
        return None
    return folder if all(os.access(folder / name, os.X_OK) for name in programs) else None


def _find(pattern: str, text: str, what: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if not found:
        raise ControlPlaneError(f"{_MODULE / 'go.mod'} does not name {what}")
    return found.group(1)


def _check_go(go_mod: str) -> str:
    """Path of a Go that can build this. Raises ControlPlaneError."""
    wanted = _find(r"^go (\d+\.\d+)", go_mod, "a Go version")
    go = shutil.which("go")
    advice = (
        f"install Go {wanted} or newer (https://go.dev/dl/), or set KUBEBUILDER_ASSETS to a folder with "
        "kube-apiserver and etcd, or use the in-memory API server"
    )
    if not go:
        raise ControlPlaneError(f"Go is not on the PATH: {advice}")
    answer = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, timeout=60)
    found = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    if not found or (int(found.group(1)), int(found.group(2))) < tuple(map(int, wanted.split("."))):
        raise ControlPlaneError(f"{answer.stdout.strip() or 'this Go'} is too old: {advice}")
    return go


@contextmanager
def one_builder(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """One builder at a time, across processes; the lock dies with its holder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "build.lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build is running: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_one(go: str, package: str, target: Path, linker_flags: str) -> None:
    try:
        go_build(go, package, target, module=_MODULE, flags=linker_flags)
    except GoBuildError as error:
        raise ControlPlaneError(str(error)) from None


def build(
    say: Callable[[str], None] = print, programs: Collection[str] = (*API_SERVER, *CONTROLLERS)
) -> Path:
    """Build what is missing; answers the folder. ``say`` gets progress lines. Raises ControlPlaneError."""
    go_mod = _module_files()[0].read_text(encoding="utf-8")
    folder = binaries_directory()
    if built_binaries(programs):
        say(f"{', '.join(programs)} are built: {folder}")
        return folder
    go = _check_go(go_mod)
    version = _find(r"k8s\.io/kubernetes (v\d+\.\d+\.\d+)", go_mod, "k8s.io/kubernetes")
    major, minor, _ = version[1:].split(".")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s -w", *(f"-X {_VERSION_PACKAGE}.{key}={value}" for key, value in values.items())])
    with one_builder(folder, say):
        for name in programs:
            if os.access(folder / name, os.X_OK):
                continue
            say(f"building {name} of {version} into {folder}; kube-apiserver takes about 7 minutes, once")
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                _build_one(go, _PACKAGES[name], Path(scratch) / name, flags)
                os.replace(Path(scratch) / name, folder / name)
    say(f"built: {folder}")
    return folder
