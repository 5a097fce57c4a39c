"""K3s in a container, where Docker runs (testcontainers is a development dependency)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

from rollouts.lab.controlplane.errors import ControlPlaneError

__all__ = ["K3sControlPlane", "docker_runs"]

_IMAGE = "rancher/k3s:v1.33.4-k3s1"


def docker_runs() -> bool:
    """Whether a Docker daemon answers."""
    docker = shutil.which("docker")
    if not docker:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        return subprocess.run([docker, "info"], capture_output=True, check=False, timeout=10).returncode == 0
    return False


class K3sControlPlane:
    """A K3s server; it has controllers and garbage collection, which the built one has not."""

    def __init__(self, directory: Path) -> None:
        self.kubeconfig = directory / "kubeconfig"
        self._container: Any = None

    async def start(self) -> None:
        """Pull, start, write the kubeconfig. Raises ControlPlaneError."""
        try:
            module = import_module("testcontainers.k3s")
            self._container = module.K3SContainer(_IMAGE)
            await asyncio.to_thread(self._container.start)
            text = await asyncio.to_thread(self._container.config_yaml)
        except Exception as error:  # the library raises whatever Docker's client does
            raise ControlPlaneError(f"K3s did not start: {error}") from error
        descriptor = os.open(self.kubeconfig, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)

    async def stop(self) -> None:
        """Remove the container."""
        if self._container is not None:
            await asyncio.to_thread(self._container.stop)
