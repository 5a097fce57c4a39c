"""Two stories on gateways that do not do what weights say: ``demo one-picker`` and ``demo no-split``.

Both end well for clients. Where one picker serves a whole rule, the canary waits until its own is Ready, and no
request fails. Where a split is never programmed, that is found at the first weight, and everything is stable's again.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from rich.console import Console

from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.kube.client import PatchKind
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.environment import Lab, read_objects
from rollouts.lab.gateway.likeness import GatewayLike
from rollouts.lab.story import NAME, answered_by_v2, is_canary, open_base_model
from rollouts.lab.telling import NAMESPACE, StoryFailed, Teller, follow, over, until
from rollouts.lab.traffic import Traffic, TrafficSpec, TrafficWindow
from rollouts.objects import kinds

__all__ = ["PLAYED", "tell_no_split", "tell_one_picker"]

PLAYED = {"one-picker": GatewayLike.ISTIO, "no-split": GatewayLike.AI_GATEWAY}
"""What the lab's gateway plays in each story."""

_V1, _V2 = "mymodel-pool-v1", "mymodel-pool-v2"
_CANARY_PICKER = "mymodel-v2-ext-proc"
_RATE = 20.0
_WAITED = 15.0
"""Seconds that the canary's picker stays down: several looks of the controller, many requests."""
_GOOD_FOR = 2.0
"""Seconds without a failed request after which a story begins to count."""
_LONGEST = 240.0
"""Seconds to the end of a story: a split that is not programmed is aborted two minutes after its write."""


async def tell_one_picker(lab: Lab, console: Console, *, bad: bool) -> None:
    """The last pool's picker serves the whole rule, as on Istio, and the canary's is down when the target changes.

    Raises StoryFailed when a request fails or the rollout does not wait for the picker.
    """
    teller = Teller(console, time.monotonic())
    teller.heading("one picker serves a whole rule, and the canary's is down")
    url = await _set_the_stage(lab, teller)
    async with _traffic(url) as traffic:
        await _begin(lab, teller, traffic)
        await lab.pickers.put_down(_CANARY_PICKER)
        teller.line(f"the picker {_CANARY_PICKER} is stopped, then the target changes", "yellow")
        began = time.monotonic()
        await _retarget(lab)
        waiting = await _follow(
            lab, teller, traffic, lambda status: status.phase is Phase.WAITING or over(status)
        )
        await asyncio.sleep(_WAITED)
        if waiting.phase is not Phase.WAITING:
            raise StoryFailed(f"it did not wait for the picker: {waiting.phase.value}: {waiting.message}")
        _demand_no_failure(traffic.window(began), "while the canary's picker is down")
        if "picker" not in f"{waiting.reason} {waiting.message}".lower():
            raise StoryFailed(f"it waits, but not for the picker: {waiting.reason}: {waiting.message}")
        teller.line("the picker is started again", "yellow")
        await lab.pickers.bring_back(_CANARY_PICKER)
        status = await _follow(lab, teller, traffic, over)
        await asyncio.sleep(1.5)
        _demand_no_failure(traffic.window(began), "in the whole rollout")
    if status.phase is not Phase.HEALTHY:
        raise StoryFailed(f"the rollout ended {status.phase.value}: {status.message}")
    teller.line("no request failed, and the canary was promoted", "bold green")


async def tell_no_split(lab: Lab, console: Console, *, bad: bool) -> None:
    """Two weighted pools are never programmed, as on Envoy AI Gateway, and the route's status says that all is well.

    Raises StoryFailed when the rollout goes on, or a request fails.
    """
    teller = Teller(console, time.monotonic())
    teller.heading("a split that the gateway does not program")
    url = await _set_the_stage(lab, teller)
    async with _traffic(url) as traffic:
        await _begin(lab, teller, traffic)
        began = time.monotonic()
        await _retarget(lab)
        status = await _follow(lab, teller, traffic, over)
        await asyncio.sleep(1.5)
        whole = traffic.window(began)
        _demand_no_failure(whole, "in the whole rollout")
    said = status.aborted.reason if status.aborted is not None else ""
    if (
        status.phase is not Phase.ABORTED
        or "ShareNotProgrammed" not in f"{status.reason} {said} {status.message}"
    ):
        raise StoryFailed(f"the rollout ended {status.phase.value} {status.reason}: {status.message}")
    canary, total = whole.share(is_canary)
    if canary:
        raise StoryFailed(f"{canary} of {total} requests reached v2, which the gateway never programmed")
    route = await lab.client.get(kinds.HTTP_ROUTE, NAMESPACE, "inference-route")
    weights = {ref["name"]: ref["weight"] for ref in route["spec"]["rules"][0]["backendRefs"]}
    if weights.get(_V2) != 0:
        raise StoryFailed(f"the route still says {weights}")
    teller.line("the split was found not to be programmed, and all is stable's again", "bold green")


# --- the parts of both -----------------------------------------------------------------------------


async def _set_the_stage(lab: Lab, teller: Teller) -> str:
    url = await open_base_model(lab)
    teller.stage(lab, url, f"as {lab.gateway_like.value} does it, {_RATE:g} requests/s")
    return url


def _traffic(url: str) -> Traffic:
    return Traffic(TrafficSpec(url=url, model=NAME, rate=_RATE, seconds=2 * _LONGEST, streamed=0.3))


def _rollout(target: str) -> dict[str, Any]:
    rollout = copy.deepcopy(read_objects(EXAMPLES / "base-model" / "rollout-demo.yaml")[0])
    steps = [
        {"setWeight": 10},
        {"pause": {"duration": "5s"}},
        {"setWeight": 50},
        {"pause": {"duration": "5s"}},
    ]
    rollout["spec"]["strategy"]["canary"] = {"progressDeadline": "10m", "steps": steps}
    rollout["spec"]["target"]["pool"]["name"] = target
    return rollout


async def _begin(lab: Lab, teller: Teller, traffic: Traffic) -> None:
    await lab.apply([_rollout(_V1)])
    await _follow(lab, teller, traffic, lambda status: status.phase is Phase.HEALTHY)
    # Healthy says that stable has all traffic; the gateway answers 500 until it reached stable's picker.
    await until(
        lambda: _all_good(traffic.window(time.monotonic() - _GOOD_FOR)),
        longest=_LONGEST,
        every=_GOOD_FOR / 4,
        what="stable does not serve",
    )


def _all_good(window: TrafficWindow) -> bool:
    return len(window) > 0 and window.failed == 0


async def _retarget(lab: Lab) -> None:
    body = {"spec": {"target": {"pool": {"name": _V2}}}}
    await lab.client.patch(kinds.ROLLOUT, NAMESPACE, NAME, body, kind=PatchKind.MERGE)


async def _follow(
    lab: Lab, teller: Teller, traffic: Traffic, until: Callable[[RolloutStatus], bool]
) -> RolloutStatus:
    return await follow(lab, teller, NAME, seen=answered_by_v2(traffic), until=until, longest=_LONGEST)


def _demand_no_failure(window: TrafficWindow, when: str) -> None:
    failed = [result for result in window.results if result.failed]
    if failed:
        began = min(result.sent_at for result in window.results)
        what = Counter(f"{result.status} {result.error}".strip() for result in failed).most_common(3)
        said = "; ".join(f"{count} times {text}" for text, count in what)
        raise StoryFailed(
            f"{len(failed)} of {len(window.results)} requests failed {when}, the first "
            f"{min(result.sent_at for result in failed) - began:.1f} s after the change of the target: {said}"
        )
