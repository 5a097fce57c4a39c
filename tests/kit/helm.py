"""The helm that renders the chart in the tests, built from the Go modules that tools/helm pins.

``python -m tests.kit.helm`` builds it once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rollouts.lab.cache import cache_folder
from rollouts.lab.controlplane.build import one_builder

__all__ = ["CHART", "HelmUnavailable", "build_helm", "built_helm", "render_chart", "template_chart"]

CHART = Path(__file__).resolve().parents[2] / "charts" / "inference-rollouts"
_MODULE = Path(__file__).resolve().parents[2] / "tools" / "helm"
_PACKAGE = "helm.sh/helm/v3/cmd/helm"
_BUILD_SECONDS = 30 * 60


class HelmUnavailable(Exception):
    """No helm, and none can be built; the text says what to do."""


def _target() -> Path:
    try:
        content = b"\0".join((_MODULE / name).read_bytes() for name in ("go.mod", "go.sum"))
    except OSError as error:
        raise HelmUnavailable(
            f"{_MODULE} is not there: helm is built from a checkout of the project"
        ) from error
    return cache_folder() / "helm" / hashlib.sha256(content).hexdigest()[:16] / "helm"


def built_helm() -> Path | None:
    """The pinned helm when it is built, else one on the PATH, else None."""
    try:
        target = _target()
    except HelmUnavailable:
        return None
    if os.access(target, os.X_OK):
        return target
    found = shutil.which("helm")
    return Path(found) if found else None


def build_helm(say: Callable[[str], None] = print) -> Path:
    """Build helm unless there is one; answers its path. About three minutes, once, whoever else asks meanwhile.

    Raises HelmUnavailable.
    """
    found = built_helm()
    if found is not None:
        return found
    go = shutil.which("go")
    if go is None:
        raise HelmUnavailable("neither helm nor Go is on the PATH: install one of them")
    target = _target()
    with one_builder(target.parent, say):
        if not os.access(target, os.X_OK):
            say(f"building helm into {target.parent}, about three minutes, once")
            _build(go, target)
    return target


def _build(go: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        product = Path(scratch) / "helm"
        done = subprocess.run(
            [go, "build", "-ldflags", "-s -w", "-o", str(product), _PACKAGE],
            cwd=_MODULE,
            env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
            capture_output=True,
            text=True,
            check=False,
            timeout=_BUILD_SECONDS,
        )
        if done.returncode:
            tail = "\n".join(done.stderr.splitlines()[-20:])
            raise HelmUnavailable(f"go build {_PACKAGE} failed:\n{tail}")
        os.replace(product, target)


def template_chart(
    helm: Path, values: dict[str, Any], *, release: str = "r", namespace: str = "serving"
) -> subprocess.CompletedProcess[str]:
    """``helm template`` of the chart with these values, whatever comes of it."""
    command = [str(helm), "template", release, str(CHART), "--namespace", namespace]
    return subprocess.run(
        [*command, "--kube-version", "1.33.0", "--values", "-"],
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def render_chart(helm: Path, values: dict[str, Any], *, namespace: str = "serving") -> list[dict[str, Any]]:
    """The objects of an installation. Raises HelmUnavailable with helm's own words when it refuses."""
    done = template_chart(helm, values, namespace=namespace)
    if done.returncode:
        raise HelmUnavailable(done.stderr)
    return [item for item in yaml.safe_load_all(done.stdout) if item]


if __name__ == "__main__":
    sys.stdout.write(f"{build_helm()}\n")
