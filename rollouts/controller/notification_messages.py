"""A notice as bytes for its receiver: CloudEvents or Slack's text, and the signature of Standard Webhooks.

Pure. A tenant's text is data: in JSON it is a string, for Slack it stands in a code block, where neither Slack nor
those that read Markdown in its place (Mattermost, Rocket.Chat) know markup, links or mentions.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rollouts.api.scalars import format_time
from rollouts.controller.notification_settings import ReceiverType
from rollouts.engine.rollout_status import Notice
from rollouts.runtime.objects import ObjectKey

__all__ = ["Message", "render", "signature_headers"]

_PATH = "/apis/inferencerollouts.dev/v1alpha1/namespaces"
_SECRET_PREFIX = "whsec_"


@dataclass(frozen=True, slots=True)
class Message:
    """Body of a POST and its type."""

    body: bytes
    content_type: str


def render(kind: ReceiverType, key: ObjectKey, uid: str, notice: Notice) -> Message:
    """The message in the receiver's form."""
    if kind is ReceiverType.SLACK:
        return Message(_json({"text": _slack_text(key, notice)}), "application/json")
    return Message(_json(_cloud_event(key, uid, notice)), "application/cloudevents+json; charset=utf-8")


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _cloud_event(key: ObjectKey, uid: str, notice: Notice) -> dict[str, Any]:
    """CloudEvents 1.0, structured mode. ``id`` is the notice's: the same in every try, so that receivers can tell."""
    return {
        "specversion": "1.0",
        "id": notice.id,
        "source": f"{_PATH}/{key.namespace}/rollouts/{key.name}",
        "type": f"dev.inferencerollouts.rollout.{notice.phase.lower()}",
        "subject": f"{key.namespace}/{key.name}",
        "time": format_time(notice.at),
        "datacontenttype": "application/json",
        "data": {
            "namespace": key.namespace,
            "name": key.name,
            "uid": uid,
            "trigger": notice.trigger,
            "phase": notice.phase,
            "reason": notice.reason,
            "message": notice.message,
            "attempt": notice.attempt,
            "stable": notice.stable,
            "canary": notice.canary,
        },
    }


def _slack_text(key: ObjectKey, notice: Notice) -> str:
    return (
        f"{_plain(f'{key.namespace}/{key.name}')}: {_plain(notice.phase)}\n```\n{_plain(notice.message)}\n```"
    )


def _plain(text: str) -> str:
    """Text without a way out of a code block, in the three entities of Slack (and no others)."""
    printable = "".join(char if char.isprintable() else " " for char in text).replace("`", "'")
    return printable.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def signature_headers(secrets: Iterable[str], message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks 1.0: ``v1,`` and the HMAC-SHA256 of ``<id>.<timestamp>.<body>`` in base64.

    One signature for each secret, so that a secret can be changed without a gap. A secret is ``whsec_`` and base64,
    or is taken as it is. Without secrets there is no signature. Raises ValueError for a secret that is no base64.
    """
    stamp = str(int(at.timestamp()))
    headers = {"webhook-id": message_id, "webhook-timestamp": stamp}
    signed = f"{message_id}.{stamp}.".encode() + body
    made = [
        "v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()
        for secret in secrets
    ]
    return headers | {"webhook-signature": " ".join(made)} if made else headers


def _key(secret: str) -> bytes:
    if not secret.startswith(_SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"a secret that begins with {_SECRET_PREFIX} goes on in base64") from None
