"""What ``lint`` says of a Managed route's template: its shape, and whether header routes leave it room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.carriers import given
from rollouts.engine.rollout_spec import HeaderRouteStep
from rollouts.engine.steps import header_routes_at
from rollouts.objects.fields import list_of, map_of
from rollouts.traffic.backends import rules_of
from rollouts.traffic.headers import header_rules

__all__ = ["route_problems"]

_MOST_RULES = 16
"""Of an HTTPRoute (Gateway API v1, ``spec.rules``, maxItems)."""
_MOST_MATCHES = 128
"""Of all rules of an HTTPRoute together (Gateway API v1, a CEL rule of ``spec.rules``)."""


def route_problems(parsed: ParsedRollout) -> Iterator[str]:
    """Sentences, for a Rollout that could be read."""
    for kind, value in given(parsed.model.traffic) if parsed.model is not None else ():
        template = kind.template(value)
        if template is None:
            continue
        problems = kind.template_problems(template)
        yield from (problem.message for problem in problems)
        if not problems and parsed.spec is not None:
            yield from _crowded(parsed.spec.canary.steps, rules_of(template))


def _crowded(steps: Sequence[Any], template: Sequence[Any]) -> Iterator[str]:
    """The first step whose header routes make too many rules or matches."""
    for index, step in enumerate(steps):
        if not isinstance(step, HeaderRouteStep):
            continue
        rules = [*header_rules(template, header_routes_at(steps, index), {}), *template]
        matches = sum(len(list_of(map_of(rule).get("matches"))) or 1 for rule in rules)
        if len(rules) > _MOST_RULES or matches > _MOST_MATCHES:
            yield (
                f"step {index + 1}: with its header routes, which copy each rule without backendRefs, the HTTPRoute "
                f"has {len(rules)} rules with {matches} matches; at most {_MOST_RULES} and {_MOST_MATCHES} are "
                "allowed: take rules together, or end a header route first"
            )
            return
