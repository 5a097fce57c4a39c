"""Hosts simulated pods: ``python -m rollouts.lab.vllm PODS.json``, a JSON list of pod specifications.

Writes one line, ``ready``, when all ports are open, and ends on SIGTERM or SIGINT.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec, pod_spec_from_json

__all__ = ["main"]


async def _serve(specs: list[PodSpec]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Fleet(specs):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    """Run until told to stop."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m rollouts.lab.vllm PODS.json")
    documents = json.loads(Path(sys.argv[1]).read_text())
    asyncio.run(_serve([pod_spec_from_json(document) for document in documents]))


if __name__ == "__main__":
    main()
