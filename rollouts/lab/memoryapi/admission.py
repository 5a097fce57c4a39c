"""Policies that refuse writes, in the words of a ValidatingAdmissionPolicy (kube-apiserver 1.36)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.kube.errors import Forbidden, Invalid, KubeError
from rollouts.lab.memoryapi.kinds import ServedKind

__all__ = ["Policy", "PolicyDenied", "PolicyForbids"]


class PolicyDenied(Invalid):
    """The default of a validation without a reason: 422."""


class PolicyForbids(Forbidden):
    """``reason: Forbidden``: 403."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """``denies`` says of a write (its object as it would be stored) whether it is refused, with ``message``."""

    name: str
    binding: str
    message: str
    plural: str
    denies: Callable[[Mapping[str, Any]], bool] = lambda _: True
    forbidden: bool = False

    def refusal(self, kind: ServedKind, obj: Mapping[str, Any]) -> KubeError | None:
        """The error for a write, or None."""
        if kind.plural != self.plural or not self.denies(obj):
            return None
        subject = f'{kind.plural}.{kind.group} "{obj["metadata"]["name"]}"'
        text = f"ValidatingAdmissionPolicy '{self.name}' with binding '{self.binding}' denied request: {self.message}"
        if self.forbidden:
            return PolicyForbids(f"{subject} is forbidden: {text}", status=403)
        return PolicyDenied(f"{subject} is forbidden: {text}", status=422)
