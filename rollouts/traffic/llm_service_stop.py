"""Stopping a member of a KServe group, and starting it again: KServe's annotation, and a mark of ours beside it.

KServe takes pods and routes of a stopped service away and keeps its object (``serving.kserve.io/stop: "true"``). Its
weight stays as it is. The mark names the Rollout: what anybody else stopped is never started by us, and a stop
that somebody else wrote after ours, or wants as well, is his.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rollouts.engine.rollout_spec import TrafficMode
from rollouts.objects.claims import CONSENT_ANNOTATION
from rollouts.objects.fields import list_of, map_of, metadata_of, text_of
from rollouts.objects.llm_services import STOP_ANNOTATION, read_llm_service
from rollouts.traffic.fields import claim_of
from rollouts.traffic.targets import guarded
from rollouts.traffic.writes import APPLIED_BY, JsonPatch

__all__ = ["STOPPED_BY", "sent_by", "stopped_by_us", "switched"]

Object = Mapping[str, Any]

STOPPED_BY = "inferencerollouts.dev/stopped-by"
"""On a member: the Rollout that stopped it when it had lost."""


def stopped_by_us(obj: Object, rollout: str) -> bool:
    """Whether a member is stopped, by this Rollout alone. Never raises."""
    marks = map_of(metadata_of(obj).get("annotations"))
    if not read_llm_service(obj).stopped or marks.get(STOPPED_BY) != rollout:
        return False
    return all(manager == APPLIED_BY for manager in _writers(obj))


def _writers(obj: Object) -> Iterator[str]:
    """The field managers that own the stop."""
    for entry in map(map_of, list_of(metadata_of(obj).get("managedFields"))):
        owned = map_of(map_of(entry.get("fieldsV1")).get("f:metadata"))
        if f"f:{STOP_ANNOTATION}" in map_of(owned.get("f:annotations")):
            yield text_of(entry.get("manager"))


def sent_by(obj: Object, members: Iterable[Object]) -> str:
    """The member by whose status KServe still sends requests to this one, itself among them; empty: none."""
    name = text_of(metadata_of(obj).get("name"))
    for one in map(read_llm_service, members):
        weight = (one.effective or {}).get(name, 0)
        if weight and not one.stopped and not one.deleting:
            whose = "its own route" if one.name == name else f"the route of LLMInferenceService {one.name}"
            return f"{whose}, by its status with weight {weight},"
    return ""


def switched(obj: Object, rollout: str, *, stop: bool) -> JsonPatch:
    """The write that stops a member, or starts it. It applies to this version of the object alone, and with consent."""
    annotations = map_of(metadata_of(obj).get("annotations"))
    named = CONSENT_ANNOTATION in annotations and claim_of(obj, TrafficMode.ADOPTED, rollout)[1] == rollout
    operations = [_test(CONSENT_ANNOTATION, annotations[CONSENT_ANNOTATION])] if named else []
    marks = {STOP_ANNOTATION: "true", STOPPED_BY: rollout}
    if not annotations and stop:
        operations.append({"op": "add", "path": "/metadata/annotations", "value": marks})
        marks = {}
    for mark, value in marks.items():
        path = f"/metadata/annotations/{_pointer(mark)}"
        operations.append(
            {"op": "add", "path": path, "value": value} if stop else {"op": "remove", "path": path}
        )
    patch = guarded(obj, *operations)
    return JsonPatch(operations=patch.operations, name=text_of(metadata_of(obj).get("name")))


def _test(mark: str, value: Any) -> dict[str, Any]:
    return {"op": "test", "path": f"/metadata/annotations/{_pointer(mark)}", "value": value}


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
