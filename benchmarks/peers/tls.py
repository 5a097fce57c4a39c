"""Pickers that serve TLS with a certificate of their own: nothing works on Istio until the DestinationRule is there."""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp
from rich.console import Console

from rollouts.cli.picker_objects import PickerInstallation, picker_objects
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.environment import Lab, read_objects
from rollouts.lab.telling import StoryFailed
from tests.kit.polling import eventually

__all__ = ["tell_tls"]

_PICKERS = ("mymodel-v1-ext-proc", "mymodel-v2-ext-proc")
_REQUESTS = 60
_HEARD = 30.0
"""Seconds in which istiod has to hand the rule on; it took less than one."""


async def tell_tls(lab: Lab, console: Console, *, bad: bool) -> None:
    """The objects of ``picker-manifest --gateway istio``, without the rule and with it. Raises StoryFailed."""
    folder = EXAMPLES / "base-model"
    await lab.apply(read_objects(folder / "pools.yaml", folder / "gateway.yaml", folder / "route.yaml"))
    url = await lab.gateway.wait_for_gateway()
    lab.picker_options = ("--secure-serving",)
    await lab.start_pickers()
    async with aiohttp.ClientSession() as http:
        without = await _asked(http, url, _REQUESTS)
        console.print(f"TLS without a DestinationRule: {dict(without)}")
        for service in _PICKERS:
            what = PickerInstallation(
                namespace="default", pool="p", service=service, port=9002, image="i", destination_rule=True
            )
            await lab.apply([one for one in picker_objects(what) if one["kind"] == "DestinationRule"])

        async def heard() -> bool:
            return set(await _asked(http, url, 1)) == {200}

        await eventually(heard, timeout=_HEARD, every=0.2)
        having = await _asked(http, url, _REQUESTS)
    console.print(f"TLS with the DestinationRules of picker-manifest: {dict(having)}")
    if set(without) != {500} or set(having) != {200}:
        raise StoryFailed(f"without the rules {dict(without)}, with them {dict(having)}")


async def _asked(http: aiohttp.ClientSession, url: str, count: int) -> Counter[int]:
    async def one() -> int:
        request = {"model": "mymodel", "prompt": "a", "max_tokens": 3}
        async with http.post(f"{url}/v1/completions", json=request) as answer:
            return answer.status

    return Counter(await asyncio.gather(*(one() for _ in range(count))))
