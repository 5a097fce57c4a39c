"""The scripted story of two members of a KServe group: what ``rollouts lab demo kserve`` shows."""

from __future__ import annotations

import asyncio
import copy
import time
from dataclasses import replace
from typing import Any

from rich.console import Console

from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.controlplane import install_crds
from rollouts.lab.controlplane.minimal import KSERVE
from rollouts.lab.environment import Lab, base_model_pods, read_objects
from rollouts.lab.kserve import KServe, publisher_path
from rollouts.lab.story import NAME
from rollouts.lab.telling import (
    NAMESPACE,
    StoryFailed,
    Teller,
    answered,
    follow,
    kubectl,
    over,
    own_command,
    set_knobs,
)
from rollouts.lab.traffic import Result, Traffic, TrafficSpec
from rollouts.lab.vllm.spec import PodSpec
from rollouts.objects import kinds
from rollouts.objects.llm_services import pods_of_service

__all__ = ["kserve_pods", "tell_kserve"]

_FOLDER = EXAMPLES / "kserve"
_MEMBER_OF = {"qwen": "mymodel-v1", "deepseek-r1": "mymodel-v2"}
"""The members by the release of the simulated pods that are theirs."""
_RATE = 60.0
_LONGEST = 240.0
_KNOBS = {"errors": "40%", "ttft": "+60%"}
_ABORT_SECONDS = 2.0
"""From the failed gate until no request reaches the canary."""
_FARTHEST = 4.5
"""Standard deviations by which a share may be off: the gateway draws each request by itself."""


def kserve_pods() -> list[PodSpec]:
    """The pods of the base model, with the labels that KServe gives to workloads."""
    found = []
    for pod in base_model_pods():
        member = {"metadata": {"name": _MEMBER_OF[pod.labels["release"]], "namespace": NAMESPACE}}
        labels = {**pod.labels, **dict(pods_of_service(member).selector)}
        found.append(replace(pod, adapters={}, labels=labels))
    return found


def _by_v2(result: Result) -> bool:
    return result.pod.startswith("deepseek-r1")


async def tell_kserve(lab: Lab, console: Console, *, bad: bool) -> None:
    """Roll mymodel-v2 out beside mymodel-v1 in one group, over real traffic; with ``bad`` it is aborted.

    Raises StoryFailed when the end is not the promised one.
    """
    teller = Teller(console, time.monotonic())
    teller.heading(f"KServe group, {'bad' if bad else 'good'} canary")
    await install_crds(lab.client, KSERVE)
    await lab.apply(read_objects(EXAMPLES / "base-model" / "gateway.yaml", _FOLDER / "members.yaml"))
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "inference-gateway"}
    kserve = KServe(
        lab.client.with_field_manager("llmisvc-controller-manager"), NAMESPACE, [parent], delay=0.2
    )
    await kserve.start()
    try:
        await _tell(lab, teller, bad=bad)
    finally:
        await kserve.stop()


async def _tell(lab: Lab, teller: Teller, *, bad: bool) -> None:
    base = await lab.gateway.wait_for_gateway()
    await asyncio.gather(lab.start_pickers(), lab.start_controller("--no-leader-elect"))
    url = f"{base}{publisher_path(NAMESPACE, NAME)}"
    await answered(url, NAME)
    teller.stage(lab, url, f"{len(lab.pods)} simulated vLLM pods of two LLMInferenceServices")
    teller.line(
        "kserve       a stand-in for its controller: it makes pools and weighted HTTPRoutes of the group"
    )
    traffic = Traffic(TrafficSpec(url=url, model=NAME, rate=_RATE, seconds=_LONGEST + 60, streamed=0.3))
    async with traffic:
        shares = _Shares(traffic)
        await lab.apply([_rollout("mymodel-v1")])
        await follow(
            lab, teller, NAME, seen=shares.seen, until=lambda s: s.phase is Phase.HEALTHY, longest=_LONGEST
        )
        if bad:
            for pod in lab.pods:
                if pod.labels["release"] == "deepseek-r1":
                    await set_knobs(lab, pod.name, _KNOBS)
            teller.line(f"knobs        v2 pods: {', '.join(f'{k} {v}' for k, v in _KNOBS.items())}", "red")
        teller.line("$ git diff")
        teller.line("-     llmInferenceService: {name: mymodel-v1}", "red")
        teller.line("+     llmInferenceService: {name: mymodel-v2}", "green")
        await lab.apply([_rollout("mymodel-v2")])
        status = await follow(lab, teller, NAME, seen=shares.seen, until=shares.over, longest=_LONGEST)
        await _close(lab, teller, traffic, shares, status, bad=bad)


def _rollout(target: str) -> dict[str, Any]:
    rollout = copy.deepcopy(read_objects(_FOLDER / "rollout-demo.yaml")[0])
    rollout["spec"]["target"]["llmInferenceService"]["name"] = target
    return rollout


class _Shares:
    """What clients saw at each weight, beside what was asked."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._weight = 0.0
        self.ended = 0.0
        self.worst = 0.0
        """Standard deviations by which the farthest share was off."""

    def over(self, status: RolloutStatus) -> bool:
        """Keep the weight that is in force, and when the attempt ended."""
        self._weight = (status.weight.applied or 0) / 10_000
        if over(status) and not self.ended:
            self.ended = time.monotonic()
        return over(status)

    def seen(self, since: float) -> str:
        """The share since the last change of weight, without the second in which KServe and the gateway follow."""
        results = self._traffic.window(since + 1.0)
        canary, total = results.share(_by_v2)
        if not total:
            return "no traffic"
        if 0 < self._weight < 1:
            spread = (self._weight * (1 - self._weight) / total) ** 0.5
            self.worst = max(self.worst, abs(canary / total - self._weight) / spread)
        return f"{100 * canary / total:.1f}% of {total} answered by v2"


async def _close(
    lab: Lab, teller: Teller, traffic: Traffic, shares: _Shares, status: RolloutStatus, *, bad: bool
) -> None:
    """What people see at the end, and whether it is the promised end."""
    await asyncio.sleep(_ABORT_SECONDS + 2.0)
    canary, total = traffic.window(shares.ended + _ABORT_SECONDS).share(_by_v2)
    teller.line(
        f"             from {_ABORT_SECONDS:g} s after the end on, {canary} of {total} were answered by v2",
        "cyan",
    )
    for command in ("get rollouts", "get events --field-selector involvedObject.kind=Rollout"):
        await kubectl(lab, teller, command)
    for member in (await lab.client.list_page(kinds.LLM_SERVICE, NAMESPACE)).items:
        teller.line(f"{member['metadata']['name']:<13}weight {member['spec']['router']['route']['weight']}")
    await own_command(lab, teller, f"explain {NAME}")
    wanted = Phase.ABORTED if bad else Phase.HEALTHY
    if status.phase is not wanted:
        raise StoryFailed(f"the rollout ended {status.phase.value}, not {wanted.value}: {status.message}")
    if not total or (canary != 0 if bad else canary != total):
        raise StoryFailed(f"clients still saw {canary} of {total} answered by v2")
    if shares.worst > _FARTHEST:
        raise StoryFailed(f"a share was {shares.worst:.1f} standard deviations off")
    teller.line("the bad canary was aborted" if bad else "the canary was promoted", "bold green")
