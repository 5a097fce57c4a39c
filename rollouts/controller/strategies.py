"""Shared strategies of Rollouts: what the attempt has pinned, and what the next one would, from the caches."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from rollouts.api.parsing import ParsedRollout, SpecCache, parse_rollout
from rollouts.api.strategies import StrategyFault, StrategyRef, pin_strategy
from rollouts.controller.caches import Caches
from rollouts.controller.gates import UNCHECKED_REASON
from rollouts.engine.attempt import PinnedStrategy
from rollouts.engine.observation import Blocker, Problem, StrategyView
from rollouts.engine.reasons import Reason
from rollouts.runtime.objects import Object, ObjectKey, key_of

__all__ = ["SharedStrategies", "held_back", "unfit"]

_PINS = 1_000
"""Strategies that are kept as they were pinned last, and with each its object, though that may be gone meanwhile: more
than a cluster has in use, and the oldest is only pinned again."""

_PARSED = 2_000
"""Rollouts that are kept as they were parsed last, each with its object: mostly something else wakes them."""

_NOT_WATCHED = (
    "this controller does not read ClusterRolloutStrategies: start it with --cluster-templates (chart: "
    "clusterTemplates), or use a RolloutStrategy of the namespace"
)


def held_back(
    parsed: ParsedRollout, view: StrategyView | None, wrong: tuple[Problem, ...]
) -> tuple[StrategyView | None, tuple[Problem, ...]]:
    """Where nothing is under way, gates of a shared strategy that cannot run keep an attempt from beginning.

    The Rollout itself is not wrong, nor are all the others that share the strategy.
    """
    unchecked = any(problem.reason == UNCHECKED_REASON for problem in wrong)
    if view is None or view.problem or not wrong or unchecked or parsed.status.current is not None:
        return view, wrong
    return unfit(parsed, view, Blocker(reason=wrong[0].reason, message=wrong[0].message)), ()


def unfit(parsed: ParsedRollout, view: StrategyView, wrong: Blocker) -> StrategyView:
    """The strategy as one that no attempt may begin with."""
    assert parsed.strategy_ref is not None
    text = f"{parsed.strategy_ref.label}: {wrong.message}"
    return replace(view, problem=Blocker(reason=wrong.reason, message=text))


class SharedStrategies:
    """Parses Rollouts with the strategies that they name."""

    def __init__(self, caches: Caches) -> None:
        self._caches = caches
        self._specs, self._following = SpecCache(), SpecCache()
        self._pins: OrderedDict[tuple[str, ObjectKey], tuple[Object, PinnedStrategy | StrategyFault]] = (
            OrderedDict()
        )
        """Of the store's object, which is another one after each change."""
        self._parsed: OrderedDict[ObjectKey, tuple[Object, ParsedRollout]] = OrderedDict()

    def following(self, rollout: Object, view: StrategyView | None) -> ParsedRollout | None:
        """The Rollout with the strategy that its next attempt would go by, where that is another one."""
        if view is None or view.next is None or view.next == view.used or view.problem is not None:
            return None
        return parse_rollout(rollout, self._following, strategy=view.next)

    def parse(self, rollout: Object) -> tuple[ParsedRollout, StrategyView | None]:
        """The Rollout with the strategy that its attempt goes by, and that strategy; None where it names none."""
        parsed = self._read(rollout)
        named, pinned = parsed.strategy_ref, parsed.strategy
        if named is None:
            return parsed, None
        found = self._live(parsed.namespace, named)
        if isinstance(found, Blocker):
            return self._unusable(rollout, parsed, found)
        if pinned is not None and pinned.content == found.content:
            # Sound in itself, and what the attempt is made of with the Rollout's fields as they are.
            return parsed, StrategyView(used=pinned, next=found, spec=parsed.spec)
        following = parse_rollout(rollout, self._following, strategy=found)
        new = [one for one in following.problems if one not in parsed.problems]
        if new:
            text = f"{named.label} cannot be used by this Rollout: {new[0].message}"
            return self._unusable(rollout, parsed, Blocker(reason=Reason.STRATEGY_INVALID, message=text))
        if pinned is None:
            parsed = following
        return parsed, StrategyView(used=pinned or found, next=found, spec=following.spec)

    def forget(self, key: ObjectKey) -> None:
        """The Rollout is gone."""
        self._parsed.pop(key, None)

    def _read(self, rollout: Object) -> ParsedRollout:
        """The Rollout as it says itself; of one object of the store always the same."""
        key = key_of(rollout)
        known = self._parsed.pop(key, None)
        if known is None or known[0] is not rollout:
            known = (rollout, parse_rollout(rollout, self._specs))
        self._parsed[key] = known
        if len(self._parsed) > _PARSED:
            self._parsed.popitem(last=False)
        return known[1]

    def _unusable(
        self, rollout: Object, parsed: ParsedRollout, problem: Blocker
    ) -> tuple[ParsedRollout, StrategyView]:
        """No attempt begins; one that is under way goes on by what it has pinned, or stays where another is named."""
        current = parsed.status.current
        if current is None or parsed.strategy is not None:
            return parsed, StrategyView(used=parsed.strategy, problem=problem)
        wrong = Problem(reason=problem.reason, message=problem.message)
        former = parse_rollout(rollout, self._following, strategy=current.strategy)
        former = replace(former, problems=(*former.problems, wrong))
        return former, StrategyView(used=current.strategy, problem=problem)

    def _live(self, namespace: str, named: StrategyRef) -> PinnedStrategy | Blocker:
        """What the object says now."""
        if named.cluster and not self._caches.watches_cluster_templates:
            return Blocker(reason=Reason.STRATEGY_MISSING, message=f"{named.label}: {_NOT_WATCHED}")
        store = self._caches.cluster_strategies if named.cluster else self._caches.strategies
        key = ObjectKey("" if named.cluster else namespace, named.name)
        obj, place = store.get(key), (named.kind, key)
        if obj is None:
            self._pins.pop(place, None)
            text = (
                f"{named.label} does not exist: create it, correct strategy.canaryFrom, or write canary.steps"
            )
            return Blocker(reason=Reason.STRATEGY_MISSING, message=text)
        known = self._pins.get(place)
        if known is None or known[0] is not obj:
            # The API server's lists leave the kind out of their items.
            known = self._pins[place] = (obj, pin_strategy({**obj, "kind": named.kind}))
            if len(self._pins) > _PINS:
                self._pins.popitem(last=False)
        pin = known[1]
        if isinstance(pin, StrategyFault):
            return Blocker(reason=Reason.STRATEGY_INVALID, message=f"{named.label}: {pin.text}")
        return pin
