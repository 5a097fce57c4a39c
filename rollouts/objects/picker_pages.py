"""Names of series that our endpoint pickers export and the controller reads: one place for both."""

from __future__ import annotations

__all__ = [
    "CONFIGURED_WEIGHT",
    "DRAINING",
    "IN_FLIGHT",
    "POOL_SPLITS_READ",
    "SPLIT_WITHOUT_PODS",
    "TO_DRAINING",
    "UNMATCHED_POD",
]

DRAINING = "inference_picker_endpoint_draining"
"""Gauge by pool and pod: 1 while the picker spares the pod."""

IN_FLIGHT = "inference_picker_endpoint_in_flight"
"""Gauge by pool and pod: requests that the pod may have in flight, as far as this picker knows."""

TO_DRAINING = "inference_picker_requests_to_draining"
"""Counter by pool (``_total``): requests that pods about to go got all the same. A picker without it knows no drain."""

POOL_SPLITS_READ = "inference_picker_pool_splits_read"
"""Gauge without labels: 1 while the picker knows the PoolSplits of its pools, 0 while it may not read them or the kind
is not served. A picker without it knows no PoolSplit."""

CONFIGURED_WEIGHT = "inference_picker_configured_weight"
"""Gauge of the weights that the picker has loaded, as fractions of one: by model and target_model of rules, by model,
pool, variant and split (its name) of PoolSplits. ``model`` is ``*`` for all."""

SPLIT_WITHOUT_PODS = "inference_picker_split_without_pods"
"""Gauge by model and pool of each PoolSplit: 1 while no weighted variant has a Ready pod, so that all of them serve."""

UNMATCHED_POD = "inference_picker_unmatched_pod"
"""Gauge by model, pool and pod, always 1: a Ready pod that belongs to no variant, or to several, and serves nothing."""
