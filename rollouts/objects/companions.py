"""Pools whose pods work for those of a version, as pools and Rollouts name them: prefill beside decode.

A pool says by a label which pool's version it belongs to; a Rollout lists it (``capacity.with``). Either is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.objects.pools import ROLES_ANNOTATION, read_roles, with_role

__all__ = ["MOST", "ROLE_LABEL", "WITH_LABEL", "Belongs", "belongs", "companions_of", "roles_hint", "within"]

WITH_LABEL = "inferencerollouts.dev/with"
"""On an InferencePool: the name of the InferencePool of the version that its pods work for."""

ROLE_LABEL = "inferencerollouts.dev/role"
"""Beside it: what tells several companions of a version apart, such as ``prefill`` and ``encode``."""

MOST = 8
"""Companions of one version: a status names each, for each version that lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Belongs:
    """A pool, and the version that it belongs to, as one of both says it."""

    pool: str
    of: str
    role: str = ""


def belongs(pool: Mapping[str, Any]) -> Belongs | None:
    """What a raw InferencePool says by its labels; None where it says nothing."""
    meta = metadata_of(pool)
    labels = map_of(meta.get("labels"))
    of, name = text_of(labels.get(WITH_LABEL)), text_of(meta.get("name"))
    return Belongs(pool=name, of=of, role=text_of(labels.get(ROLE_LABEL))) if of and name else None


def within(pool: Mapping[str, Any]) -> list[Belongs]:
    """Of a raw InferencePool the pods of other roles than the one that requests are sent to: they work for that one."""
    name, roles = text_of(metadata_of(pool).get("name")), read_roles(pool)
    others = roles.others if roles is not None and name else ()
    return [Belongs(pool=with_role(name, role), of=name, role=role) for role in others]


_ROLE_OF_LLM_D = "llm-d.ai/role"


def roles_hint(templates: Sequence[Mapping[str, Any]]) -> str:
    """Labels of Pod templates of one pool: how to say that they are roles of one version, as the end of a message.

    The label is llm-d's, or the first that has another value in each; the first value is decode where there is one.
    """
    names = set(templates[0]).intersection(*templates) if templates else set()
    apart = [name for name in sorted(names) if len({one[name] for one in templates}) == len(templates)]
    label = _ROLE_OF_LLM_D if _ROLE_OF_LLM_D in apart or not apart else apart[0]
    values = [one[label] for one in templates] if label in apart else ["decode", "prefill"]
    values.sort(key=lambda value: (value != "decode", value))
    said = f"{ROLES_ANNOTATION}: {label}={','.join(values)}"
    return f"; where they are roles of one version, such as prefill beside decode, say which pods get requests: {said}"


def companions_of(
    version: str, labelled: Iterable[Belongs], listed: Iterable[Belongs]
) -> dict[str, str] | str:
    """By role the pools that belong to a version; a text says why nobody can tell which.

    ``labelled``: what the listed pools say, and those with the label of the version; ``listed``: all that the Rollout
    says.
    """
    said: dict[str, Belongs] = {one.pool: one for one in labelled}
    found = {one.pool: one.role for one in said.values() if one.of == version}
    for one in listed:
        other = said.get(one.pool)
        if other is not None and other.of != one.of and version in (other.of, one.of):
            return (
                f"InferencePool {one.pool} belongs to {other.of} by its label {WITH_LABEL}, and to {one.of} by "
                "capacity.with: take one of both away"
            )
        if one.of == version:
            found[one.pool] = one.role or found.get(one.pool, "")
    roles: dict[str, str] = {}
    for pool, role in sorted(found.items()):
        if pool == version:
            return f"InferencePool {pool} is its own companion by {WITH_LABEL}: name the pool that its pods work for"
        if role in roles:
            what = f" of role {role}" if role else ""
            return (
                f"{version} has two companions{what}: {roles[role]} and {pool}: give each a role of its own by the "
                f"label {ROLE_LABEL}, or by role in capacity.with"
            )
        roles[role] = pool
    return roles if len(roles) <= MOST else f"{version} has {len(roles)} companions: {MOST} are the most"
