"""KServe's LLMInferenceService, read from raw objects of v1alpha1 and v1alpha2: a version and its weight in one object.

Members of a routing group (``spec.router.route.group``) share requests by their weights; KServe's controller writes the
HTTPRoutes and says in ``status`` what it has made of them. Field names, labels and conditions are KServe's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.objects.fields import dict_at, items_at, list_of, map_of, metadata_of, text_at, text_of
from rollouts.objects.pools import PickerRef, Pool

__all__ = [
    "LLM_SERVICE_GROUP",
    "LLM_SERVICE_KIND",
    "STOP_ANNOTATION",
    "WEIGHT_PATH",
    "LlmService",
    "Said",
    "pods_of_service",
    "read_llm_service",
]

LLM_SERVICE_KIND = "LLMInferenceService"
LLM_SERVICE_GROUP = "serving.kserve.io"
STOP_ANNOTATION = "serving.kserve.io/stop"
"""``true``: KServe takes the member's pods and routes away, and gives it no requests, whatever its weight."""
WEIGHT_PATH = "/spec/router/route/weight"
"""JSON pointer of a member's weight; the same in every version."""

Object = Mapping[str, Any]

_PORT = 8000
"""Where KServe's presets have a workload listen; its Services and pools know no other."""
_PICKER_PORT = 9002
"""Of the scheduler that KServe deploys."""
_INT32 = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A condition in KServe's words."""

    type: str
    reason: str
    message: str

    @property
    def words(self) -> str:
        """``reason: message``, as far as there are any."""
        return ": ".join(filter(None, (self.reason, self.message))) or "no reason given"


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmService:
    """A member of a routing group, or a service of no group (``group`` empty).

    ``weight`` is as the spec says; one that cannot be read is 0. ``effective`` are the weights that KServe's status
    says are in the routes, 0 for stopped members, by name; None while it has said nothing of this group.
    """

    name: str
    group: str
    weight: int
    models: tuple[str, ...]
    """Names that it serves: as KServe resolved them, else as the spec says; sorted."""
    stopped: bool
    deleting: bool
    current: bool
    """Whether the status is of the present spec (``observedGeneration``); True where it does not say."""
    effective: Mapping[str, int] | None
    ready: str
    """Status of the condition Ready: ``True``, ``False``, ``Unknown``, or empty."""
    failing: Mapping[str, Said]
    """Conditions that are False, by type; of GroupDegraded where it is True."""


def read_llm_service(obj: Object) -> LlmService:
    """Read an LLMInferenceService; wrong types read as absent, never raise."""
    meta, route = metadata_of(obj), dict_at(obj, "spec", "router", "route")
    group = text_of(route.get("group"))
    seen = obj.get("status") if isinstance(obj.get("status"), Mapping) else {}
    observed, generation = map_of(seen).get("observedGeneration"), meta.get("generation")
    conditions = items_at(obj, "status", "conditions")
    return LlmService(
        name=text_of(meta.get("name")),
        group=group,
        weight=_weight(route.get("weight")),
        models=_models(obj),
        stopped=map_of(meta.get("annotations")).get(STOP_ANNOTATION) == "true",
        deleting=bool(meta.get("deletionTimestamp")),
        current=not isinstance(observed, int) or observed == generation,
        effective=_effective(obj, group),
        ready=next((text_of(one.get("status")) for one in conditions if one.get("type") == "Ready"), ""),
        failing={said.type: said for said in map(_failing, conditions) if said is not None},
    )


def pods_of_service(obj: Object) -> Pool:
    """The pods of its workload by KServe's labels, as a pool of its own: ports, and the scheduler that picks them.

    Whether the scheduler is ready is KServe's to say, by its condition; without one a Service takes any pod.
    """
    name, namespace = text_at(obj, "metadata", "name"), text_at(obj, "metadata", "namespace")
    picker = text_at(obj, "status", "router", "scheduler", "service", "name")
    labels = {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/part-of": "llminferenceservice",
        "kserve.io/component": "workload",
    }
    return Pool(
        group=LLM_SERVICE_GROUP,
        namespace=namespace,
        name=name,
        selector=tuple(sorted(labels.items())),
        ports=(_PORT,),
        picker=PickerRef(name=picker, port=_PICKER_PORT) if picker else None,
        picker_kind="Service" if picker else "",
        fail_open=True,
    )


def _weight(value: Any) -> int:
    """An absent weight is 0, as KServe takes it."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _INT32 else 0


def _models(obj: Object) -> tuple[str, ...]:
    """As KServe compares members: what the addresses say, else the spec's names."""
    addresses = items_at(obj, "status", "addresses")
    found = {
        text_of(map_of(model).get("name")) for one in addresses for model in list_of(one.get("models"))
    } - {""}
    if not found:
        named = [text_at(obj, "spec", "model", "name") or text_at(obj, "metadata", "name")]
        named += [text_of(one.get("name")) for one in items_at(obj, "spec", "model", "lora", "adapters")]
        found = set(filter(None, named))
    return tuple(sorted(found))


def _effective(obj: Object, group: str) -> dict[str, int] | None:
    said = dict_at(obj, "status", "router", "group")
    if not group or said.get("name") != group:
        return None
    members = [map_of(one) for one in list_of(said.get("members"))]
    return {
        text_of(one.get("name")): 0 if one.get("stopped") is True else _weight(one.get("weight"))
        for one in members
    }


def _failing(condition: Object) -> Said | None:
    kind = text_of(condition.get("type"))
    bad = "True" if kind == "GroupDegraded" else "False"
    if not kind or condition.get("status") != bad:
        return None
    return Said(type=kind, reason=text_of(condition.get("reason")), message=text_of(condition.get("message")))
