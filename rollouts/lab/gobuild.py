"""One program of a Go module that a folder pins, built; nothing is resolved anew."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["GoBuildError", "go_build"]

_SECONDS = 45 * 60
"""A first build also downloads up to 1.7 GB of modules; ten CPU minutes on two cores."""
_SHOWN = 20


class GoBuildError(Exception):
    """The text begins with what was built, and has the compiler's last words."""


def go_build(
    go: str, package: str, product: Path, *, module: Path, flags: str, before: Sequence[str] = ()
) -> None:
    """``package`` as ``product``, linked with ``flags``; ``module`` has the go.mod, ``before`` leads the command.

    Raises GoBuildError, after 45 minutes at the latest.
    """
    command = [*before, go, "build", "-ldflags", flags, "-o", str(product), package]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
    try:
        done = subprocess.run(
            command,
            cwd=module,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise GoBuildError(f"building {package} took more than {_SECONDS // 60} minutes") from None
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-_SHOWN:])
        raise GoBuildError(f"go build {package} failed:\n{tail}")
