"""The process behind ``rollouts lab up``: runs a lab until SIGTERM and says in ``lab.json`` where it is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from rollouts.lab.controlplane import Choice
from rollouts.lab.environment import EXAMPLES, Lab, base_model_pods, read_objects
from rollouts.lab.gateway.likeness import GatewayLike

__all__ = ["main"]


async def _run(
    directory: Path, choice: Choice, *, pickers: bool, prometheus: bool, like: GatewayLike
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    made = Lab(
        directory,
        choice=choice,
        pods=base_model_pods(),
        pickers=pickers,
        prometheus=prometheus,
        gateway_like=like,
    )
    async with made as lab:
        folder = EXAMPLES / "base-model"
        await lab.apply(read_objects(folder / "pools.yaml", folder / "gateway.yaml", folder / "route.yaml"))
        await lab.apply(read_objects(EXAMPLES / "lora" / "model.yaml"))
        await lab.start_pickers()
        url = await lab.gateway.wait_for_gateway()
        await lab.start_controller("--no-leader-elect")
        state = {
            "pid": os.getpid(),
            "controlPlane": lab.control_plane.description,
            "kubeconfig": str(lab.kubeconfig),
            "gateway": url,
            "metrics": f"{lab.metrics_url}/metrics",
            "sources": {
                "pods": "built in",
                "picker": "built in",
                **({} if lab.prometheus is None else {"default": lab.prometheus.url}),
            },
            "pickers": lab.pickers.metrics_urls if pickers else {},
            "logs": str(directory),
            "pods": {name: pod.url for name, pod in lab.fleet.pods.items()},
        }
        partial = directory / "lab.json.partial"
        partial.write_text(json.dumps(state), encoding="utf-8")
        partial.replace(directory / "lab.json")
        await stop.wait()
    (directory / "lab.json").unlink(missing_ok=True)


def main(arguments: list[str]) -> None:
    """Run a lab in ``arguments[0]`` on the control plane ``arguments[1]`` with a gateway like ``arguments[2]``.

    ``--no-pickers`` and ``--prometheus`` may follow.
    """
    directory, choice, like = Path(arguments[0]), Choice(arguments[1]), GatewayLike(arguments[2])
    flags = arguments[3:]
    lab = _run(
        directory,
        choice,
        pickers="--no-pickers" not in flags,
        prometheus="--prometheus" in flags,
        like=like,
    )
    asyncio.run(lab)


if __name__ == "__main__":
    main(sys.argv[1:])
