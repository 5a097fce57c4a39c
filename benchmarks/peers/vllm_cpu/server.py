"""Real vLLM servers in the place of the lab's simulated ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import aiohttp

from benchmarks.peers.vllm_cpu.model import MAX_MODEL_LEN
from rollouts.lab.processes import ChildProcess
from rollouts.lab.vllm.spec import PodSpec

__all__ = ["MAX_LORA_RANK", "RealFleet", "RealVllm"]

MAX_LORA_RANK = 8
_ROOT = Path(__file__).resolve().parents[3]
_STARTED = 600.0
"""Seconds: imports alone take 20 s of CPU, of which a busy machine gives little."""
_ENGINE = "VLLM::EngineCor"
"""What the engine core's process calls itself; the kernel keeps 15 characters."""
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(_ROOT),
}


class RealVllm:
    """One server: a process for the API and one for the engine. Files are found below ``folder``."""

    def __init__(self, python: Path, spec: PodSpec, folder: Path, *, options: Sequence[str] = ()) -> None:
        self.spec = spec
        self.url = f"http://{spec.address}:{spec.port}"
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")]
        command += ["--host", spec.address, "--port", str(spec.port), "--load-format", "dummy"]
        command += ["--served-model-name", spec.served_model, "--max-model-len", str(MAX_MODEL_LEN)]
        command += ["--enforce-eager", "--enable-lora", "--max-lora-rank", str(MAX_LORA_RANK)]
        command += ["--max-loras", str(spec.max_loras), "--dtype", "bfloat16"]
        command += ["--middleware", "benchmarks.peers.vllm_cpu.pod_header.PodHeader", *options]
        self._process = ChildProcess(spec.name, command, log_path=folder / f"{spec.name}.log")

    async def start(self) -> None:
        """Start it; ``ready`` waits. Raises ProcessStartError."""
        await self._process.start(env={**os.environ, **_SETTINGS, "POD_NAME": self.spec.name})

    async def ready(self) -> None:
        """Until it answers. Raises ProcessStartError where it ends before, TimeoutError."""
        async with asyncio.timeout(_STARTED), aiohttp.ClientSession() as session:
            while True:
                if self._process.returncode is not None:
                    raise self._process.failure("vLLM ended at once")
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/health") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.5)

    @property
    def log(self) -> Path:
        """What it printed: a line per request, among others."""
        return self._process.log_path

    def signal_engine(self, number: signal.Signals) -> None:
        """Send a signal to its engine core. Raises LookupError where there is none."""
        engines = list(self._engines())
        if not engines:
            raise LookupError(f"{self.spec.name} has no engine core")
        for pid in engines:
            os.kill(pid, number)

    def _engines(self) -> Iterator[int]:
        """Process ids, of which there are several with data parallelism."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "comm").read_text().strip() == _ENGINE:
                    # "pid (comm) state ppid ...": the name may hold anything, so from its end on.
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    if int(parent) == self._process.pid:
                        yield int(entry.name)

    async def stop(self) -> None:
        """End both processes, the engine also when it was stopped."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(RuntimeError):  # was never started
            for pid in list(self._engines()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        await self._process.stop(grace=20.0)


class RealFleet:
    """Real servers under the names that the lab's fleet would have. They outlive a lab: ``end`` ends them.

    ``folder`` has the model and the adapters.
    """

    def __init__(self, folder: Path, servers: Iterable[RealVllm]) -> None:
        self.folder = folder
        self._servers = {server.spec.name: server for server in servers}

    @property
    def pods(self) -> Mapping[str, RealVllm]:
        """Servers by the name of their pod."""
        return self._servers

    async def begin(self) -> None:
        """Start all and wait for all. Raises ProcessStartError, TimeoutError."""
        for server in self._servers.values():
            await server.start()
        await asyncio.gather(*(server.ready() for server in self._servers.values()))

    async def end(self) -> None:
        """Stop all."""
        await asyncio.gather(*(server.stop() for server in self._servers.values()))

    async def start(self) -> None:
        """A lab starts: nothing to do."""

    async def stop(self) -> None:
        """A lab ends: nothing to do."""
