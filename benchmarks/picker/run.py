"""CPU per request, throughput and latency of the picker beside a bare transport, in one run.

    python benchmarks/picker/run.py [--seconds 4] [--rounds 5] [--also NAME=HOST:PORT=PID ...]

``--also`` adds pickers that are running already, for example lwepp and epp of the Gateway API Inference
Extension, plaintext h2c. Cells: a request whose response is not measured, and one whose response is, with 20
chunks; the difference between 20 chunks and none is the cost of a chunk. The subjects take turns in short
rounds, and the round with the least CPU counts: what else the machine does can only add to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from driver import Result, measure

HERE = Path(__file__).parent
SIZES = (1_000, 20_000, 220_000)
CHUNKS = 20
CELLS = (("leave", None, 0), ("stay", 0, 1), ("stay", CHUNKS, 1))
ROLLOUT = """
---
apiVersion: inferencerollouts.dev/v1alpha1
kind: Rollout
metadata: {name: travelhelper, namespace: default}
spec:
  target: {adapter: {name: travel-helper-v2}}
  traffic: {inferenceModel: {name: loramodel, modelName: travelhelper}}
  strategy: {canary: {analysis: {preset: default}}}
status: {phase: Progressing, canary: {adapter: {name: travel-helper-v2}}}
"""


def start(stack: ExitStack, command: list[str]) -> int:
    """A subject; ended with the stack."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stack.callback(process.wait, 10)
    stack.callback(process.terminate)
    return process.pid


def picker(stack: ExitStack, port: int, objects: str) -> int:
    """Our picker."""
    command = [
        "-m",
        "rollouts.picker",
        "--pool",
        "default/mymodel-pool-v1",
        "--objects",
        objects,
        "--no-scrape",
    ]
    command += ["--no-secure-serving", "--grpc-address", f"127.0.0.1:{port}", "--drain-grace", "0"]
    return start(stack, [*command, "--metrics-address", "127.0.0.1:0"])


def row(name: str, cell: str, result: Result, floor: float | None) -> str:
    """One line of the table; ``floor`` is the CPU of the bare transport."""
    ratio = f"{result.cpu_ms / floor:5.2f}x" if floor else "      "
    return (
        f"{name:14} {cell:12} {result.size // 1000:>4} KB {result.cpu_ms:7.3f} ms {ratio}"
        f" {result.per_second:7.0f}/s"
        f"  p50 {result.p50_ms:6.1f}  p99 {result.p99_ms:6.1f} ms  driver {result.driver_ms:6.3f} ms"
    )


async def wait_for(port: int) -> None:
    """Wait until something listens."""
    for _ in range(1200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit(f"nothing listens on port {port} after a minute")


async def main() -> None:
    """Run every cell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--base-port", type=int, default=19300, help="four ports from here on")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=HOST:PORT=PID")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    base = options.base_port
    rows: list[dict[str, object]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        measured = folder / "objects.yaml"
        measured.write_text((HERE / "objects.yaml").read_text() + ROLLOUT)
        bare = {
            cell: start(stack, [str(HERE / "bare.py"), str(base + n), cell])
            for n, cell in enumerate(("leave", "stay"))
        }
        ours = {
            "leave": picker(stack, base + 2, str(HERE / "objects.yaml")),
            "stay": picker(stack, base + 3, str(measured)),
        }
        for port in range(base, base + 4):
            await wait_for(port)
        also = [entry.split("=") for entry in options.also]
        for size in SIZES:
            for cell, chunks, offset in CELLS:
                label = "request" if cell == "leave" else f"+{chunks} chunks" if chunks else "+headers"
                subjects = {
                    "bare": (f"127.0.0.1:{base + offset}", bare[cell]),
                    "ours": (f"127.0.0.1:{base + 2 + offset}", ours[cell]),
                    **{name: (address, int(pid)) for name, address, pid in also if cell == "stay"},
                }
                taken: dict[str, list[Result]] = {name: [] for name in subjects}
                for _ in range(options.rounds):
                    for name, (address, pid) in subjects.items():
                        seconds = options.seconds / options.rounds
                        taken[name].append(
                            await measure(address, pid, size, chunks, seconds, options.streams)
                        )
                least = {name: min(runs, key=lambda r: r.cpu_ms) for name, runs in taken.items()}
                for name, result in least.items():
                    print(row(name, label, result, least["bare"].cpu_ms), flush=True)
                    rows.append({"name": name, "cell": label, **asdict(result)})
    if options.json:
        options.json.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
