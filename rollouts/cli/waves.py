"""Sync waves of Argo CD: what a Rollout needs must not come in a later one.

Between waves Argo CD waits until everything of the earlier one is Healthy (documentation "Sync Phases and Waves"). A
Rollout waits for its pool; in an earlier wave than the pool both wait for ever, and the commit that would undo it
waits behind them. Objects without the annotation are in wave 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.api.references import version_names
from rollouts.api.strategies import strategy_ref
from rollouts.carriers import TRAFFIC_KINDS, TrafficKind, object_target
from rollouts.objects.fields import list_of, map_of, metadata_of, text_of
from rollouts.objects.pools import Pool
from rollouts.objects.workloads import makes_pods_of, pod_labels

__all__ = ["HOOK_ANNOTATION", "WAVE_ANNOTATION", "WaveFinding", "wave_findings", "wave_of"]

WAVE_ANNOTATION = "argocd.argoproj.io/sync-wave"
HOOK_ANNOTATION = "argocd.argoproj.io/hook"

_HELM_WEIGHT = "helm.sh/hook-weight"
_NUMBER = re.compile(r"[+-]?[0-9]+")
_DIGITS = 10
_PHASES = {"PreSync": -1, "Sync": 0, "PostSync": 1}

_WORKLOADS = ("Deployment", "StatefulSet", "LeaderWorkerSet", "ReplicaSet", "Pod")

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveFinding:
    """``deadlock``: the sync can never end. Else it stays open for as long as the canary takes."""

    rollout: str
    deadlock: bool
    text: str


def wave_of(obj: Object) -> int:
    """The object's wave; what is no number counts as 0, and a Helm hook's weight as a wave, as in Argo CD.

    Argo CD takes what Go's ``strconv.Atoi`` takes; of its own hooks Helm's annotations do not count.
    """
    annotations = map_of(metadata_of(obj).get("annotations"))
    wave = _number(text_of(annotations.get(WAVE_ANNOTATION)))
    if wave is None and HOOK_ANNOTATION not in annotations:
        wave = _number(text_of(annotations.get(_HELM_WEIGHT)))
    return wave or 0


def _number(text: str) -> int | None:
    return int(text) if len(text) <= _DIGITS and _NUMBER.fullmatch(text) else None


def _phase_of(obj: Object) -> int:
    """-1 before the sync, 0 in it, 1 after it: the first that its hook names. Waves count within a phase."""
    hooks = text_of(map_of(metadata_of(obj).get("annotations")).get(HOOK_ANNOTATION))
    found = [_PHASES[hook.strip()] for hook in hooks.split(",") if hook.strip() in _PHASES]
    return min(found, default=0)


def _place(obj: Object) -> tuple[int, int]:
    return _phase_of(obj), wave_of(obj)


def _name(obj: Object) -> str:
    return text_of(metadata_of(obj).get("name"))


def _label(obj: Object) -> str:
    return f"{obj.get('kind')}/{_name(obj)}"


def wave_findings(objects: Sequence[Object]) -> Iterator[WaveFinding]:
    """What the waves of objects that are synced together do to the Rollouts among them."""
    for rollout in objects:
        if not str(rollout.get("apiVersion", "")).startswith("inferencerollouts.dev/"):
            continue
        if rollout.get("kind") == "Rollout":
            yield from _of_rollout(rollout, objects)


def _of_rollout(rollout: Object, objects: Sequence[Object]) -> Iterator[WaveFinding]:
    wave, needed = wave_of(rollout), list(_needed(rollout, objects))
    for other in needed:
        if _phase_of(other) > _phase_of(rollout):
            text = (
                f"{_label(other)}, which it needs, is a PostSync hook: Argo CD waits for the Rollout before it makes "
                f"that, for ever, and so does the commit that reverts it. Take {HOOK_ANNOTATION} off it"
            )
            yield WaveFinding(rollout=_name(rollout), deadlock=True, text=text)
        elif _place(other) > _place(rollout):
            text = (
                f"it is in sync wave {wave}, and {_label(other)}, which it needs, in {wave_of(other)}: Argo CD waits "
                "for the Rollout before it applies that, for ever, and so does the commit that reverts it. Give "
                f'the Rollout the last wave ({WAVE_ANNOTATION}: "{wave_of(other) + 1}")'
            )
            yield WaveFinding(rollout=_name(rollout), deadlock=True, text=text)
    later = [
        other
        for other in objects
        if _phase_of(other) == _phase_of(rollout) and wave_of(other) > wave and other not in needed
    ]
    if later and later != [rollout]:
        text = (
            f"{', '.join(sorted(map(_label, later))[:4])} in a later sync wave than the Rollout ({wave}): every sync "
            "stays open until the canary ends, and the commit that fixes it waits behind. Put the Rollout last"
        )
        yield WaveFinding(rollout=_name(rollout), deadlock=False, text=text)
    hooks = [other for other in objects if _phase_of(other) > 0 and other not in needed]
    if hooks:
        text = (
            f"PostSync hook {_label(hooks[0])} waits until the canary ends, and newer commits behind it: take the hook "
            "out, or out of this Application"
        )
        yield WaveFinding(rollout=_name(rollout), deadlock=False, text=text)


def _needed(rollout: Object, objects: Sequence[Object]) -> Iterator[Object]:
    """What the Rollout cannot be Healthy without: pools, their pods and pickers, its traffic object, its templates."""
    spec = map_of(rollout.get("spec"))
    objects = [other for other in objects if _together(rollout, other)]
    versions, carriers = set(version_names({"spec": spec})), list(_carriers(map_of(spec.get("traffic"))))
    named = strategy_ref(spec)
    strategies = [
        obj for obj in objects if named and (obj.get("kind"), _name(obj)) == (named.kind, named.name)
    ]
    yield from strategies
    templates = {
        *_templates(spec),
        *(name for obj in strategies for name in _templates({"strategy": obj.get("spec")})),
    }
    pools = list[Pool]()
    for obj in objects:
        kind, target = text_of(obj.get("kind")), object_target(text_of(obj.get("kind")))
        if target is not None and (kind, _name(obj)) in versions:
            pools.append(target.pods(obj))
            yield obj
            continue
        template = "Template" in kind and _name(obj) in templates
        if template or any(one.kind == kind and one.is_part(obj, name) for one, name in carriers):
            yield obj
    names = {pool.picker.name for pool in pools if pool.picker is not None}
    services = [obj for obj in objects if obj.get("kind") == "Service" and _name(obj) in names]
    yield from services
    picked = [map_of(map_of(service.get("spec")).get("selector")) for service in services]
    for obj in objects:
        labels = _labels(obj) if obj.get("kind") in _WORKLOADS else {}
        picks = any(one and one.items() <= labels.items() for one in picked)
        if picks or any(makes_pods_of(labels, pool) for pool in pools):
            yield obj


def _carriers(traffic: Object) -> Iterator[tuple[TrafficKind, str]]:
    """The traffic objects that somebody else makes."""
    for kind in TRAFFIC_KINDS:
        for entry in kind.said(traffic) if kind.in_git else ():
            if text_of(entry.get("name")) and not entry.get("template"):
                yield kind, text_of(entry.get("name"))


def _together(rollout: Object, other: Object) -> bool:
    """Whether both may be in one namespace: where one names none, the Application does, or ``kubectl``."""
    names = {text_of(metadata_of(one).get("namespace")) for one in (rollout, other)} - {""}
    return len(names) < 2


def _templates(spec: Object) -> Iterator[str]:
    canary = map_of(map_of(spec.get("strategy")).get("canary"))
    gates = [map_of(step).get("analysis") for step in list_of(canary.get("steps"))]
    for gate in (*gates, canary.get("analysis")):
        for ref in list_of(map_of(gate).get("templates")):
            yield text_of(map_of(ref).get("templateName"))


def _labels(workload: Object) -> Object:
    """Labels of the pods that a workload makes; a Pod's own."""
    return (
        map_of(metadata_of(workload).get("labels")) if workload.get("kind") == "Pod" else pod_labels(workload)
    )
