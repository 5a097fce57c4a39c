"""What ``lint`` says of a Rollout's subscriptions to notifications; own triggers are the administrator's to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rollouts.cli.lint_findings import Finding, hint, problem
from rollouts.cli.lint_kinds import name_of
from rollouts.cli.lint_words import nearest
from rollouts.cli.yaml_source import Path
from rollouts.controller.notification_settings import (
    BUILT_IN_TRIGGERS,
    SUBSCRIBE_PREFIX,
    is_name,
    subscription_of,
)
from rollouts.objects.fields import map_of, metadata_of

__all__ = ["notification_findings"]

_DOMAIN = SUBSCRIBE_PREFIX.partition("/")[0]
_FOREIGN = "notifications.argoproj.io/subscribe."
"""Of Argo CD's notifications, which read Applications and Argo's own Rollouts."""
_RULE = "notification"


def notification_findings(rollout: Mapping[str, Any]) -> Iterator[Finding]:
    """Annotations that ask for messages, and of which none comes."""
    where = name_of(rollout)
    for name in map(str, map_of(metadata_of(rollout).get("annotations"))):
        path = ("metadata", "annotations", name)
        if name.startswith(_FOREIGN):
            text = f"annotation {name:.120} is Argo CD's, which does not read Rollouts of ours: "
            instead = SUBSCRIBE_PREFIX + name.removeprefix(_FOREIGN)
            yield hint(where, f"{text}write {instead:.120}", rule=_RULE, path=path, named=True)
        elif name.startswith(f"{_DOMAIN}/"):
            yield from _subscription(where, name, path)


def _subscription(where: str, name: str, path: Path) -> Iterator[Finding]:
    form = f"write {SUBSCRIBE_PREFIX}TRIGGER.RECEIVER, such as {SUBSCRIBE_PREFIX}on-aborted.models-channel"
    asked = subscription_of(name)
    if asked is None or not all(map(is_name, asked)):
        text = f"annotation {name:.120} subscribes to nothing: {form}"
        yield problem(where, text, rule=_RULE, path=path, named=True)
        return
    trigger, receiver = asked
    if trigger in BUILT_IN_TRIGGERS:
        return
    if receiver in BUILT_IN_TRIGGERS:
        told = f"the trigger comes first: write {SUBSCRIBE_PREFIX}{receiver}.{trigger}"
    elif near := nearest(trigger, BUILT_IN_TRIGGERS):
        told = f"did you mean {near}?"
    else:
        told = f"built in are {', '.join(sorted(BUILT_IN_TRIGGERS))}"
    said = (
        f"annotation {name:.120}: the trigger {trigger} must be one that the administrator configured; {told}"
    )
    yield hint(where, said, rule=_RULE, path=path, named=True)
