"""What an API server says when it refuses a write for good, in its own words (kube-apiserver 1.36).

Each refusal is the Status object that came over the wire; the transport makes the error of it that it would make of
a real one.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from rollouts.kube.client import Resource
from rollouts.kube.errors import KubeError
from rollouts.kube.statuses import error_from_status

__all__ = ["Refused", "refusal"]

Object = dict[str, Any]


class Refused(Enum):
    """Why a write is refused."""

    FIELD = "422 for a field"
    POLICY = "422 by an admission policy"
    WEBHOOK = "403 by an admission webhook"
    RBAC = "403 by RBAC"
    UNDECLARED = "500 for a field that the CRD lacks"


def refusal(why: Refused, resource: Resource, namespace: str, name: str) -> KubeError:
    """The error of a refused write to one object."""
    code, reason, details, message = _SAID[why](resource, namespace, name)
    body: Object = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return error_from_status(code, body | ({"details": details} if details else {}), guarded=True)


Said = tuple[int, str, Object, str]


def _subject(resource: Resource, name: str) -> tuple[str, Object]:
    plural = f"{resource.plural}.{resource.group}"
    return f'{plural} "{name}"', {"name": name, "group": resource.group, "kind": resource.plural}


def _field(resource: Resource, namespace: str, name: str) -> Said:
    text = 'spec.rules[0].matches[0].path.type: Unsupported value: "Nonsense"'
    cause = {
        "reason": "FieldValueNotSupported",
        "field": "spec.rules[0].matches[0].path.type",
        "message": text,
    }
    details = {"name": name, "group": resource.group, "kind": resource.kind, "causes": [cause]}
    return 422, "Invalid", details, f'{resource.kind}.{resource.group} "{name}" is invalid: {text}'


def _policy(resource: Resource, namespace: str, name: str) -> Said:
    subject, details = _subject(resource, name)
    why = "ValidatingAdmissionPolicy 'freeze' with binding 'freeze' denied request: routes are frozen"
    return 422, "Invalid", details | {"causes": [{"message": why}]}, f"{subject} is forbidden: {why}"


def _webhook(resource: Resource, namespace: str, name: str) -> Said:
    why = 'admission webhook "freeze.example.com" denied the request: routes are frozen'
    return 403, "Forbidden", {}, why


def _rbac(resource: Resource, namespace: str, name: str) -> Said:
    subject, details = _subject(resource, name)
    who = "system:serviceaccount:inference-rollouts:inference-rollouts"
    what = f'resource "{resource.plural}" in API group "{resource.group}" in the namespace "{namespace}"'
    return 403, "Forbidden", details, f'{subject} is forbidden: User "{who}" cannot patch {what}'


def _undeclared(resource: Resource, namespace: str, name: str) -> Said:
    what = f"{namespace}/{name}; {resource.api_version}, Kind={resource.kind}"
    field = ".spec.rules[0].retry: field not declared in schema"
    return 500, "InternalError", {}, f"failed to create typed patch object ({what}): {field}"


_SAID: dict[Refused, Callable[[Resource, str, str], Said]] = {
    Refused.FIELD: _field,
    Refused.POLICY: _policy,
    Refused.WEBHOOK: _webhook,
    Refused.RBAC: _rbac,
    Refused.UNDECLARED: _undeclared,
}
