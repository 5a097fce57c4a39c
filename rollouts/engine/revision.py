"""Identity and hash of a revision.

The hash is SHA-256 over an algorithm version, the resolved identity and the free ``revision`` string.
It is computed when a target is first seen and stored with the full target in status; from then on the
stored values are compared, so no upgrade, default or discovery changes it.
"""

from __future__ import annotations

import hashlib
import json

from rollouts.engine.observation import Observation
from rollouts.engine.rollout_spec import RolloutSpec
from rollouts.engine.versions import Identity, Revision, RevisionHash, Target

__all__ = ["revision_of", "target_identity"]

_ALGORITHM = "1"


def revision_of(identity: Identity, revision: str) -> Revision:
    """The Revision of a resolved target."""
    parts = [_ALGORITHM, identity.kind, identity.group, identity.name, identity.source, revision]
    # A JSON list, not a joined string: no two different lists have the same text.
    digest = hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()
    return Revision(identity=identity, revision=revision, hash=RevisionHash(digest))


def target_identity(obs: Observation, spec: RolloutSpec) -> Identity | None:
    """``spec.target`` as an identity: a stored one that it names, else what discovery says.

    Stored first, so that a pool that is deleted, or appears in a second API group, does not turn a
    running revision into another one.
    """
    for stored in (obs.status.canary, obs.status.stable):
        if stored is not None and _names(spec.target, stored.identity):
            return stored.identity
    return obs.target


def _names(target: Target, identity: Identity) -> bool:
    same = target.name == identity.name and target.source == identity.source
    return same and target.group in ("", identity.group)
