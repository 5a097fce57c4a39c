"""From an HTTP request to what it asks for: target, body, field manager, output form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import yaml

from rollouts.kube.client import Resource
from rollouts.kube.errors import AlreadyExists, Conflict, Invalid, KindNotServed, KubeError, NotFound
from rollouts.lab.memoryapi.admission import PolicyDenied, PolicyForbids
from rollouts.lab.memoryapi.kinds import ServedKind
from rollouts.lab.memoryapi.objects import InvalidObject
from rollouts.lab.memoryapi.ownership import ApplyConflict
from rollouts.lab.memoryapi.patching import PatchOutdated, PatchRefused
from rollouts.lab.memoryapi.store import MemoryApi

__all__ = ["RequestTarget", "manager_of", "parse_body", "status_of", "target_of", "wants_table"]

Object = dict[str, Any]
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
}


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, so that a small document stays small."""

    def compose_node(self, parent: yaml.nodes.Node | None, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise Invalid("aliases are not accepted in YAML", status=400)
        return super().compose_node(parent, index)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTarget:
    """What a URL names; ``name`` is empty for a collection, ``namespace`` None for all of them."""

    resource: Resource
    kind: ServedKind
    namespace: str | None
    name: str = ""
    subresource: str = ""


def _split(path: str) -> tuple[str, str, list[str]]:
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[0] == "api" and len(parts) > 2:
        return "", parts[1], parts[2:]
    if parts[0] == "apis" and len(parts) > 3:
        return parts[1], parts[2], parts[3:]
    raise KindNotServed("404 page not found", status=404)


def target_of(api: MemoryApi, path: str) -> RequestTarget:
    """The object or collection that ``path`` (still quoted) names. Raises KindNotServed."""
    group, version, rest = _split(path)
    namespace: str | None = None
    # /namespaces/NAME and /namespaces/NAME/status are the Namespace itself.
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] != "status":
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "")[:3]
    kind = next((k for k in api.kinds() if (k.group, k.plural) == (group, plural)), None)
    if kind is None or version not in kind.versions or len(rest) > 3:
        raise KindNotServed("404 page not found", status=404)
    return RequestTarget(
        resource=kind.resource(version), kind=kind, namespace=namespace, name=name, subresource=subresource
    )


def parse_body(body: bytes) -> Any:
    """JSON, else YAML. Raises Invalid (400)."""
    if not body:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    try:
        # The loader is a SafeLoader.
        return yaml.load(body, Loader=_PlainLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise Invalid(f"the body is neither JSON nor YAML: {error}", status=400) from None


def manager_of(query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """The field manager: the parameter, else the first word of the user agent."""
    return query.get("fieldManager") or headers.get("User-Agent", "unknown").split("/")[0] or "unknown"


def wants_table(accept: str) -> bool:
    """Whether the client prefers a ``meta.k8s.io/v1`` Table."""
    return "as=Table" in accept.split(",")[0] and "v=v1;" in f"{accept.split(',')[0]};"


def status_of(error: KubeError, target: RequestTarget | None) -> Object:
    """The Status object of a refusal."""
    code = error.status or 500
    status: Object = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": _PATCH_REFUSED if isinstance(error, PatchOutdated | PatchRefused) else str(error),
        "code": code,
    }
    reason = "AlreadyExists" if isinstance(error, AlreadyExists) else _REASONS.get(code, "")
    if reason:
        status["reason"] = reason
    details = _details(error, target, code)
    if details:
        status["details"] = details
    return status


_PATCH_REFUSED = "the server rejected our request due to an error in our request"
_NAMED = (NotFound, AlreadyExists, Conflict)


def _details(error: KubeError, target: RequestTarget | None, code: int) -> Object:
    if isinstance(error, ApplyConflict):
        causes = [
            {"reason": "FieldManagerConflict", "message": text, "field": field}
            for text, field in error.causes
        ]
        return {"causes": causes}
    if target is None:
        return {}
    named = {"name": target.name, "group": target.resource.group}
    if isinstance(error, InvalidObject):
        return {**named, "kind": target.kind.name, "causes": [_cause(text) for text in error.causes]}
    if isinstance(error, PolicyDenied | PolicyForbids):
        text = str(error).partition(" is forbidden: ")[2]
        return {**named, "kind": target.kind.plural, "causes": [{"message": text}]}
    if target.name and isinstance(error, _NAMED) and code != 422:
        return {**named, "kind": target.kind.plural}
    return {}


_CAUSES = (
    ("Unsupported value", "FieldValueNotSupported"),
    ("Required value", "FieldValueRequired"),
    ("Too long", "FieldValueTooLong"),
    ("Too many", "FieldValueTooMany"),
    ("Duplicate value", "FieldValueDuplicate"),
)


def _cause(text: str) -> Object:
    field, _, message = text.partition(": ")
    reason = next((reason for words, reason in _CAUSES if message.startswith(words)), "FieldValueInvalid")
    if " must be of type " in message:
        reason = "FieldValueTypeInvalid"
    return {"reason": reason, "field": field, "message": message}
