"""What people write who come from other tools, and what it is here; and the nearest word to a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any

__all__ = ["ARGO_GROUP", "FLAGGER_GROUP", "FOREIGN", "foreign_fields", "nearest", "plain"]

ARGO_GROUP = "argoproj.io"
FLAGGER_GROUP = "flagger.app"

_LONGEST_WORD = 64
_WIDEST = 64
_PODS = (
    "of Argo Rollouts, which makes pods; here pools have their pods from a Deployment of their own: remove it"
)
_SPLIT = "of Argo Rollouts: here weights move in spec.traffic.httpRoutes between InferencePools"
_ROUTE = "of Argo Rollouts: name the route in spec.traffic.httpRoutes, and the new pool in spec.target.pool"

FOREIGN: Mapping[str, str] = {
    # Argo Rollouts, spec
    "replicas": _PODS,
    "selector": _PODS,
    "workloadRef": _PODS,
    "revisionHistoryLimit": _PODS,
    "minReadySeconds": _PODS,
    "restartAt": _PODS,
    "progressDeadlineSeconds": "of Argo Rollouts and Flagger: write strategy.canary.progressDeadline: 10m",
    "progressDeadlineAbort": "of Argo Rollouts: write strategy.canary.onDeadline: Abort",
    "blueGreen": "of Argo Rollouts: write canary with steps: `- setWeight: 1`, a gate, and the end, which is 100 %",
    # Argo Rollouts, strategy.canary
    "maxSurge": _PODS,
    "maxUnavailable": _PODS,
    "minPodsPerReplicaSet": _PODS,
    "dynamicStableScale": _PODS,
    "scaleDownDelaySeconds": "of Argo Rollouts: write strategy.canary.capacity: {scaleDown: {delay: 10m}}",
    "scaleDownDelayRevisionLimit": _PODS,
    "abortScaleDownDelaySeconds": "of Argo Rollouts: write strategy.canary.capacity: {scaleDown: {delay: 10m}}",
    "antiAffinity": _PODS,
    "canaryMetadata": _PODS,
    "stableMetadata": _PODS,
    "canaryService": _ROUTE,
    "stableService": _ROUTE,
    "activeService": _ROUTE,
    "previewService": _ROUTE,
    "pingPong": _ROUTE,
    "trafficRouting": _ROUTE,
    "autoPromotionEnabled": "of Argo Rollouts: a step `- pause: {}` waits for `rollouts promote`",
    "autoPromotionSeconds": "of Argo Rollouts: write a step `- pause: {duration: 10m}`",
    "prePromotionAnalysis": "of Argo Rollouts: write a step `- analysis:` before the last weight",
    "postPromotionAnalysis": "of Argo Rollouts: write `bake`, and background analysis (strategy.canary.analysis)",
    # Argo Rollouts, steps
    "setCanaryScale": "of Argo Rollouts, which makes pods; here a weight waits until endpoints of the canary pool "
    "are Ready (strategy.canary.endpointRatio), and strategy.canary.capacity scales it with the weight: remove it",
    "setMirrorRoute": f"{_SPLIT}, and mirroring is not ours: remove the step",
    "experiment": "of Argo Rollouts: write a step `- job:` or `- analysis:`",
    "plugin": "of Argo Rollouts: write a step `- job:`",
    "replicaProgressThreshold": _PODS,
    # Argo Rollouts, analysis
    "provider": "of Argo Rollouts and Flagger: write query and source (the server's configured name), or measure",
    "prometheus": "of Argo Rollouts: write query and source (the server's configured name), or measure",
    "valueFrom": "of Argo Rollouts: write value; namespace, rollout, canary and stable are built in as {{args.canary}}",
    "measurementRetention": "of Argo Rollouts: runs keep their last measurements by themselves: remove it",
    "unsuccessfulRunHistoryLimit": "of Argo Rollouts: the newest runs are kept by themselves: remove it",
    "successfulRunHistoryLimit": "of Argo Rollouts: the newest runs are kept by themselves: remove it",
    "consecutiveErrorsLimit": "written consecutiveErrorLimit",
    "revisions": "of Argo Rollouts: a window is a time here: rollbackWindow: {duration: 24h}",
    # Flagger
    "targetRef": "of Flagger: write spec.target.pool",
    "service": "of Flagger: write spec.target.pool and spec.traffic.httpRoutes",
    "autoscalerRef": "of Flagger: pools are scaled by whoever owns their pods: remove it",
    "stepWeight": "of Flagger: write each weight as a step, `- setWeight: 10`",
    "stepWeights": "of Flagger: write each weight as a step, `- setWeight: 10`",
    "stepWeightPromotion": "of Flagger: after the last step the canary goes to 100 %: remove it",
    "maxWeight": "of Flagger: the last `- setWeight:` is the largest before 100 %",
    "iterations": "of Flagger: write count and interval in the metric",
    "threshold": "of Flagger: write failureLimit in the metric",
    "thresholdRange": "of Flagger: write successCondition, such as `result < 0.5`",
    "templateRef": "of Flagger: write templates: [{templateName: NAME}] in the gate",
    "templateVariables": "of Flagger: write args: [{name: NAME, value: VALUE}]",
    "webhooks": "of Flagger: write a step `- job:`, or `- approve: {webhook: NAME}` for an approval",
    "mirror": "of Flagger: mirroring is not ours: remove it",
    "mirrorWeight": "of Flagger: mirroring is not ours: remove it",
    "primaryReadyThreshold": "of Flagger: write strategy.canary.endpointRatio",
    "canaryReadyThreshold": "of Flagger: write strategy.canary.endpointRatio",
    "sessionAffinity": "of Flagger: write strategy.canary.sticky, for adapters",
    "skipAnalysis": "of Flagger: `rollouts promote --full NAME` skips what is left",
    "revertOnDeletion": "of Flagger: write onDelete: RestoreStable",
    "suspend": "of Flagger: write paused: true",
    "metricsServer": "of Flagger: the administrator names servers by `controller --source NAME=URL`; write source",
    "alerts": "of Flagger: Argo CD and Flux notify; see the documentation on notifications",
}  # fmt: skip
"""Fields that are nobody's here, and what to write in their place. Sources: the API reference of Argo Rollouts
(``argoproj.io/v1alpha1``) and of Flagger (``flagger.app/v1beta1``)."""


def plain(word: str) -> str:
    """A word without case and joints: ``set_weight`` and ``SetWeight`` are setWeight."""
    return word[:_LONGEST_WORD].replace("_", "").replace("-", "").lower()


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.74) -> str:
    """The known word that was meant; empty when none is near. The work is bounded by the known words."""
    words = {plain(one): one for one in known}
    if plain(word) in words:
        return words[plain(word)]
    if len(word) > _LONGEST_WORD:
        return ""
    return next((words[one] for one in get_close_matches(plain(word), words, n=1, cutoff=cutoff)), "")


def foreign_fields(value: Any, *, limit: int = 6, deepest: int = 6) -> Iterator[str]:
    """Translations of the fields of another tool's object, each once."""
    seen: set[str] = set()
    pending = [(value, 0)]
    while pending and len(seen) < limit:
        node, depth = pending.pop(0)
        if depth > deepest or not isinstance(node, dict | list):
            continue
        if isinstance(node, list):
            pending += [(child, depth + 1) for child in node[:_WIDEST]]
            continue
        for name, child in islice(node.items(), _WIDEST):
            if name in FOREIGN and name not in seen and len(seen) < limit:
                seen.add(name)
                yield f"{name} is {FOREIGN[name]}"
            elif name not in ("template", "metadata"):
                pending.append((child, depth + 1))
