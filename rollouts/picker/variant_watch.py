"""Tells the log what changes in PoolSplits: weights loaded, pods that serve nothing, splits without pods."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from rollouts.picker.core.variants import VariantSplit, VariantTable

__all__ = ["VariantWatch"]

_SHOWN = 10
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was said of a PoolSplit."""

    weights: tuple[tuple[str, int], ...] = ()
    unmatched: frozenset[str] = frozenset()
    without_pods: bool = False
    problems: tuple[str, ...] = ()


class VariantWatch:
    """Remembers what was said, so that each thing is said once."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], _Seen] = {}

    def look(self, variants: VariantTable) -> None:
        """Say what is new since the last look."""
        before, self._seen = self._seen, {}
        for key, split in variants.by_key.items():
            self._seen[key] = _say(split, before.get(key, _Seen()))
        for namespace, name in sorted(set(before) - set(self._seen)):
            _log.info("pool_split_gone", namespace=namespace, name=name)


def _say(split: VariantSplit, before: _Seen) -> _Seen:
    source = split.rule.split
    place = {"namespace": source.namespace, "name": source.name, "pool": source.pool}
    seen = _Seen(
        tuple((variant.name, variant.weight) for variant in source.variants),
        frozenset(split.rule.unmatched),
        split.strays,
        split.rule.problems,
    )
    if seen.weights != before.weights:
        _log.info("pool_split_loaded", **place, model=source.model_name, weights=dict(seen.weights))
    if new := sorted(seen.unmatched - before.unmatched):
        _log.warning("unmatched_pods", **place, pods=new[:_SHOWN], count=len(seen.unmatched))
    if seen.without_pods and not before.without_pods:
        _log.warning("split_without_pods", **place, serving="all Ready pods")
    if before.without_pods and not seen.without_pods:
        _log.info("split_has_pods", **place)
    for problem in seen.problems:
        if problem not in before.problems:
            _log.warning("pool_split_problem", **place, problem=problem)
    return seen
