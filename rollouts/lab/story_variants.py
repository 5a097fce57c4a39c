"""The scripted story of two variants in one pool: what ``rollouts lab demo variants`` shows."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.environment import Lab, base_model_pods
from rollouts.lab.story_lora import Plot, tell_plot
from rollouts.lab.vllm.spec import PodSpec
from rollouts.objects import kinds

__all__ = ["tell_variants", "variant_pods"]

_SERVED = "deepseek-r1"
_FOLDER = EXAMPLES / "one-pool"
_PLOT = Plot(
    title="two versions in one pool",
    name="mymodel",
    model="mymodel",
    stable="mymodel",
    canary=_SERVED,
    entry="deepseek-r1",
    resource=kinds.POOL_SPLIT,
    carrier="mymodel-pool",
    listed="variants",
    objects=(EXAMPLES / "base-model" / "gateway.yaml", _FOLDER / "pool.yaml"),
    rollout=_FOLDER / "rollout-demo.yaml",
    service="mymodel-pool-ext-proc",
    pods="simulated vLLM pods of one pool, in two releases",
    knobs={"errors": "40%", "ttft": "+60%"},
    spoiled=lambda pod: pod.labels["release"] == "deepseek-r1",
    lead=False,
)


def variant_pods() -> list[PodSpec]:
    """Those of the base model; the new ones serve under a name of their own, by which clients here tell them apart."""
    return [
        replace(pod, served_model=_SERVED) if _PLOT.spoiled(pod) else replace(pod, adapters={})
        for pod in base_model_pods()
    ]


async def tell_variants(lab: Lab, console: Console, *, bad: bool) -> None:
    """Roll deepseek-r1 out beside qwen in one pool, over real traffic; with ``bad`` it fails, and is aborted.

    Raises StoryFailed when the end is not the promised one.
    """
    await tell_plot(lab, console, _PLOT, bad=bad)
