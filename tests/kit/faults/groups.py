"""Traffic objects that are several, as checkers see them: a part's weight changed, so the one traffic object did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from rollouts.carriers import TRAFFIC_KINDS, TrafficKind
from rollouts.kube.client import WatchType
from rollouts.lab.memoryapi.history import Change
from rollouts.objects.claims import CONSENT_ANNOTATION

__all__ = ["PARTS", "Groups", "is_part", "place_of"]

Object = dict[str, Any]

PARTS = tuple((resource, kind) for kind in TRAFFIC_KINDS if kind.made_of for resource in kind.resources)
"""The kinds of objects of which several are one traffic object."""
_KINDS: Mapping[tuple[str, str], TrafficKind] = {(one.group, one.plural): kind for one, kind in PARTS}


def place_of(kind: TrafficKind, part: Object) -> tuple[str, str] | None:
    """Namespace and name of the traffic object that an object says it is a part of."""
    return next((cast("tuple[str, str]", value) for value in kind.indexes[kind.made_of](part)), None)


def is_part(change: Change) -> bool:
    """Whether a change is of an object of such a kind."""
    return (change.group, change.plural) in _KINDS


class Groups:
    """The parts of each traffic object; objects of none are left as they are."""

    def __init__(self) -> None:
        self._parts: dict[Any, dict[str, Object]] = {}
        self._consented: set[str] = set()
        """Parts that have consented once: their weights are given back, whatever becomes of that (rule 6)."""

    def take(self, change: Change) -> Change:
        """The change of a part's weight as one of the whole; every other change as it is."""
        kind = _KINDS.get((change.group, change.plural))
        place = place_of(kind, change.obj) if kind is not None else None
        if kind is None or place is None:
            return change
        parts = self._parts.setdefault((kind.kind, place), {})
        before = self._shares(kind, place, parts)
        if change.type is WatchType.DELETED:
            parts.pop(change.name, None)
        else:
            parts[change.name] = change.obj
        after = self._shares(kind, place, parts)
        if after == before:
            return change
        return replace(change, type=WatchType.MODIFIED, name=place[1], obj=after or {}, previous=before)

    def _shares(self, kind: TrafficKind, place: tuple[str, str], parts: dict[str, Object]) -> Object | None:
        whole = kind.joined(*place, parts.values())
        if whole is None:
            return None
        (found,) = kind.lists(whole)
        return {
            "spec": {"shares": [{**one, "name": self._shown(parts[one["name"]])} for one in found.entries]},
        }

    def _shown(self, part: Object) -> str:
        """A part of no Rollout is an entry of others, which checkers tell by a slash."""
        name, annotations = str(part["metadata"]["name"]), part["metadata"].get("annotations") or {}
        if CONSENT_ANNOTATION in annotations:
            self._consented.add(name)
        return name if name in self._consented else f"others/{name}"
