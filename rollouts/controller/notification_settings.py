"""Whom the controller may tell, and of what: the part ``notifications`` of its configuration file.

::

    notifications:
      receivers:
        models-channel: {type: slack, urlFile: /etc/notifications/slack-url}
        audit:
          type: webhook
          url: https://audit.example/rollouts
          secretFile: /etc/notifications/audit-secret
          bearerTokenFile: /etc/notifications/audit-token
          caFile: /etc/tls/ca.crt
          timeout: 5s
          perMinute: 60
          namespaces: [team-a]
      triggers:
        on-gate-held: {phases: [Paused], reasons: [GateFailed, GateInconclusive]}
      subscriptions:
      - {receivers: [audit], triggers: [on-aborted, on-promoted], namespaces: [team-a]}

Addresses and credentials are the administrator's alone. A Rollout subscribes by an annotation in Argo CD's form,
``notifications.inferencerollouts.dev/subscribe.<trigger>.<receiver>: ""``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from rollouts.api.scalars import parse_duration
from rollouts.engine.notices import NoticeTrigger
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_status import Phase

__all__ = [
    "BUILT_IN_TRIGGERS",
    "SUBSCRIBE_PREFIX",
    "Asked",
    "NotificationError",
    "NotificationSettings",
    "Receiver",
    "ReceiverType",
    "Subscription",
    "is_name",
    "parse_notifications",
    "subscription_of",
]

SUBSCRIBE_PREFIX = "notifications.inferencerollouts.dev/subscribe."
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?$")
"""Without dots, and two of them with ``subscribe.`` fit the 63 characters of an annotation's name."""
_MOST = 32
"""Receivers, triggers and subscriptions each: what is asked for each Rollout at each change stays small."""
_LONGEST_TIMEOUT = 60.0

BUILT_IN_TRIGGERS = {
    trigger.name: trigger
    for trigger in (
        NoticeTrigger(
            name="on-started", phases=frozenset({Phase.PROGRESSING}), reasons=frozenset({Reason.STARTED})
        ),
        NoticeTrigger(
            name="on-promoted", phases=frozenset({Phase.HEALTHY}), reasons=frozenset({Reason.PROMOTED})
        ),
        NoticeTrigger(name="on-aborted", phases=frozenset({Phase.ABORTED})),
        NoticeTrigger(name="on-paused", phases=frozenset({Phase.PAUSED})),
        NoticeTrigger(name="on-invalid", phases=frozenset({Phase.INVALID})),
        NoticeTrigger(name="on-waiting", phases=frozenset({Phase.WAITING})),
    )
}


def subscription_of(annotation: str) -> tuple[str, str] | None:
    """Trigger and receiver that an annotation's name asks for; None where it is no subscription."""
    if not annotation.startswith(SUBSCRIBE_PREFIX):
        return None
    trigger, _, receiver = annotation.removeprefix(SUBSCRIBE_PREFIX).partition(".")
    return trigger, receiver


def is_name(text: str) -> bool:
    """Whether a receiver or a trigger can be called so."""
    return _NAME.match(text) is not None


class NotificationError(ValueError):
    """The part ``notifications`` is wrong; the text says what and where."""


