"""Deleting a Rollout never leaves a half-weighted route behind (design rule 12)."""

from __future__ import annotations

from dataclasses import replace

from rollouts.engine.actions import (
    ReleaseTraffic,
    ReleaseTrafficMode,
    SetFinalizer,
    WriteReason,
    WriteTraffic,
)
from rollouts.engine.converging import desired_traffic, rule_share
from rollouts.engine.draft import Draft
from rollouts.engine.ending import terminate_runs
from rollouts.engine.observation import Claim, TrafficView
from rollouts.engine.types import FULL, ZERO, OnDelete, TrafficMode

__all__ = ["finalize", "keep_finalizer"]


def finalize(draft: Draft) -> None:
    """One round of saying goodbye: traffic first, then the label, then the finalizer."""
    if not draft.obs.has_finalizer:
        return
    terminate_runs(draft)
    traffic = draft.obs.traffic
    if draft.obs.spec is None or traffic is None or not traffic.exists or traffic.claim is Claim.OTHER:
        draft.actions.append(SetFinalizer(present=False))
        return
    if _restore(draft, traffic) or _release(draft, traffic):
        return
    draft.actions.append(SetFinalizer(present=False))


def _restore(draft: Draft, traffic: TrafficView) -> bool:
    """RestoreStable: 100 % stable, unless stable has no endpoint that could take it."""
    if draft.spec.on_delete is not OnDelete.RESTORE_STABLE or draft.status.stable is None:
        return False
    desired = desired_traffic(draft, draft.status)
    if desired is None or draft.obs.ready(desired.stable) == 0:
        return False
    desired = replace(desired, weight=ZERO, header_routes=())
    if not traffic.header_routes and all(rule_share(r, desired) in (ZERO, None) for r in traffic.rules):
        return False
    draft.actions.append(
        WriteTraffic(desired=desired, resource_version=traffic.resource_version, reason=WriteReason.ABORT)
    )
    return True


def _release(draft: Draft, traffic: TrafficView) -> bool:
    if traffic.mode is not TrafficMode.MANAGED or traffic.claim is not Claim.OURS or traffic.deleting:
        return False
    delete = draft.spec.on_delete is OnDelete.DELETE_TRAFFIC
    mode = ReleaseTrafficMode.DELETE if delete else ReleaseTrafficMode.DROP_LABEL
    draft.actions.append(ReleaseTraffic(mode=mode, resource_version=traffic.resource_version))
    return True


def keep_finalizer(draft: Draft) -> None:
    """The finalizer exists only while both arms carry weight, or with DeleteTraffic.

    It is added together with the write that needs it (``converging``) and taken away here.
    """
    if draft.obs.spec is None:
        return
    wanted = draft.spec.on_delete is OnDelete.DELETE_TRAFFIC
    if wanted and not draft.obs.has_finalizer and not any(isinstance(a, SetFinalizer) for a in draft.actions):
        draft.actions.insert(0, SetFinalizer(present=True))
    if wanted or not draft.obs.has_finalizer or draft.writes_traffic:
        return
    if not _split(draft):
        draft.actions.append(SetFinalizer(present=False))


def _split(draft: Draft) -> bool:
    """Whether both arms carry weight, or are about to, or a rule of ours leads past the weights."""
    status, traffic = draft.status, draft.obs.traffic
    if status.canary is not None and ZERO < (status.weight.desired or ZERO) < FULL:
        return True
    if traffic is not None and traffic.header_routes:
        return True
    desired = desired_traffic(draft, status)
    if desired is None or traffic is None or not traffic.exists:
        return False
    return any(ZERO < (rule_share(rule, desired) or ZERO) < FULL for rule in traffic.rules)
