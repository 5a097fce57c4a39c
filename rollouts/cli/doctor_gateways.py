"""What ``doctor`` says of the gateways behind a route: which they are, and what is known of splits there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rollouts.cli.findings import Check, Level, bad, warn
from rollouts.objects.pools import POOL_GROUPS, Pool
from rollouts.peers import GatewayPeer, Holds, peer_of, version_in

__all__ = ["gateway_checks", "unread_pool"]

_NEW_GATEWAY = "see docs/peers: whoever knows this gateway adds a file"
_LEVELS = {
    Holds.WORKS: Level.FINE,
    Holds.CAUTION: Level.WARN,
    Holds.FAILS: Level.BAD,
    Holds.UNKNOWN: Level.WARN,
}


def gateway_checks(route: str, controller: str, images: Sequence[str] | None) -> Iterator[Check]:
    """For one controllerName. ``images`` are those of the cluster's Deployments; None: they may not be read."""
    peer = peer_of(controller)
    if peer is None:
        yield warn(
            f"HTTPRoute {route}: nothing is known of the gateway behind it (controllerName {controller[:200]})",
            _NEW_GATEWAY,
        )
        return
    version = version_in(images or (), peer.image)
    where = f"HTTPRoute {route}: behind it is {peer.name}, {f'version {version}' if version else 'of unknown version'}"
    rows = peer.splits(images)
    for row in rows:
        may = "perhaps: " if len(rows) > 1 else ""
        yield Check(
            level=_LEVELS[row.holds] if not may else Level.WARN, text=f"{where}; {may}{row.says}", fix=row.fix
        )


def unread_pool(pool: Pool, peers: Sequence[GatewayPeer]) -> Iterator[Check]:
    """A pool of the alpha group on gateways that read v1 alone."""
    for peer in peers:
        if peer.reads == ("v1",) and pool.group != POOL_GROUPS[0]:
            yield bad(
                f"InferencePool {pool.name} is of {pool.group}, and {peer.name} reads only v1",
                f"create it in {POOL_GROUPS[0]}, then list it there in every rule (docs/operations.md, moving pools)",
            )
