"""The question of an approval by HTTP, and its answer: a CloudEvent out, a few fields of JSON in.

Whatever is no answer is none: another status than 200, a redirect, a body that is too long or no JSON, a decision of
another spelling. Nothing of it passes; what is printed is text of one line without control characters.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp

from rollouts.api.scalars import format_time
from rollouts.controller.notification_messages import Message
from rollouts.controller.notification_settings import Receiver
from rollouts.controller.posting import Undelivered, exchange, undelivered
from rollouts.engine.attempt import ApprovalDecision
from rollouts.runtime.objects import ObjectKey

__all__ = ["ApprovalAnswer", "Ask", "Question", "ask", "read_answer"]

_LONGEST_ANSWER = 16 * 1024
_LONGEST_MESSAGE, _LONGEST_NAME = 256, 128
"""Characters that a status, an Event and a history keep of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May this step go on? ``id`` is the same in every try; ``step`` counts from 1."""

    id: str
    webhook: str
    since: datetime
    attempt: int
    step: int
    steps: int
    weight: str
    stable: str
    canary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalAnswer:
    """What the receiver says; ``by`` and ``message`` are text for people."""

    decision: ApprovalDecision
    message: str = ""
    by: str = ""


Ask = Callable[[Receiver, ObjectKey, str, Question, datetime], Awaitable[ApprovalAnswer]]
"""Put the question of the Rollout with this key and UID at this moment. Raises Undelivered."""


async def ask(
    receiver: Receiver, key: ObjectKey, uid: str, question: Question, now: datetime
) -> ApprovalAnswer:
    """One POST, signed as notifications are."""
    return await exchange(receiver, _event(key, uid, question), question.id, now, _read)


def _event(key: ObjectKey, uid: str, question: Question) -> Message:
    """CloudEvents 1.0, structured mode."""
    event = {
        "specversion": "1.0",
        "id": question.id,
        "source": f"/apis/inferencerollouts.dev/v1alpha1/namespaces/{key.namespace}/rollouts/{key.name}",
        "type": "dev.inferencerollouts.rollout.approval",
        "subject": f"{key.namespace}/{key.name}",
        "time": format_time(question.since),
        "datacontenttype": "application/json",
        "data": {
            "namespace": key.namespace,
            "name": key.name,
            "uid": uid,
            "webhook": question.webhook,
            "attempt": question.attempt,
            "step": question.step,
            "steps": question.steps,
            "weight": question.weight,
            "stable": question.stable,
            "canary": question.canary,
        },
    }
    body = json.dumps(event, separators=(",", ":")).encode()
    return Message(body, "application/cloudevents+json; charset=utf-8")


async def _read(answer: aiohttp.ClientResponse) -> ApprovalAnswer:
    if answer.status != 200:
        raise undelivered(answer)
    body = b""
    async for part in answer.content.iter_chunked(4096):
        body += part
        if len(body) > _LONGEST_ANSWER:
            raise Undelivered(f"the answer is longer than {_LONGEST_ANSWER} bytes")
    return read_answer(body)


def read_answer(body: bytes) -> ApprovalAnswer:
    """The answer's fields. Raises Undelivered where it is none."""
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise Undelivered("the answer is no JSON") from None
    if not isinstance(found, dict):
        raise Undelivered("the answer is no JSON object")
    try:
        decision = ApprovalDecision(found.get("decision"))
    except ValueError:
        raise Undelivered("the answer has no decision: approve, deny or wait") from None
    return ApprovalAnswer(
        decision=decision,
        message=_plain(found.get("message"), _LONGEST_MESSAGE),
        by=_plain(found.get("by"), _LONGEST_NAME),
    )


def _plain(text: Any, most: int) -> str:
    """Printable text of one line; what is no text is none."""
    if not isinstance(text, str):
        return ""
    return " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * most]).split())[:most]
