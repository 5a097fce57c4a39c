"""InferencePools, read from raw objects of either API group.

Field names: InferencePool v1 (``selector.matchLabels``, ``targetPorts``, ``endpointPickerRef``) and v1alpha2
(``selector`` as a plain map, ``targetPortNumber``, ``extensionRef``) of the Gateway API Inference Extension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rollouts.objects.fields import dict_at, items_at, list_of, map_of, metadata_of, port_of, text_at, text_of

__all__ = [
    "POOL_GROUPS",
    "POOL_KIND",
    "ROLES_ANNOTATION",
    "ParentRefusal",
    "PickerRef",
    "Pool",
    "Roles",
    "former_pool",
    "read_pool",
    "read_roles",
    "with_role",
]

POOL_KIND = "InferencePool"
POOL_GROUPS = ("inference.networking.k8s.io", "inference.networking.x-k8s.io")
"""The groups that serve InferencePools, the newer one first."""

ROLES_ANNOTATION = "inferencerollouts.dev/roles"
"""On an InferencePool that selects pods of several roles, ``llm-d.ai/role=decode,prefill``: the label that tells them
apart, the value of those that requests are sent to, and those of pods that work for them."""

Object = Mapping[str, Any]

_MOST_ROLES = 9
"""As many as a version may have companions, and its own pods."""
_LABEL = 63
"""Characters of a label's value: a role that is longer is no pod's."""
_DEFAULT_PORT = 8000
"""The model server's port where a pool cannot be read: vLLM's own."""
_DEFAULT_PICKER_PORT = 9002
"""The schema's default of ``extensionRef.portNumber`` and ``endpointPickerRef.port``."""
_MAX_PORTS = 8
"""As many as InferencePool v1 allows."""
_MAX_TEXT = 4096
"""Characters of a selector that a status may hold: ten labels of the greatest length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PickerRef:
    """The Service of the endpoint picker that a pool names."""

    name: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRefusal:
    """A parent (a Gateway, mostly) that says Accepted=False or ResolvedRefs=False of a pool."""

    kind: str
    namespace: str
    name: str
    condition: str
    reason: str
    message: str

    @property
    def of_picker(self) -> bool:
        """Whether it says that the picker's Service was not found (InferencePool v1, ``InvalidExtensionRef``)."""
        return (self.condition, self.reason) == ("ResolvedRefs", "InvalidExtensionRef")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """How the pods of one pool are told apart: by a label, whose value ``serves`` those have that get requests."""

    label: str
    serves: str
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """An InferencePool. ``selector`` is empty, and selects nothing, when it cannot be read.

    Where it has ``roles``, it selects the pods of the one that requests are sent to.
    ``picker`` is None where the pool names none, or one that is no Service: ``picker_kind`` then says what it is.
    """

    group: str = ""
    namespace: str = ""
    name: str
    selector: tuple[tuple[str, str], ...]
    ports: tuple[int, ...]
    """Every target port in order, without duplicates; each is a process of the pod, with a metrics page of its own."""
    picker: PickerRef | None = None
    picker_kind: str = ""
    fail_open: bool = False
    """``failureMode: FailOpen``: the gateway serves without the picker when that does not answer."""
    refusals: tuple[ParentRefusal, ...] = ()
    roles: Roles | None = None

    def role(self, name: str) -> Pool | None:
        """Its pods of another role, as a pool; None where it has none such."""
        if self.roles is None or name not in self.roles.others:
            return None
        others = (pair for pair in self.selector if pair[0] != self.roles.label)
        selector = tuple(sorted((*others, (self.roles.label, name))))
        return replace(self, name=with_role(self.name, name), selector=selector, roles=None)

    @property
    def unsplit_when_down(self) -> str:
        """What becomes of a split between variants while the picker is down; empty where requests are refused then."""
        if not self.fail_open:
            return ""
        return (
            f"InferencePool {self.name} has failureMode FailOpen: while its endpoint picker is down the gateway takes "
            "any Ready pod, whatever its variant"
        )

    @property
    def processes(self) -> tuple[int, ...]:
        """The ports of a pod's processes, at least one."""
        return self.ports or (_DEFAULT_PORT,)

    @property
    def port(self) -> int:
        """Where a pod is asked about itself."""
        return self.processes[0]

    @property
    def selector_text(self) -> str:
        """The selector as the API takes it, ``app=vllm,version=v2``; empty where it is longer than what is kept."""
        text = ",".join(f"{name}={value}" for name, value in self.selector)
        return text if len(text) <= _MAX_TEXT else ""

    def narrowed(self, labels: Mapping[str, str]) -> Pool:
        """The pool with those of its pods alone that have these labels, too; none where it asks for others."""
        joint = {**dict(self.selector), **labels}
        agrees = all(joint[name] == value for name, value in self.selector)
        return replace(self, selector=tuple(sorted(joint.items())) if self.selector and agrees else ())

    def selects(self, labels: Mapping[str, Any]) -> bool:
        """Whether a pod with these labels is one of the pool's."""
        return bool(self.selector) and all(labels.get(name) == value for name, value in self.selector)


