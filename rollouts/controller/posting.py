"""One POST to a receiver: to the administrator's address alone, within a time, with credentials read anew."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import aiohttp

from rollouts.controller.notification_messages import Message, render, signature_headers
from rollouts.controller.notification_settings import Receiver, wrong_url
from rollouts.engine.rollout_status import Notice
from rollouts.runtime.objects import ObjectKey

__all__ = ["NotTaken", "Post", "Undelivered", "exchange", "post", "undelivered"]

_NEVER_TAKEN = frozenset({400, 413, 415, 422})
"""The receiver has understood the request and does not want it: the same body will not do later."""
_FILE_LIMIT = 64 * 1024
_LONGEST_RETRY_AFTER = 600.0

T = TypeVar("T")

Post = Callable[[Receiver, ObjectKey, str, Notice, datetime], Awaitable[None]]
"""Deliver a notice of the Rollout with this key and UID at this moment. Raises Undelivered and NotTaken."""


class Undelivered(Exception):
    """Not delivered, or not known to be: worth another try, in ``after`` seconds at the earliest."""

    def __init__(self, message: str, *, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class NotTaken(Exception):
    """The receiver will never take it."""


async def post(receiver: Receiver, key: ObjectKey, uid: str, notice: Notice, now: datetime) -> None:
    """Deliver a notice."""
    await exchange(receiver, render(receiver.type, key, uid, notice), notice.id, now, _judge)


async def exchange(
    receiver: Receiver,
    message: Message,
    message_id: str,
    now: datetime,
    read: Callable[[aiohttp.ClientResponse], Awaitable[T]],
) -> T:
    """One signed POST, and what ``read`` makes of the answer. Raises Undelivered, and what ``read`` raises.

    A redirect is not followed: it would be an address that nobody configured.
    """
    try:
        url = receiver.url or _read(receiver.url_file)
        if wrong := wrong_url(url):
            raise Undelivered(f"{receiver.url_file}: {wrong}")
        headers = {"Content-Type": message.content_type, "User-Agent": "inference-rollouts"}
        if receiver.bearer_token_file:
            headers["Authorization"] = f"Bearer {_read(receiver.bearer_token_file)}"
        secrets = _read(receiver.secret_file).splitlines() if receiver.secret_file else []
        if receiver.secret_file and not secrets:
            raise ValueError(f"{receiver.secret_file} is empty")
        headers |= signature_headers(secrets, message_id, now, message.body)
        context = ssl.create_default_context(cafile=receiver.ca_file) if receiver.ca_file else True
    except (OSError, ValueError) as error:
        raise Undelivered(f"a file of the receiver cannot be used: {error}") from None
    timeout = aiohttp.ClientTimeout(total=receiver.timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.post(
                url, data=message.body, headers=headers, ssl=context, allow_redirects=False
            ) as answer,
        ):
            return await read(answer)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        # The words of a client error hold the URL, which may be the secret.
        raise Undelivered(type(error).__name__) from None


async def _judge(answer: aiohttp.ClientResponse) -> None:
    if 200 <= answer.status < 300:
        return
    if answer.status in _NEVER_TAKEN:
        raise NotTaken(f"HTTP {answer.status}")
    raise undelivered(answer)


def undelivered(answer: aiohttp.ClientResponse) -> Undelivered:
    """An answer that is none, with the time that it asks to be left alone for."""
    after = 0.0
    with contextlib.suppress(ValueError):
        after = float(answer.headers.get("Retry-After", "0"))
    # What a server asks for is heeded within limits; NaN and negative numbers are none.
    return Undelivered(f"HTTP {answer.status}", after=min(after, _LONGEST_RETRY_AFTER) if after > 0 else 0.0)


def _read(path: str) -> str:
    with Path(path).open(encoding="utf-8") as file:
        return file.read(_FILE_LIMIT).strip()
