"""What our picker costs the gateway: CPU of a real Envoy per request, with the picker and alone.

    python -m benchmarks.picker.run --envoy [--native]

Three kinds of requests of 1 KB to simulated pods: a plain answer, a streamed one that is measured, and a streamed one
that is not, for which the picker leaves the stream. Alone, Envoy balances by itself. The kinds take turns in short
rounds; shown are the medians, and the median of the ratios in the same round.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.picker.driver import cpu_seconds
from rollouts.kube.client import Resource
from rollouts.picker.core.objects import PoolName
from rollouts.picker.datapath import DataPath
from rollouts.picker.main import Picker, PickerConfig
from tests.kit.dataplane import NAMESPACE, DataPlane, backend
from tests.kit.polling import eventually

__all__ = ["envoy_cost"]

MODELS = Resource("inference.networking.x-k8s.io", "v1alpha2", "inferencemodels", "InferenceModel")
TOKENS = 20
STREAMS = 8
KINDS = {"plain": ("unmeasured", False), "streamed measured": ("measured", True)}
KINDS["streamed unmeasured"] = ("unmeasured", True)
"""Whether the picker measures the answer, and whether it is streamed."""


def _rollout(pool: str) -> dict[str, Any]:
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": pool, "namespace": NAMESPACE},
        "spec": {
            "target": {"adapter": {"name": "v2"}},
            "traffic": {"inferenceModel": {"name": pool, "modelName": "travelhelper"}},
            "strategy": {"canary": {"analysis": {"preset": "default"}}},
        },
        "status": {"phase": "Progressing", "canary": {"adapter": {"name": "v2"}}},
    }


async def _add_pool(plane: DataPlane, pool: str, picker: str = "") -> None:
    names = {"v1": "/v1", "v2": "/v2"}
    await plane.add_pool(pool, pods=2, picker=picker, adapters=names, speed=1000.0, max_model_len=100_000)
    targets = [{"name": "v1", "weight": 90}, {"name": "v2", "weight": 10}]
    spec = {"modelName": "travelhelper", "poolRef": {"name": pool}, "targetModels": targets}
    await plane.create(MODELS, pool, {"spec": spec})


@asynccontextmanager
async def _picked(plane: DataPlane, pool: str, path: str) -> AsyncIterator[None]:
    """A pool behind our picker, which measures its answers if the pool is called so."""
    config = PickerConfig(
        pools=(PoolName(NAMESPACE, pool),),
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        secure_serving=False,
        drain_grace=0.5,
        data_path=DataPath(path),
    )
    picker = Picker(config, client=plane.client)
    take, extra = picker.take, [_rollout(pool)] if pool.startswith("measured") else []
    picker.take = lambda objects: take([*objects, *extra])  # type: ignore[method-assign]  # adds a Rollout
    await picker.start()
    try:
        await _add_pool(plane, pool, f"127.0.0.1:{picker.server.port}")
        await eventually(lambda: len(picker.router.snapshot.endpoints) == 2)
        await eventually(lambda: picker.router.snapshot.rules.find("travelhelper") is not None)
        yield
    finally:
        await picker.stop()


async def _round(
    plane: DataPlane, http: aiohttp.ClientSession, pool: str, *, streamed: bool, model: str, seconds: float
) -> float:
    """Milliseconds of Envoy's CPU per request."""
    body = {"prompt": "a" * 1000, "model": model, "max_tokens": TOKENS, "ignore_eos": True}
    body["stream"] = streamed
    asked = 0

    async def work(until: float) -> None:
        nonlocal asked
        while loop.time() < until:
            url, headers = f"{plane.url}/v1/completions", {"x-pool": pool}
            async with http.post(url, json=body, headers=headers) as answer:
                text = await answer.text()
                if answer.status != 200 or streamed is not text.endswith("data: [DONE]\n\n"):
                    raise RuntimeError(f"{pool}: {answer.status} {text[:200]}")
            asked += 1

    loop = asyncio.get_running_loop()
    begun = cpu_seconds(plane.gateway.envoy.pid)
    await asyncio.gather(*(work(loop.time() + seconds) for _ in range(STREAMS)))
    return (cpu_seconds(plane.gateway.envoy.pid) - begun) / asked * 1e3


def _lines(found: Mapping[tuple[str, str], list[float]], paths: tuple[str, ...]) -> list[str]:
    lines = []
    for kind in KINDS:
        alone = found[kind, "alone"]
        text = f"{kind:20} Envoy alone {statistics.median(alone):6.3f} ms"
        for path in paths:
            mine = found[kind, path]
            ratio = statistics.median(one / other for one, other in zip(mine, alone, strict=True))
            text += f"   with our picker, {path} {statistics.median(mine):6.3f} ms {ratio:5.2f}x"
        lines.append(text)
    return lines


async def envoy_cost(paths: tuple[str, ...], *, seconds: float, rounds: int) -> list[str]:
    """The figures, in words. ``paths``: data paths of our picker; ``seconds``: of each cell, over all rounds."""
    found: dict[tuple[str, str], list[float]] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plane = await stack.enter_async_context(DataPlane(folder))
        await _add_pool(plane, "alone")
        pools = ["alone"]
        for path in paths:
            for name in ("measured", "unmeasured"):
                pools.append(f"{name}-{path}")
                await stack.enter_async_context(_picked(plane, pools[-1], path))
        rules = [
            {
                "matches": [{"headers": [{"name": "x-pool", "value": pool}]}],
                "backendRefs": [backend(pool, 1)],
            }
            for pool in pools
        ]
        await plane.route_rules(rules)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        for turn in range(-1, rounds):  # the first one warms up
            for kind, (name, streamed) in KINDS.items():
                for who in ("alone", *paths):
                    pool, model = ("alone", "v1") if who == "alone" else (f"{name}-{who}", "travelhelper")
                    cpu = await _round(
                        plane, http, pool, streamed=streamed, model=model, seconds=seconds / rounds
                    )
                    if turn >= 0:
                        found.setdefault((kind, who), []).append(cpu)
    return _lines(found, paths)
