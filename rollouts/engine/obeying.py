"""Whether the replicas of a pool's endpoint picker go by the weights that are stored (design rules 4 and 6).

A picker reads weights by itself. A replica whose watch is broken, or that runs an older image, splits as before and
says so on its metrics page: nothing rises meanwhile, and no status calls an abort done that it has not heard of.
"""

from __future__ import annotations

from datetime import timedelta

from rollouts.engine.draft import Draft, Said
from rollouts.engine.reasons import Reason

__all__ = ["goes_by_other", "has_told", "serving"]

_SOON, _LATER = timedelta(seconds=1), timedelta(seconds=30)
_SHOWN = 4


def goes_by_other(draft: Draft) -> Said | None:
    """Which replicas go by other weights than the stored ones."""
    pickers, traffic = draft.obs.pickers, draft.obs.traffic
    if not pickers.behind or traffic is None:
        return None
    draft.wake(_LATER)
    said = "; ".join(f"{pod} {what}" for pod, what in pickers.behind[:_SHOWN])
    return Reason.PICKER_BEHIND, (
        f"{said}{_more(len(pickers.behind))}, and {traffic.kind} {traffic.name} says {pickers.stored}: that replica of "
        "the endpoint picker does not hear of changes, see its log; deleted, it starts anew and reads them"
    )


def has_told(draft: Draft) -> bool:
    """Whether every replica goes by the stored weights, or does not say what it goes by."""
    return not draft.obs.pickers.behind and not _waited_for(draft)


def _waited_for(draft: Draft) -> tuple[str, ...]:
    """Replicas that are to say yet what they go by: all of them where this plan writes."""
    pickers = draft.obs.pickers
    return pickers.replicas if draft.writes_traffic or draft.returning else pickers.asked


def serving(draft: Draft, who: str) -> str:
    """That a version serves everybody, in words: only as far as the replicas say so."""
    pickers, behind = draft.obs.pickers, goes_by_other(draft)
    if behind is not None:
        return f"{who} DOES NOT GET ALL REQUESTS: {behind[1]}"
    if waited := _waited_for(draft):
        draft.wake(_SOON)
        return f"{who} gets all requests once {_names(waited)}, the endpoint picker, has loaded that"
    if pickers.silent:
        draft.wake(_LATER)
        return (
            f"{who} serves, as far as is known: {_names(pickers.silent)}, the endpoint picker, does not say"
        )
    return f"{who} serves"


def _names(pods: tuple[str, ...]) -> str:
    return f"{', '.join(pods[:_SHOWN])}{_more(len(pods))}"


def _more(count: int) -> str:
    return f" and {count - _SHOWN} more" if count > _SHOWN else ""
