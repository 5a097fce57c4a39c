"""What the picker says of PoolSplits: that it obeys them, what it has loaded, and which pods serve nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rollouts.objects.picker_pages import (
    CONFIGURED_WEIGHT,
    POOL_SPLITS_READ,
    SPLIT_WITHOUT_PODS,
    UNMATCHED_POD,
)
from rollouts.picker.core.variants import VariantSplit, VariantTable

__all__ = ["MOST_PODS", "VariantMetrics", "describe", "variant_shares"]

MOST_PODS = 200
"""Unmatched pods of a PoolSplit that are named, in series and in the description."""


class VariantMetrics(Collector):
    """Read off the splits when somebody asks; without PoolSplits nothing but that they would be obeyed."""

    def __init__(self, variants: VariantTable, reads_pool_splits: Callable[[], bool]) -> None:
        self._variants = variants
        self._reads = reads_pool_splits

    def collect(self) -> Iterator[Metric]:
        """The gauges of ``objects/picker_pages``."""
        yield GaugeMetricFamily(
            POOL_SPLITS_READ,
            "Whether this picker obeys the PoolSplits of its pools",
            value=float(self._reads()),
        )
        if not self._variants:
            return
        lost = GaugeMetricFamily(
            SPLIT_WITHOUT_PODS,
            "Whether no weighted variant has a Ready pod, so that all Ready pods serve",
            labels=("model", "pool"),
        )
        unmatched = GaugeMetricFamily(
            UNMATCHED_POD,
            "A Ready pod that is no variant's, or several's, and serves nothing of it",
            labels=("model", "pool", "pod"),
        )
        for split in self._variants.by_key.values():
            place = (_model(split), split.rule.split.pool)
            lost.add_metric(place, float(split.strays))
            for pod in split.rule.unmatched[:MOST_PODS]:
                unmatched.add_metric((*place, pod), 1.0)
        yield from (lost, unmatched)


def variant_shares(
    variants: VariantTable, configured: GaugeMetricFamily, observed: GaugeMetricFamily
) -> None:
    """Add the variants' samples, under labels of their own: those of rules have neither pool nor variant."""
    for split in variants.by_key.values():
        place = {"model": _model(split), "pool": split.rule.split.pool}
        whole = sum(variant.weight for variant in split.rule.split.variants)
        seen = sum(split.counts.values())
        for variant in split.rule.split.variants:
            labels = {**place, "variant": variant.name, "split": split.rule.split.name}
            if whole:
                configured.add_sample(CONFIGURED_WEIGHT, labels, variant.weight / whole)
            if seen and variant.name in split.counts:
                observed.add_sample(observed.name, labels, split.counts[variant.name] / seen)


def describe(variants: VariantTable) -> list[dict[str, Any]]:
    """All PoolSplits as this picker goes by them, as JSON: weights, pods by variant, and what is wrong."""
    return [_described(split) for split in variants.by_key.values()]


def _described(split: VariantSplit) -> dict[str, Any]:
    source = split.rule.split
    return {
        "namespace": source.namespace,
        "name": source.name,
        "pool": source.pool,
        "modelName": source.model_name,
        "variants": [
            {
                "name": variant.name,
                "weight": variant.weight,
                "readyPods": sorted({pod.endpoint.pod for pod in split.pods[variant.name]})[:MOST_PODS],
                "requests": split.counts[variant.name],
            }
            for variant in split.variants
        ],
        "unmatchedPods": list(split.rule.unmatched[:MOST_PODS]),
        "withoutPods": split.strays,
        "problems": list(split.problems),
    }


def _model(split: VariantSplit) -> str:
    return split.model_name or "*"
