"""What a new attempt at an adapter waits for on the pods, in words that name them."""

from __future__ import annotations

from collections.abc import Iterable

from rollouts.controller.adapter_content import AdapterOnPod, Held, Serving
from rollouts.engine.observation import Blocker
from rollouts.engine.reasons import Reason
from rollouts.engine.versions import Identity

__all__ = ["missing", "some_names"]

_SHOWN = 4


def some_names(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def missing(arm: Identity, serving: Serving) -> list[Blocker]:
    """Pods that do not serve the candidate yet, by name."""
    total = len(serving.states)
    if serving.mismatched:
        return [_mismatch(arm, serving)]
    if serving.lacking:
        failed = [f"{state.pod}: {state.problem}" for state in serving.states if state.problem]
        what = (
            f"being loaded from {arm.source}"
            if arm.source
            else "load it there, or give target.adapter.source"
        )
        message = (
            f"adapter {arm.name} is missing on {len(serving.lacking)} of {total} Ready pods "
            f"({some_names(serving.lacking)}): {what}{'; ' + failed[0] if failed else ''}"
        )
        return [Blocker(reason=Reason.ADAPTER_MISSING, message=message)]
    if serving.unproven:
        problem = next((_unproven(state) for state in serving.unproven), "")
        message = (
            f"adapter {arm.name} has not answered a probe on {len(serving.unproven)} of {total} Ready pods "
            f"({some_names(state.pod for state in serving.unproven)}): {problem}"
        )
        return [Blocker(reason=Reason.ADAPTER_UNPROVEN, message=message)]
    return []


def _unproven(state: AdapterOnPod) -> str:
    if state.listed and state.held is Held.UNSAID:
        return (
            "/v1/models lists it without a root, so nobody knows what it is: leave target.adapter.source out"
        )
    return state.problem or "asking"


def _mismatch(arm: Identity, serving: Serving) -> Blocker:
    """Other content under the candidate's name, and who takes it off."""
    first, total = serving.mismatched[0], len(serving.states)
    names = some_names(state.pod for state in serving.mismatched)
    wanted = f"not from {arm.source}" if arm.source else "which an earlier attempt left there"
    busy = [state.pod for state in serving.mismatched if state.in_flight]
    wait = f"; requests for it may still run on {some_names(busy)}" if busy else ""
    message = (
        f"{len(serving.mismatched)} of {total} Ready pods ({names}) list adapter {arm.name} from {first.root}, "
        f"{wanted}: "
        "what an ended attempt of this Rollout loaded is taken off once no weight, request or other Rollout needs it, "
        f"anything else has to be unloaded by whom it belongs to, or give the new adapter a name of its own{wait}"
    )
    return Blocker(reason=Reason.ADAPTER_CONTENT_MISMATCH, message=message)
