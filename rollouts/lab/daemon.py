"""The process behind ``rollouts lab up``: runs a lab until SIGTERM and says in ``lab.json`` where it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.controlplane import Choice
from rollouts.lab.environment import Lab, base_model_pods, deployments, gpu_node, read_objects
from rollouts.lab.gateway.likeness import GatewayLike

__all__ = ["main"]


_STABLE, _CANARY = "vllm-qwen", "vllm-deepseek-r1"
_POD_SECONDS = 60.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSettings:
    """What ``rollouts lab up`` was asked for. With ``gpus`` Pods come from Deployments, and one GPU is spare."""

    directory: Path
    choice: Choice
    like: GatewayLike = GatewayLike.STANDARD
    pickers: bool = True
    prometheus: bool = False
    gpus: int = 0
    pod_startup: float = 0.0


async def _run(settings: LabSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    made = Lab(
        settings.directory,
        choice=settings.choice,
        pods=() if settings.gpus else base_model_pods(),
        pickers=settings.pickers,
        prometheus=settings.prometheus,
        gateway_like=settings.like,
        nodes=gpu_node(settings.gpus) if settings.gpus else None,
        pod_startup=settings.pod_startup,
    )
    async with made as lab:
        await _set_the_stage(lab, settings)
        state = {
            "pid": os.getpid(),
            "controlPlane": lab.control_plane.description,
            "kubeconfig": str(lab.kubeconfig),
            "gateway": await lab.gateway.wait_for_gateway(),
            "metrics": f"{lab.metrics_url}/metrics",
            "sources": {
                "pods": "built in",
                "picker": "built in",
                **({} if lab.prometheus is None else {"default": lab.prometheus.url}),
            },
            "pickers": lab.pickers.metrics_urls if settings.pickers else {},
            "gpus": settings.gpus,
            "logs": str(settings.directory),
        }
        while not stop.is_set():
            _write(settings.directory, {**state, "pods": _pods(lab)})
            await _until_pods_change(lab, stop)
    (settings.directory / "lab.json").unlink(missing_ok=True)


async def _set_the_stage(lab: Lab, settings: LabSettings) -> None:
    folder = EXAMPLES / "base-model"
    await lab.apply(read_objects(folder / "pools.yaml", folder / "gateway.yaml", folder / "route.yaml"))
    if settings.gpus:
        stable = max(settings.gpus - 1, 1)
        await lab.apply(deployments({_STABLE: stable, _CANARY: 0}))
        await lab.wait_for_pods("release=qwen", stable, timeout=settings.pod_startup + _POD_SECONDS)
    else:
        await lab.apply(read_objects(EXAMPLES / "lora" / "model.yaml"))
    await lab.start_pickers()
    await lab.gateway.wait_for_gateway()
    await lab.start_controller("--no-leader-elect")


def _pods(lab: Lab) -> dict[str, str]:
    """URLs of the simulated servers, by the name of their Pod."""
    return {name: pod.url for name, pod in {**lab.fleet.pods, **lab.servers.servers}.items()}


async def _until_pods_change(lab: Lab, stop: asyncio.Event) -> None:
    """Until other servers run than now, or the end."""
    known = _pods(lab)
    while _pods(lab) == known and not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _LOOK_SECONDS)


def _write(directory: Path, state: dict[str, Any]) -> None:
    partial = directory / "lab.json.partial"
    partial.write_text(json.dumps(state), encoding="utf-8")
    partial.replace(directory / "lab.json")


def main(arguments: list[str]) -> None:
    """Run a lab in ``arguments[0]`` on the control plane ``arguments[1]`` with a gateway like ``arguments[2]``.

    ``--no-pickers``, ``--prometheus``, ``--gpus=N`` and ``--pod-startup=SECONDS`` may follow.
    """
    flags = dict(flag.partition("=")[::2] for flag in arguments[3:])
    asyncio.run(
        _run(
            LabSettings(
                directory=Path(arguments[0]),
                choice=Choice(arguments[1]),
                like=GatewayLike(arguments[2]),
                pickers="--no-pickers" not in flags,
                prometheus="--prometheus" in flags,
                gpus=int(flags.get("--gpus", "0")),
                pod_startup=float(flags.get("--pod-startup", "0")),
            )
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
