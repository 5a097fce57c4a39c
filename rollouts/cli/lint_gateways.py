"""``lint --gateway``: what is known of a gateway, applied to the files of Rollouts that split pools there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollouts.api.parsing import parse_rollout
from rollouts.engine.rollout_spec import HttpRouteTraffic
from rollouts.objects.fields import metadata_of, text_at
from rollouts.objects.kinds import GROUP
from rollouts.objects.pools import POOL_GROUPS, POOL_KIND
from rollouts.peers import GatewayPeer, Holds, gateway_peers

__all__ = ["GATEWAYS", "gateway_findings"]

GATEWAYS = tuple(peer.key for peer in gateway_peers())


def gateway_findings(documents: Sequence[Mapping[str, Any]], key: str) -> Iterator[tuple[str, str, bool]]:
    """``Kind/name``, a sentence, and whether it keeps rollouts from working."""
    peer = next(one for one in gateway_peers() if one.key == key)
    for obj in documents:
        group, kind = str(obj.get("apiVersion", "")).partition("/")[0], obj.get("kind")
        if (group, kind) == (GROUP, "Rollout"):
            yield from _rollout(obj, peer)
        elif kind == POOL_KIND and group == POOL_GROUPS[1] and peer.reads == ("v1",):
            yield f"{kind}/{_name(obj)}", f"{peer.name} reads only v1: write it for {POOL_GROUPS[0]}", True


def _name(obj: Mapping[str, Any]) -> str:
    return text_at(metadata_of(obj), "name") or "(no name)"


def _rollout(obj: Mapping[str, Any], peer: GatewayPeer) -> Iterator[tuple[str, str, bool]]:
    parsed = parse_rollout(obj)
    if parsed.spec is None or not isinstance(parsed.spec.traffic, HttpRouteTraffic):
        return
    rows = peer.splits(None)
    for row in rows:
        if row.holds is Holds.WORKS:
            continue
        may, fix = ("perhaps: " if len(rows) > 1 else ""), (f": {row.fix}" if row.fix else "")
        bad = all(one.holds is Holds.FAILS for one in rows)
        yield f"Rollout/{parsed.name}", f"on {peer.name}, {may}{row.says}{fix}", bad