class ReceiverType(Enum):
    """What a receiver reads."""

    WEBHOOK = "webhook"
    """A CloudEvent in JSON, structured mode."""
    SLACK = "slack"
    """The ``text`` of Slack's incoming webhooks, which Mattermost, Rocket.Chat and others take, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """One address. ``url`` or ``url_file`` is set; ``timeout`` in seconds; no ``namespaces``: all of them."""

    name: str
    type: ReceiverType
    url: str = ""
    url_file: str = ""
    secret_file: str = ""
    bearer_token_file: str = ""
    ca_file: str = ""
    timeout: float = 10.0
    per_minute: int = 30
    namespaces: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Rollouts of ``namespaces`` (none: all) tell ``receivers`` when ``triggers`` fire, asked or not."""

    receivers: tuple[str, ...]
    triggers: tuple[str, ...]
    namespaces: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked for one Rollout. ``unknown`` are annotations that nothing comes of, with the reason."""

    pairs: tuple[tuple[NoticeTrigger, str], ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationSettings:
    """Receivers and triggers by name; without receivers nobody is ever told anything."""

    receivers: Mapping[str, Receiver] = field(default_factory=dict)
    triggers: Mapping[str, NoticeTrigger] = field(default_factory=lambda: BUILT_IN_TRIGGERS)
    subscriptions: tuple[Subscription, ...] = ()

    def asked(self, namespace: str, annotations: Any) -> Asked:
        """What subscriptions and the annotations of a Rollout ask for."""
        pairs: dict[tuple[str, str], None] = {}
        for one in self.subscriptions:
            if not one.namespaces or namespace in one.namespaces:
                pairs |= {(trigger, receiver): None for trigger in one.triggers for receiver in one.receivers}
        unknown = []
        for name in sorted(map(str, annotations)) if isinstance(annotations, Mapping) else ():
            if (found := subscription_of(name)) is not None:
                trigger, receiver = found
                if (wrong := self._wrong(trigger, receiver, namespace)) is None:
                    pairs[trigger, receiver] = None
                else:
                    unknown.append(f"annotation {name}: {wrong}")
        allowed = [pair for pair in pairs if self._wrong(*pair, namespace) is None]
        return Asked(
            pairs=tuple((self.triggers[trigger], receiver) for trigger, receiver in allowed),
            unknown=tuple(unknown),
        )

    def approver(self, name: str, namespace: str) -> Receiver | str:
        """The receiver that answers whether Rollouts of the namespace may go on, or why there is none."""
        answering = {
            one.name: one
            for one in self.receivers.values()
            if one.type is ReceiverType.WEBHOOK and (not one.namespaces or namespace in one.namespaces)
        }
        if name in answering:
            return answering[name]
        there = ", ".join(sorted(answering)) or "none"
        return (
            f"no receiver {name!r} of type webhook that answers for namespace {namespace}; there are {there}"
        )

    def _wrong(self, trigger: str, receiver: str, namespace: str) -> str | None:
        if trigger not in self.triggers:
            return f"no trigger {trigger!r}; there are {', '.join(sorted(self.triggers))}"
        allowed = [
            one.name for one in self.receivers.values() if not one.namespaces or namespace in one.namespaces
        ]
        if receiver not in allowed:
            return f"no receiver {receiver!r}; there are {', '.join(sorted(allowed)) or 'none'}"
        return None


# --- reading ---------------------------------------------------------------------------------------

_FILES = {
    "url": "url",
    "urlFile": "url_file",
    "secretFile": "secret_file",
    "bearerTokenFile": "bearer_token_file",
    "caFile": "ca_file",
}


def parse_notifications(data: Any) -> NotificationSettings:
    """The part ``notifications``. Raises NotificationError."""
    body = _mapping(data, "notifications", {"receivers", "triggers", "subscriptions"})
    receivers = {
        name: _receiver(name, fields)
        for name, fields in _named(body.get("receivers"), "notifications.receivers")
    }
    own = {
        name: _trigger(name, fields)
        for name, fields in _named(body.get("triggers"), "notifications.triggers")
    }
    triggers = {**BUILT_IN_TRIGGERS, **own}
    given = body.get("subscriptions") or []
    if not isinstance(given, list) or len(given) > _MOST:
        raise NotificationError(f"notifications.subscriptions: must be a list of at most {_MOST}")
    subscriptions = tuple(_subscription(item, receivers, triggers) for item in given)
    return NotificationSettings(receivers=receivers, triggers=triggers, subscriptions=subscriptions)


def _mapping(data: Any, where: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise NotificationError(f"{where}: must be a mapping with {', '.join(sorted(known))}")
    unknown = sorted(map(str, set(data) - known))
    if unknown:
        raise NotificationError(
            f"{where}: unknown: {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    return data


def _named(data: Any, where: str) -> Iterator[tuple[str, Any]]:
    if data is not None and (not isinstance(data, Mapping) or len(data) > _MOST):
        raise NotificationError(f"{where}: must map names to at most {_MOST} entries")
    for name, fields in (data or {}).items():
        if not isinstance(name, str) or not _NAME.match(name):
            text = "a name has at most 30 lower-case letters, digits and dashes"
            raise NotificationError(f"{where}: {name!r}: {text}")
        yield name, fields


def _receiver(name: str, data: Any) -> Receiver:
    where = f"notifications.receivers.{name}"
    fields = _mapping(data, where, {"type", *_FILES, "timeout", "perMinute", "namespaces"})
    texts = {field: fields.get(key) or "" for key, field in _FILES.items()}
    if not all(isinstance(text, str) for text in texts.values()):
        raise NotificationError(f"{where}: {', '.join(_FILES)} are text")
    if bool(texts["url"]) == bool(texts["url_file"]):
        raise NotificationError(f"{where}: needs exactly one of url and urlFile")
    if texts["url"] and (wrong := wrong_url(texts["url"])):
        raise NotificationError(f"{where}: {wrong}")
    try:
        kind = ReceiverType(fields.get("type", "webhook"))
        timeout = parse_duration(fields.get("timeout", "10s")).total_seconds()
    except (ValueError, TypeError) as error:
        raise NotificationError(f"{where}: {error}") from None
    if not 0 < timeout <= _LONGEST_TIMEOUT:
        raise NotificationError(f"{where}: timeout must be above 0 s and at most {_LONGEST_TIMEOUT:g} s")
    per_minute = fields.get("perMinute", 30)
    if not isinstance(per_minute, int) or isinstance(per_minute, bool) or not 1 <= per_minute <= 6000:
        raise NotificationError(f"{where}: perMinute must be a whole number from 1 to 6000")
    return Receiver(
        name=name,
        type=kind,
        timeout=timeout,
        per_minute=per_minute,
        namespaces=frozenset(_texts(fields.get("namespaces"), f"{where}.namespaces")),
        **texts,
    )


def wrong_url(url: str) -> str:
    """What is wrong with an address; empty for nothing. Never shows it: a path may be a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "the URL must be http:// or https:// with a host"
    if parts.username or parts.password:
        return "no credentials in the URL: use bearerTokenFile, or put the whole URL into a file (urlFile)"
    return ""


