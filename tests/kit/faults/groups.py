"""Groups of KServe as checkers see them: a member's weight changed, so the group did, which is one traffic object."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rollouts.kube.client import WatchType
from rollouts.lab.memoryapi.history import Change
from rollouts.objects import kinds
from rollouts.objects.claims import CONSENT_ANNOTATION

__all__ = ["Groups"]

Object = dict[str, Any]


class Groups:
    """The weights of the members, by group; those of none are left as they are."""

    def __init__(self) -> None:
        self._weights: dict[str, dict[str, int]] = {}
        self._consented: set[str] = set()
        """Members that have consented once: their weights are given back, whatever becomes of that (rule 6)."""

    def take(self, change: Change) -> Change:
        """The change of a member's weight as one of its group; every other change as it is."""
        if (change.group, change.plural) != (kinds.LLM_SERVICE.group, kinds.LLM_SERVICE.plural):
            return change
        route = change.obj["spec"]["router"]["route"]
        members = self._weights.setdefault(route["group"], {})
        before = dict(members)
        if change.type is WatchType.DELETED:
            members.pop(self._shown(change.obj), None)
        else:
            members[self._shown(change.obj)] = route["weight"]
        if members == before:
            return change
        return replace(
            change,
            type=WatchType.MODIFIED,
            name=route["group"],
            obj=_shares(members),
            previous=_shares(before) if before else None,
        )

    def _shown(self, member: Object) -> str:
        """A member of no Rollout is an entry of others, which checkers tell by a slash."""
        name, annotations = str(member["metadata"]["name"]), member["metadata"].get("annotations") or {}
        if CONSENT_ANNOTATION in annotations:
            self._consented.add(name)
        return name if name in self._consented else f"others/{name}"


def _shares(members: dict[str, int]) -> Object:
    return {"spec": {"shares": [{"name": name, "weight": weight} for name, weight in members.items()]}}