def read_pool(obj: Object) -> Pool:
    """Read an InferencePool; wrong types read as absent, never raise."""
    group, slash, _ = text_at(obj, "apiVersion").partition("/")
    spec, roles = map_of(obj.get("spec")), read_roles(obj)
    ref = map_of(spec.get("endpointPickerRef") or spec.get("extensionRef"))
    return Pool(
        group=group if slash else "",
        namespace=str(metadata_of(obj).get("namespace", "")),
        name=str(metadata_of(obj).get("name", "")),
        selector=_selector(spec, roles),
        ports=_ports(spec),
        roles=roles,
        picker=_picker(ref),
        picker_kind=str(ref.get("kind", "Service")) if ref.get("name") else "",
        fail_open=ref.get("failureMode") == "FailOpen",
        refusals=_refusals(obj),
    )


def former_pool(group: str, namespace: str, name: str, text: str) -> Pool | None:
    """A pool that is gone, as far as its ``selector_text`` says it; None where that says nothing."""
    pairs = [item.partition("=") for item in text.split(",")]
    if not all(label and equals for label, equals, _ in pairs):
        return None
    selector = tuple(sorted((label, value) for label, _, value in pairs))
    return Pool(group=group, namespace=namespace, name=name, selector=selector, ports=())


def with_role(pool: str, role: str) -> str:
    """How the pods of a role are called, where they are no pool of their own: no object has such a name."""
    return f"{pool}/{role}"


def read_roles(obj: Object) -> Roles | None:
    """What a raw InferencePool says by its annotation; None where that is not there, or makes no sense."""
    said = text_of(map_of(metadata_of(obj).get("annotations")).get(ROLES_ANNOTATION))
    label, equals, listed = said.partition("=")
    values = [value.strip() for value in listed.split(",")]
    apart = len(set(values)) == len(values) and all(values) and len(values[0]) <= _LABEL
    if not (label.strip() and equals and apart and 2 <= len(values) <= _MOST_ROLES):
        return None
    # One that no pod can have is nobody's to scale; who gets requests is said all the same.
    others = tuple(value for value in values[1:] if len(value) <= _LABEL)
    return Roles(label=label.strip(), serves=values[0], others=others)


def _selector(spec: Object, roles: Roles | None) -> tuple[tuple[str, str], ...]:
    """Sorted labels; none where one of them is no text: what is left of a selector would select more than it says."""
    selector = map_of(spec.get("selector"))
    labels = map_of(selector.get("matchLabels", selector))
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in labels.items()):
        return ()
    if roles is not None and labels:
        if labels.get(roles.label, roles.serves) != roles.serves:
            return ()  # it selects another role than it says
        labels = {**labels, roles.label: roles.serves}
    return tuple(sorted(labels.items()))


def _ports(spec: Object) -> tuple[int, ...]:
    listed = [entry.get("number") for entry in items_at(spec, "targetPorts")[:_MAX_PORTS]]
    numbers = map(port_of, listed or [spec.get("targetPortNumber")])
    return tuple(dict.fromkeys(number for number in numbers if number is not None))


def _picker(ref: Object) -> PickerRef | None:
    name = text_of(ref.get("name"))
    if not name or ref.get("kind", "Service") != "Service":
        return None
    number = port_of(dict_at(ref, "port").get("number", ref.get("portNumber")))
    return PickerRef(name=name, port=number or _DEFAULT_PICKER_PORT)


def _refusals(obj: Object) -> tuple[ParentRefusal, ...]:
    """What parents refuse: ``status.parents`` of v1, ``status.parent`` of v1alpha2.

    Unknown is no refusal, nor is the placeholder that CRDs put there by default (kind Status, reason Pending).
    """
    status, meta = map_of(obj.get("status")), metadata_of(obj)
    found = []
    for parent in map(map_of, list_of(status.get("parents") or status.get("parent"))):
        ref = map_of(parent.get("parentRef"))
        for item in map(map_of, list_of(parent.get("conditions"))):
            named = item.get("type") in ("Accepted", "ResolvedRefs") and isinstance(ref.get("name"), str)
            if not named or item.get("status") != "False" or item.get("reason") == "Pending":
                continue
            found.append(
                ParentRefusal(
                    kind=str(ref.get("kind") or "Gateway"),
                    namespace=str(ref.get("namespace") or meta.get("namespace", "")),
                    name=ref["name"],
                    condition=str(item.get("type")),
                    reason=str(item.get("reason") or ""),
                    message=str(item.get("message") or ""),
                )
            )
    return tuple(found)
