"""The mixed load of a soak: streamed and plain, 1 KB to 1 MB, and clients that leave at every stage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from urllib.parse import urlsplit

import aiohttp

from benchmarks.picker.soakchecks import SPLIT, Seen

__all__ = ["Load"]

_SIZES = ((1_000, 0.55), (8_000, 0.25), (64_000, 0.12), (256_000, 0.05), (1_000_000, 0.03))
_OTHERS = ("travel-helper-v1", "travel-helper-v2", "mymodel", "unknown-model")
_OTHER_SHARE = 0.08
_ABORTED = 0.15
_SESSIONS = 300
_WITH_SESSION = 0.7
_MAX_IN_FLIGHT = 100


class Load:
    """Open loop at ``rate`` requests a second. ``seen`` has every request that its client saw through."""

    def __init__(self, url: str, *, rate: float, seed: int) -> None:
        self._url = url
        self._rate = rate
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self.seen: list[Seen] = []
        self.sent: Counter[str] = Counter()
        self._prompts = {size: "travel and " * (size // 11) for size, _ in _SIZES}

    async def run(self, seconds: float) -> None:
        """Send for that long and wait for the last answers."""
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            due = time.monotonic()
            end = due + seconds
            while due < end:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if len(self._tasks) < _MAX_IN_FLIGHT:
                    task = asyncio.create_task(self._one(session))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                else:
                    self.sent["skipped"] += 1
                due += self._random.expovariate(self._rate)
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _one(self, session: aiohttp.ClientSession) -> None:
        pick = self._random.random
        asked = self._random.choice(_OTHERS) if pick() < _OTHER_SHARE else SPLIT
        size = self._random.choices([s for s, _ in _SIZES], [w for _, w in _SIZES])[0]
        stream = pick() < 0.5
        headers = {"content-type": "application/json"}
        name = f"session-{self._random.randrange(_SESSIONS)}" if pick() < _WITH_SESSION else ""
        if pick() < _ABORTED:
            name = name or "session-0"  # an aborted request without a session would blur the exact share
            headers["x-session-id"] = name
            await self._leave(session, self._body(asked, size, stream), headers)
            return
        if name:
            headers["x-session-id"] = name
        self.sent["streamed" if stream else "plain"] += 1
        self.sent[f"{size // 1000} KB"] += 1
        await self._ask(session, asked, self._body(asked, size, stream), headers, name)

    def _body(self, model: str, size: int, stream: bool) -> bytes:
        document = {"prompt": self._prompts[size], "model": model, "max_tokens": 12, "stream": stream}
        return json.dumps(document).encode()

    async def _ask(
        self, session: aiohttp.ClientSession, asked: str, body: bytes, headers: dict[str, str], name: str
    ) -> None:
        sent, status, refused, text, detail = time.monotonic(), 0, "", b"", ""
        try:
            async with session.post(
                f"{self._url}/v1/completions", data=aiohttp.BytesPayload(body), headers=headers
            ) as answer:
                status, refused = answer.status, answer.headers.get("x-rollout-rejected", "")
                text = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            detail = f"{type(error).__name__}: {error}"
        model, whole = _read(text) if status == 200 and not detail else ("", not detail)
        self.seen.append(
            Seen(
                sent=sent,
                ended=time.monotonic(),
                asked=asked,
                status=status,
                model=model,
                session=name,
                whole=whole,
                refused=refused,
                detail=detail or text[:200].decode(errors="replace") if status != 200 or detail else "",
            )
        )

    async def _leave(self, session: aiohttp.ClientSession, body: bytes, headers: dict[str, str]) -> None:
        """Abort: in the middle of the body, before the answer, or in the middle of it."""
        stage = self._random.choice(("in the body", "before the answer", "in the answer"))
        self.sent[f"aborted {stage}"] += 1
        if stage == "in the answer":
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with session.post(
                    f"{self._url}/v1/completions", data=aiohttp.BytesPayload(body), headers=headers
                ) as answer:
                    await answer.content.readany()
                    answer.close()
            return
        part = body[: len(body) // 2] if stage == "in the body" else body
        await self._send_and_leave(part, len(body), headers)

    async def _send_and_leave(self, part: bytes, length: int, headers: dict[str, str]) -> None:
        address = urlsplit(self._url)
        lines = [f"{key}: {value}" for key, value in {**headers, "content-length": str(length)}.items()]
        head = "\r\n".join(["POST /v1/completions HTTP/1.1", f"host: {address.netloc}", *lines, "", ""])
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(head.encode() + part)
            await writer.drain()
            await asyncio.sleep(self._random.random() * 0.03)
            writer.transport.abort()


def _read(text: bytes) -> tuple[str, bool]:
    """The model that an answer names in all its events, "several" for more than one, and whether it is whole."""
    if text.startswith(b"data: "):
        events = [line[6:] for line in text.split(b"\n\n") if line.startswith(b"data: {")]
        whole = text.endswith(b"data: [DONE]\n\n")
    else:
        events, whole = [text], True
    try:
        models = {json.loads(event).get("model", "") for event in events}
    except ValueError:
        return "", False
    return (models.pop() if len(models) == 1 else "several"), whole
