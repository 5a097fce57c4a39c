"""What clients of one model name see while its adapters are rolled out: shares, sessions, when each weight held.

Requests without a session are sent one after the other, so that their order is the picker's order and the share
of any stretch of them can be held against the weights: error diffusion leaves it off by less than one request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import aiohttp

from rollouts.lab.traffic import Result

__all__ = ["Count", "SessionlessAnswer", "Sessions", "SteadyClient", "count_sessions", "exact_share"]

_MODEL = re.compile(rb'"model":\s*"([^"]{0,253})"')
_PAUSE = 0.01
_TIMEOUT = aiohttp.ClientTimeout(total=10)


@dataclass(frozen=True, slots=True)
class SessionlessAnswer:
    """One request without a session: sent at ``at`` (monotonic seconds), answered by ``model``, "" for an error."""

    at: float
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many of ``total`` answers were the canary's, and how many ``exact`` shares would have been."""

    canary: int
    total: int
    exact: float

    @property
    def off(self) -> float:
        """Requests too many or too few."""
        return abs(self.canary - self.exact)


def exact_share(
    answers: Iterable[SessionlessAnswer], since: float, until: float, *, weight: float, stable: str
) -> Count:
    """Count the answers sent in [since, until) while the canary had ``weight``, a fraction.

    An error counts for the canary: in the lab only a bad canary fails.
    """
    chosen = [answer for answer in answers if since <= answer.at < until]
    canary = sum(answer.model != stable for answer in chosen)
    return Count(canary=canary, total=len(chosen), exact=weight * len(chosen))


class SteadyClient:
    """Sends requests without a session, one after the other, until stopped. Use as an async context manager."""

    def __init__(self, url: str, model: str) -> None:
        self._url = f"{url}/v1/chat/completions"
        document = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}
        self._body = json.dumps(document).encode()
        self._task: asyncio.Task[None] | None = None
        self.answers: list[SessionlessAnswer] = []

    async def __aenter__(self) -> SteadyClient:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            while True:
                self.answers.append(await self._ask(session))
                await asyncio.sleep(_PAUSE)

    async def _ask(self, session: aiohttp.ClientSession) -> SessionlessAnswer:
        began = time.monotonic()
        headers = {"content-type": "application/json"}
        try:
            async with session.post(
                self._url, data=aiohttp.BytesPayload(self._body), headers=headers
            ) as answer:
                found = _MODEL.search(await answer.read()) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            found = None
        return SessionlessAnswer(began, found.group(1).decode(errors="replace") if found else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Sessions by what they met: ``canary`` on the canary at last, ``returned`` from the canary to stable."""

    total: int
    canary: int
    returned: int


def count_sessions(results: Iterable[Result], since: float, *, canary: str) -> Sessions:
    """Follow each session from ``since`` on. Requests that overlap in time have no order, and prove nothing."""
    reached: dict[str, float] = {}
    last: dict[str, str] = {}
    returned: set[str] = set()
    for result in sorted(results, key=lambda one: one.sent_at):
        if result.sent_at < since or not result.session or not result.model:
            continue
        last[result.session] = result.model
        if result.model == canary:
            ended = result.sent_at + result.seconds
            reached[result.session] = min(reached.get(result.session, ended), ended)
        elif reached.get(result.session, result.sent_at) < result.sent_at:
            returned.add(result.session)
    return Sessions(total=len(last), canary=_on(last, canary), returned=len(returned))


def _on(last: Mapping[str, str], model: str) -> int:
    return sum(seen == model for seen in last.values())
