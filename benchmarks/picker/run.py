"""CPU per request, throughput and latency of the picker beside a bare transport, in one run.

    python -m benchmarks.picker.run [--seconds 6] [--rounds 9] [--native] [--floor] [--go]
        [--also NAME=HOST:PORT=PID ...]
    python -m benchmarks.picker.run --envoy [--seconds 6] [--rounds 9] [--native]

``--go`` starts lwepp and epp of the Gateway API Inference Extension on an API server, where they are built
(``python -m tools.gopickers build``); ``--also`` adds pickers that are running already, plaintext h2c. They are
in the cells whose response is shown to the picker, for they do not leave a stream early. ``--native`` adds our
picker on its native data path (``make setup`` builds it where cargo is), ``--floor`` the native transport without a
picker, as ``bare`` is the Python one (built by cargo at the first use). ``--envoy`` measures something else: the CPU of
a real Envoy per request, with our picker and alone (`gatewaycost.py`).

Cells: a request whose response is not measured, one whose response is, and that with 20 chunks; the difference
between 20 chunks and none is the cost of a chunk. The subjects take turns in short rounds. Shown are the
medians over the rounds, and the median of the ratios to the bare transport in the same round: what else the
machine does comes and goes, and hits neighbours in a round alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib import metadata
from pathlib import Path

import structlog

from benchmarks.picker.driver import Result, measure
from tools.gopickers.build import PICKERS, GoPickerError, built
from tools.gopickers.serving import serve_beside

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NATIVE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "build" / "native"))
FLOOR = NATIVE / "release" / "examples" / "floor"
SIZES = (1_000, 20_000, 220_000)
CHUNKS = 20
CELLS = (("leave", None), ("stay", 0), ("stay", CHUNKS))
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
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait, 10)
    stack.callback(process.terminate)
    return process.pid


def transport(stack: ExitStack, command: list[str], port: int, kind: str) -> int:
    """A server without a picker, which ends a stream early (``leave``) or does not (``stay``)."""
    return start(stack, [*command, str(port), kind])


def build_floor() -> None:
    """Raises SystemExit where it cannot be built."""
    command = [
        "cargo",
        "build",
        "--locked",
        "--quiet",
        "--release",
        "--example",
        "floor",
        "-p",
        "rollouts-server",
    ]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(NATIVE)}
    try:
        subprocess.run(command, cwd=ROOT / "native", env=environment, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"--floor needs cargo: {error}") from error


def picker(stack: ExitStack, port: int, objects: str, data_path: str) -> int:
    """Our picker, on one of its data paths."""
    command = [
        sys.executable,
        "-m",
        "rollouts.picker",
        "--pool",
        "default/mymodel-pool-v1",
        "--objects",
        objects,
        "--no-scrape",
    ]
    command += ["--no-secure-serving", "--grpc-address", f"127.0.0.1:{port}", "--drain-grace", "0"]
    return start(stack, [*command, "--metrics-address", "127.0.0.1:0", "--data-path", data_path])


def median(runs: list[Result]) -> Result:
    """The medians of each figure over the rounds, and the requests of all of them."""
    figures = {
        field.name: statistics.median(getattr(run, field.name) for run in runs)
        for field in fields(Result)
        if field.name not in ("size", "chunks", "requests")
    }
    requests = sum(run.requests for run in runs)
    return Result(size=runs[0].size, chunks=runs[0].chunks, requests=requests, **figures)


def ratio(runs: list[Result], floor: list[Result]) -> float:
    """Median of the ratios of CPU to that of the bare transport in the same round."""
    return statistics.median(run.cpu_ms / bare.cpu_ms for run, bare in zip(runs, floor, strict=True))


def row(name: str, cell: str, result: Result, times: float) -> str:
    """One line of the table; ``times`` is the ratio to the bare transport."""
    return (
        f"{name:14} {cell:12} {result.size // 1000:>4} KB {result.cpu_ms:7.3f} ms {times:5.2f}x"
        f" {result.per_second:7.0f}/s"
        f"  p50 {result.p50_ms:6.1f}  p99 {result.p99_ms:6.1f} ms  driver {result.driver_ms:6.3f} ms"
    )


def summary(cpu: Mapping[tuple[str, int, str], list[float]], sizes: Sequence[int]) -> Iterator[str]:
    """Lines: CPU of a response chunk, and of ours beside theirs in the same rounds. ``cpu``: name, size, cell: ms."""
    names = sorted({name for name, _, _ in cpu})
    for name, size in ((name, size) for name in names for size in sizes):
        with_chunks, without = cpu.get((name, size, f"+{CHUNKS} chunks")), cpu.get((name, size, "+headers"))
        if with_chunks and without:
            cost = (statistics.median(with_chunks) - statistics.median(without)) / CHUNKS
            yield f"{name:14} one response chunk beside {size // 1000:>4} KB {cost:7.4f} ms"
    for mine, theirs in (
        (mine, theirs) for mine in ("ours", "native", "floor") for theirs in ("lwepp", "epp")
    ):
        for size in sizes:
            both = cpu.get((mine, size, "+headers"), []), cpu.get((theirs, size, "+headers"), [])
            if all(both):
                times = statistics.median(one / other for one, other in zip(*both, strict=True))
                yield f"{mine:14} / {theirs:6} +headers {size // 1000:>4} KB {times:5.2f}x"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A picker that runs. ``stays``: whether it stays for the response, or leaves once it has answered."""

    name: str
    address: str
    pid: int
    stays: bool


