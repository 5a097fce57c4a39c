"""Load on the gateway, and who answered it: an open-loop generator with windowed counts.

Open loop: requests leave at their own times whether or not earlier ones have come back, so a slow canary
does not slow the load down and hide itself. Bounded in time, rate and requests in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

__all__ = ["Result", "Traffic", "TrafficSpec", "TrafficWindow"]

_MODEL = re.compile(rb'"model":\s*"([^"]{0,253})"')
_ERROR_EVENT = b'data: {"error"'
_LAST_EVENT = b"data: [DONE]"
_KEPT_RESULTS = 200_000
_KEPT_BODY = 2**20
_WORD = "lorem "
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSpec:
    """The load. ``rate`` is requests a second, ``streamed`` the share with server-sent events.

    With ``ignore_eos`` (vLLM's) each answer has all of its ``max_tokens``.

    Prompt lengths are lognormal around ``prompt_tokens``. With ``sessions`` each request belongs to one of
    that many sessions, named in ``session_header``. It ends by itself after ``seconds``.
    """

    url: str
    model: str = "mymodel"
    rate: float = 20.0
    seconds: float = 60.0
    streamed: float = 0.5
    chat: bool = True
    prompt_tokens: float = 40.0
    prompt_tokens_sigma: float = 0.6
    max_tokens: int = 16
    ignore_eos: bool = False
    sessions: int = 0
    session_header: str = "x-session-id"
    headers: Mapping[str, str] = field(default_factory=dict)
    max_in_flight: int = 1000
    timeout: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.rate <= 10_000 and 0 < self.seconds <= 86_400):
            raise ValueError("rate must be in (0, 10000] and seconds in (0, 86400]: the load is bounded")
        if not 0 <= self.streamed <= 1:
            raise ValueError("streamed is a share, 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One request. Times are of the monotonic clock, in seconds; ``status`` 0 is no answer at all.

    ``failed``: no answer, a 5xx, an error inside a stream that began with 200, or one that ends before its last event.
    """

    sent_at: float
    seconds: float
    first_byte_seconds: float
    status: int
    pod: str = ""
    model: str = ""
    session: str = ""
    failed: bool = False
    cold: bool = False
    """A simulated server says that it was cold: the first token came late for that."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class TrafficWindow:
    """The requests that were sent in some stretch of time and have ended."""

    results: Sequence[Result]

    def __len__(self) -> int:
        return len(self.results)

    @property
    def failed(self) -> int:
        """Requests without a good answer."""
        return sum(result.failed for result in self.results)

    def by_model(self) -> Counter[str]:
        """Requests by the model name in the answer; empty for none."""
        return Counter(result.model for result in self.results)

    def share(self, is_canary: Callable[[Result], bool]) -> tuple[int, int]:
        """How many of the answered requests ``is_canary``, and how many were answered."""
        answered = [result for result in self.results if result.pod]
        return sum(is_canary(result) for result in answered), len(answered)

    def quantile(self, q: float) -> float:
        """Quantile of the time to the first byte of the body, in seconds, of good answers; NaN for none."""
        times = sorted(result.first_byte_seconds for result in self.results if not result.failed)
        return times[min(len(times) - 1, int(q * len(times)))] if times else math.nan


class Traffic:
    """Sends the load and keeps the last results. Use as an async context manager, or start and stop."""

    def __init__(self, spec: TrafficSpec) -> None:
        self.spec = spec
        self.results: deque[Result] = deque(maxlen=_KEPT_RESULTS)
        self.skipped = 0
        """Requests that were not sent because too many were in flight."""
        self._random = random.Random(spec.seed)
        self._enough = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._in_flight: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> bool:
        """Whether it still sends."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def wait(self) -> None:
        """Wait until everything is sent and answered."""
        if self._task is not None:
            await self._task

    async def finish(self) -> None:
        """Send no more, and wait until everything is answered."""
        self._enough.set()
        await self.wait()

    async def stop(self) -> None:
        """Send no more and drop what is in flight."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def window(self, since: float, until: float = math.inf) -> TrafficWindow:
        """Ended requests that were sent in [since, until) of ``time.monotonic()``."""
        return TrafficWindow([result for result in self.results if since <= result.sent_at < until])

    async def __aenter__(self) -> Traffic:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(total=self.spec.timeout)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            try:
                await self._send_all(session)
                if self._in_flight:
                    await asyncio.wait(self._in_flight)
            finally:
                for task in self._in_flight:
                    task.cancel()
                await asyncio.gather(*self._in_flight, return_exceptions=True)

    async def _send_all(self, session: aiohttp.ClientSession) -> None:
        due = time.monotonic()
        end = due + self.spec.seconds
        while due < end:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), max(0.0, due - time.monotonic()))
                return
            if len(self._in_flight) < self.spec.max_in_flight:
                task = asyncio.create_task(self._request(session))
                self._in_flight.add(task)
                task.add_done_callback(self._in_flight.discard)
            else:
                self.skipped += 1
            due += self._random.expovariate(self.spec.rate)

    async def _request(self, session: aiohttp.ClientSession) -> None:
        spec, began = self.spec, time.monotonic()
        headers = dict(spec.headers)
        name = f"session-{self._random.randrange(spec.sessions)}" if spec.sessions else ""
        if name:
            headers[spec.session_header] = name
        path = "/v1/chat/completions" if spec.chat else "/v1/completions"
        try:
            async with session.post(spec.url + path, data=self._body(), headers=headers) as answer:
                first, body = await _read(answer)
                self.results.append(_result(answer, body, began, first, name))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            now = time.monotonic() - began
            self.results.append(
                Result(
                    sent_at=began,
                    seconds=now,
                    first_byte_seconds=now,
                    status=0,
                    session=name,
                    failed=True,
                    error=f"{type(error).__name__}: {error}"[:200],
                )
            )

    def _body(self) -> aiohttp.BytesPayload:
        spec = self.spec
        tokens = spec.prompt_tokens * math.exp(self._random.gauss(0.0, spec.prompt_tokens_sigma))
        text = (_WORD * math.ceil(tokens))[: max(1, round(tokens * _CHARACTERS_PER_TOKEN))]
        body: dict[str, object] = {"model": spec.model, "max_tokens": spec.max_tokens}
        body |= {"ignore_eos": True} if spec.ignore_eos else {}
        body |= {"messages": [{"role": "user", "content": text}]} if spec.chat else {"prompt": text}
        if self._random.random() < spec.streamed:
            body["stream"] = True
        return aiohttp.BytesPayload(json.dumps(body).encode(), content_type="application/json")


async def _read(answer: aiohttp.ClientResponse) -> tuple[float, bytes]:
    """Monotonic time of the first byte of the body, and its beginning and end."""
    first, kept = 0.0, bytearray()
    async for chunk in answer.content.iter_any():
        first = first or time.monotonic()
        kept += chunk
        if len(kept) > _KEPT_BODY:
            del kept[_KEPT_BODY // 2 : -_KEPT_BODY // 4]
    return first or time.monotonic(), bytes(kept)


def _result(answer: aiohttp.ClientResponse, body: bytes, began: float, first: float, session: str) -> Result:
    model = _MODEL.search(body) if answer.status == 200 else None
    broken = _ERROR_EVENT in body
    streamed = answer.status == 200 and answer.content_type == "text/event-stream"
    cut = streamed and not broken and not body.rstrip().endswith(_LAST_EVENT)
    return Result(
        sent_at=began,
        seconds=time.monotonic() - began,
        first_byte_seconds=first - began,
        status=answer.status,
        pod=answer.headers.get("x-inference-pod", ""),
        model=model.group(1).decode(errors="replace") if model else "",
        session=session,
        failed=broken or cut or answer.status >= 500,
        cold="x-inference-cold" in answer.headers,
        error="error inside the stream" if broken else "the stream ended early" if cut else "",
    )
