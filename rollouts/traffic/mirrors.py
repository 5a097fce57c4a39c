"""What an HTTPRoute does with requests beside weighing pools: copies them (RequestMirror), or keeps sessions together.

Field names: ``filters[].requestMirror.{backendRef,percent,fraction}`` of rules and of backendRefs, and
``sessionPersistence`` of rules (Gateway API v1, GEP-3171 and GEP-1619).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.objects.fields import list_of, map_of, text_of
from rollouts.traffic.backends import backend_refs, rules_of

__all__ = ["Mirror", "keeps_sessions", "mirrors_of"]

_DEFAULT_KIND = "Service"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Mirror:
    """Where copies go. ``namespace`` empty: that of the route."""

    group: str
    kind: str
    namespace: str
    name: str


def mirrors_of(spec: Any) -> frozenset[Mirror]:
    """Every backend that a route's spec sends copies of requests to; shares of nothing are none."""
    found = set()
    for rule in rules_of(spec):
        for holder in (map_of(rule), *map(map_of, backend_refs(rule))):
            for item in list_of(holder.get("filters")):
                mirror = map_of(map_of(item).get("requestMirror"))
                if map_of(item).get("type") == "RequestMirror" and not _nothing(mirror):
                    found.add(_mirror(map_of(mirror.get("backendRef"))))
    return frozenset(found)


def _mirror(ref: Mapping[str, Any]) -> Mirror:
    return Mirror(
        group=text_of(ref.get("group")),
        kind=text_of(ref.get("kind")) or _DEFAULT_KIND,
        namespace=text_of(ref.get("namespace")),
        name=text_of(ref.get("name")),
    )


def _nothing(mirror: Mapping[str, Any]) -> bool:
    """Whether ``percent`` or ``fraction`` is 0; absent means all."""
    return mirror.get("percent") == 0 or map_of(mirror.get("fraction")).get("numerator") == 0


def keeps_sessions(spec: Any) -> bool:
    """Whether a rule with backends keeps sessions where they are."""
    return any(map_of(rule).get("sessionPersistence") and backend_refs(rule) for rule in rules_of(spec))