def _texts(data: Any, where: str) -> tuple[str, ...]:
    if data is None:
        return ()
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise NotificationError(f"{where}: must be a list of names")
    return tuple(data)


def _trigger(name: str, data: Any) -> NoticeTrigger:
    where = f"notifications.triggers.{name}"
    fields = _mapping(data, where, {"phases", "reasons"})
    phases = _texts(fields.get("phases"), f"{where}.phases")
    reasons = _texts(fields.get("reasons"), f"{where}.reasons")
    known = {phase.value: phase for phase in Phase if phase is not Phase.NEW}
    for word, among, what in (
        *((phase, set(known), "phase") for phase in phases),
        *((reason, set(Reason), "reason") for reason in reasons),
    ):
        if word not in among:
            listed = f"; there are {', '.join(known)}" if what == "phase" else ", see docs/troubleshooting.md"
            raise NotificationError(f"{where}: no {what} {word!r}{listed}")
    if not phases and not reasons:
        raise NotificationError(f"{where}: needs phases or reasons")
    return NoticeTrigger(
        name=name,
        phases=frozenset(known[phase] for phase in phases) or frozenset(known.values()),
        reasons=frozenset(reasons),
    )


def _subscription(
    data: Any, receivers: Mapping[str, Receiver], triggers: Mapping[str, NoticeTrigger]
) -> Subscription:
    where = "notifications.subscriptions"
    fields = _mapping(data, where, {"receivers", "triggers", "namespaces"})
    named = {
        key: _texts(fields.get(key), f"{where}.{key}") for key in ("receivers", "triggers", "namespaces")
    }
    for key, known in (("receivers", receivers), ("triggers", triggers)):
        if not named[key]:
            raise NotificationError(f"{where}: an entry needs {key}")
        for name in named[key]:
            if name not in known:
                there = ", ".join(sorted(known)) or "none"
                raise NotificationError(f"{where}: no {key[:-1]} {name!r}; there are {there}")
    return Subscription(
        receivers=named["receivers"], triggers=named["triggers"], namespaces=frozenset(named["namespaces"])
    )
