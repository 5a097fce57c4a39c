"""Builds the Go pickers from the modules that the folders beside this file pin, once, into the cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rollouts.lab.cache import cache_folder
from rollouts.lab.gobuild import GoBuildError, go_build

__all__ = ["PICKERS", "GoPicker", "GoPickerError", "build", "built"]

_HERE = Path(__file__).resolve().parent
_MODULE = "sigs.k8s.io/gateway-api-inference-extension"


class GoPickerError(Exception):
    """A Go picker cannot be built or run here; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoPicker:
    """One program. ``name`` is also the folder of its go.mod; ``note`` helps to read its results."""

    name: str
    version: str
    note: str

    @property
    def module(self) -> Path:
        """The folder of the go.mod that pins it."""
        return _HERE / self.name

    @property
    def package(self) -> str:
        """What ``go build`` is given."""
        return f"{_MODULE}/cmd/{self.name}"

    @property
    def target(self) -> Path:
        """Where the binary is, built or not: one folder per go.mod and go.sum."""
        content = b"\0".join((self.module / file).read_bytes() for file in ("go.mod", "go.sum"))
        digest = hashlib.sha256(content).hexdigest()[:16]
        return cache_folder() / "gopickers" / digest / self.name


PICKERS = (
    GoPicker(
        name="lwepp",
        version="v1.6.0",
        note="It takes turns among the pods and reads no model, so the 400s are not its business; and it answers "
        "chunks of a body with an empty reply (kubernetes-sigs/gateway-api-inference-extension#3035), which is "
        "behind most of the rest.",
    ),
    GoPicker(
        name="epp",
        version="v1.5.0",
        note="It parses each body, draws the model at random by weight, and writes the JSON anew.",
    ),
)


def built(picker: GoPicker) -> Path | None:
    """The binary of the pinned version, None when it is not built."""
    return picker.target if os.access(picker.target, os.X_OK) else None


def build(picker: GoPicker, say: Callable[[str], None] = print) -> Path:
    """Build the picker unless it is there; answers its path. Minutes, at the lowest priority, once.

    Raises GoPickerError when there is no Go, or it cannot build this.
    """
    if found := built(picker):
        return found
    go = shutil.which("go")
    if go is None:
        raise GoPickerError(f"{picker.name} is built with Go, which is not on the PATH (https://go.dev/dl/)")
    folder = picker.target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "build.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # dies with its holder
        if found := built(picker):
            return found
        say(f"building {picker.name} {picker.version} into {folder}: 3 to 5 minutes on two cores, once")
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            product = Path(scratch) / picker.name
            _compile(go, picker, product)
            os.replace(product, picker.target)
    say(f"built {picker.name} {picker.version} in {time.monotonic() - begin:.0f} s")
    return picker.target


def _compile(go: str, picker: GoPicker, product: Path) -> None:
    nice = shutil.which("nice")
    before = [nice, "-n", "19"] if nice else []
    try:
        go_build(go, picker.package, product, module=picker.module, flags="-s -w", before=before)
    except GoBuildError as error:
        raise GoPickerError(f"{error}\nIs the Go of {picker.name}'s go.mod installed?") from None
