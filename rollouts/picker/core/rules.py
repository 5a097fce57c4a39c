"""Which rule splits the requests for a model name: one total order over all objects.

Precedence: a rule with an exact model before a generic one, then the older object, then namespace/name,
then the kind, then the position inside the object. This is the order of the Gateway API and of the
InferenceModelRewrite documentation, made total, so that no replica, restart or touch of an object changes
the outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from rollouts.picker.core.split import SplitTarget

__all__ = ["Criticality", "Precedence", "Rule", "RuleBook"]


class Criticality(Enum):
    """``InferenceModel.spec.criticality``: what may be dropped when all pods are saturated."""

    CRITICAL = "Critical"
    STANDARD = "Standard"
    SHEDDABLE = "Sheddable"


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Precedence:
    """Smaller wins. ``created`` is Unix time."""

    generic: bool
    created: float
    namespace: str
    name: str
    kind: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Requests for ``model`` (any model when generic) go to ``targets``; none: under the name they have.

    ``owner``: the Rollout that its object names, empty for none.
    ``key`` names the rule across changes of its weights: its split state goes on under it.
    """

    model: str
    targets: tuple[SplitTarget, ...]
    precedence: Precedence
    criticality: Criticality = Criticality.STANDARD
    owner: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Kind, namespace, name and model."""
        order = self.precedence
        return (order.kind, order.namespace, order.name, self.model)


class RuleBook:
    """All rules of the pools, the first in precedence per model."""

    __slots__ = ("_exact", "_generic")

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._exact: dict[str, Rule] = {}
        self._generic: Rule | None = None
        for rule in sorted(rules, key=lambda rule: rule.precedence):
            if not rule.precedence.generic:
                self._exact.setdefault(rule.model, rule)
            elif self._generic is None:
                self._generic = rule

    def find(self, model: str) -> Rule | None:
        """The rule for a model name, if any."""
        return self._exact.get(model, self._generic)

    def winners(self) -> tuple[Rule, ...]:
        """All rules that can match, exact ones by model name, the generic one last."""
        generic = () if self._generic is None else (self._generic,)
        return (*(self._exact[model] for model in sorted(self._exact)), *generic)