async def subjects(stack: AsyncExitStack, options: argparse.Namespace) -> list[Subject]:
    """The bare transport and our picker, each once per kind, then the others. All end with the stack."""
    processes = stack.enter_context(ExitStack())
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    measured = folder / "objects.yaml"
    measured.write_text((HERE / "objects.yaml").read_text() + ROLLOUT)
    port = options.base_port
    bare, plain = str(HERE / "bare.py"), str(HERE / "objects.yaml")
    starters: list[tuple[str, bool, Callable[[int], int]]] = []
    for stays, kind, objects in ((False, "leave", plain), (True, "stay", str(measured))):
        starters.append(("bare", stays, partial(transport, processes, [sys.executable, bare], kind=kind)))
        if options.floor:
            starters.append(("floor", stays, partial(transport, processes, [str(FLOOR)], kind=kind)))
        for name, path in (("ours", "python"), ("native", "native"))[: 2 if options.native else 1]:
            begin = partial(picker, processes, objects=objects, data_path=path)
            starters.append((name, stays, begin))
    found = []
    for offset, (name, stays, begin) in enumerate(starters):
        pid = begin(port + offset)
        found.append(Subject(name=name, address=f"127.0.0.1:{port + offset}", pid=pid, stays=stays))
    for offset in range(len(starters)):
        await wait_for(port + offset)
    for entry in options.also:
        name, address, pid = entry.split("=")
        found.append(Subject(name=name, address=address, pid=int(pid), stays=True))
    if options.go:
        found += await go_subjects(stack, folder)
    return found


async def go_subjects(stack: AsyncExitStack, folder: Path) -> list[Subject]:
    """The Go pickers that are built. Says loudly which are not there, and why."""
    there = [one for one in PICKERS if built(one)]
    if missing := [one.name for one in PICKERS if one not in there]:
        print(f"NOT MEASURED, not built: {', '.join(missing)} (python -m tools.gopickers build)")
    try:
        served = await stack.enter_async_context(serve_beside(there, folder)) if there else []
    except GoPickerError as error:
        print(f"NOT MEASURED: {error}")
        return []
    return [Subject(name=one.picker.name, address=one.address, pid=one.pid, stays=True) for one in served]


async def cell(
    kind: str, chunks: int | None, size: int, among: list[Subject], options: argparse.Namespace
) -> Mapping[str, list[Result]]:
    """The rounds of each subject in one cell, in turns."""
    taken: dict[str, list[Result]] = {}
    for _ in range(options.rounds):
        for subject in among:
            if subject.stays is not (kind == "stay") or (subject.name == "lwepp" and chunks):
                continue  # lwepp v1.6.0 does not answer the chunks of a response
            seconds = options.seconds / options.rounds
            found = await measure(subject.address, subject.pid, size, chunks, seconds, options.streams)
            taken.setdefault(subject.name, []).append(found)
    return taken


async def main() -> None:
    """Run every cell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="per subject and cell")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--base-port", type=int, default=19300, help="eight ports from here on")
    parser.add_argument("--native", action="store_true", help="our picker on its native data path as well")
    parser.add_argument("--floor", action="store_true", help="the native transport without a picker as well")
    parser.add_argument("--envoy", action="store_true", help="what our picker costs Envoy, and nothing else")
    parser.add_argument("--go", action="store_true", help="lwepp and epp as well, where they are built")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=HOST:PORT=PID")
    parser.add_argument("--size", type=int, action="append", help="bytes of a request; may be repeated")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    if options.envoy:
        from benchmarks.picker.gatewaycost import envoy_cost  # the lab, which the others do not need

        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        paths = ("python", "native")[: 2 if options.native else 1]
        print(*await envoy_cost(paths, seconds=options.seconds, rounds=options.rounds), sep="\n")
        return
    if options.floor:
        build_floor()
    rows: list[dict[str, object]] = []
    cpu: dict[tuple[str, int, str], list[float]] = {}
    async with AsyncExitStack() as stack:
        among = await subjects(stack, options)
        for size in options.size or SIZES:
            for kind, chunks in CELLS:
                label = "request" if kind == "leave" else f"+{chunks} chunks" if chunks else "+headers"
                taken = await cell(kind, chunks, size, among, options)
                for name, runs in taken.items():
                    cpu[name, size, label] = [run.cpu_ms for run in runs]
                    result, times = median(runs), ratio(runs, taken["bare"])
                    print(row(name, label, result, times), flush=True)
                    rows.append({"name": name, "cell": label, **asdict(result), "ratio": times})
    print(*summary(cpu, options.size or SIZES), sep="\n")
    if options.json:
        versions = {"python": platform.python_version(), "grpcio": metadata.version("grpcio")}
        about = {"cores": os.cpu_count(), "load": os.getloadavg(), "rounds": options.rounds, **versions}
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
