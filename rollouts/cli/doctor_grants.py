"""What ``doctor`` says of a route's backends in other namespaces: the ReferenceGrant that each needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollouts.cli.findings import Check, bad, fine, warn
from rollouts.objects.grants import ForeignRef

__all__ = ["grant_checks"]

_FOREIGN = "no Rollout here moves its weight: a Rollout's pools are those of its own namespace"


def grant_checks(
    route: str, refs: Sequence[ForeignRef], grants: Mapping[str, Sequence[Mapping[str, Any]] | None]
) -> Iterator[Check]:
    """``grants`` are those of each namespace; None: they may not be read there."""
    for ref in refs:
        where = f"HTTPRoute {route}: rule {ref.rule} lists {ref.shown}"
        there = grants.get(ref.namespace)
        if there is None:
            yield warn(
                f"{where}; whether a ReferenceGrant there allows it may not be read", f"it needs {ref.grant}"
            )
        elif found := ref.granted_by(there):
            yield fine(f"{where}, which ReferenceGrant {ref.namespace}/{found} allows; {_FOREIGN}")
        else:
            yield bad(
                f"{where}, and no ReferenceGrant there allows it: gateways answer its share with 500",
                ref.grant,
            )
