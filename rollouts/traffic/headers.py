"""Header routes: rules in front of the pool rules that send marked requests to the canary.

A rule of ours is known by its name, ``rollout-header-<route>-<index of the template's rule>``, so that what is in
force can be read back from the live object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rollouts.engine.probing import PROBE_ROUTE
from rollouts.engine.rollout_spec import HeaderMatch, HeaderMatchType, HeaderRouteStep
from rollouts.objects.fields import list_of, map_of, text_of

__all__ = ["header_rules", "is_header_rule", "read_header_routes"]

_PREFIX = "rollout-header-"
_ANY_PATH = {"path": {"type": "PathPrefix", "value": "/"}}
_BEFORE, _AFTER = "(?:", ").*"
_SPECIAL = frozenset("\\.+*?()|[]{}^$")


def is_header_rule(rule: Any) -> bool:
    """Whether a setHeaderRoute step added the rule."""
    return text_of(map_of(rule).get("name")).startswith(_PREFIX)


def header_rules(
    template_rules: Sequence[Any], routes: Sequence[HeaderRouteStep], backend: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """A copy of each open rule of the template per route, with its headers added and ``backend`` alone.

    The probe's is one rule with one match, the first of each: an HTTPRoute has room for 16 rules.
    """
    for route in routes:
        ours = [_write(match) for match in route.match]
        for index, rule in enumerate(template_rules):
            rule = map_of(rule)
            if rule.get("backendRefs"):
                continue
            written = list_of(rule.get("matches")) or [_ANY_PATH]
            matches = [
                {**map_of(match), "headers": [*ours, *list_of(map_of(match).get("headers"))]}
                for match in (written[:1] if route.name == PROBE_ROUTE else written)
            ]
            name = {"name": f"{_PREFIX}{route.name}-{index}"}
            yield {**rule, **name, "matches": matches, "backendRefs": [dict(backend)]}
            if route.name == PROBE_ROUTE:
                break


def read_header_routes(rules: Sequence[Any], template_rules: Sequence[Any]) -> tuple[HeaderRouteStep, ...]:
    """The header routes in force, read back from the rules that we added."""
    found: dict[str, HeaderRouteStep] = {}
    for rule in rules:
        if not is_header_rule(rule):
            continue
        route, _, index = text_of(map_of(rule).get("name")).removeprefix(_PREFIX).rpartition("-")
        headers = _first_headers(rule)
        # The template's own conditions follow ours.
        own = len(_first_headers(template_rules[int(index)])) if _is_index(index, template_rules) else 0
        ours = [_read(item) for item in headers[: max(0, len(headers) - own)]]
        match = tuple(item for item in ours if item is not None)
        found.setdefault(route, HeaderRouteStep(name=route, match=match))
    return tuple(found.values())


def _is_index(text: str, items: Sequence[Any]) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 4 and int(text) < len(items)


def _first_headers(rule: Any) -> Sequence[Any]:
    matches = list_of(map_of(rule).get("matches"))
    return list_of(map_of(matches[0]).get("headers")) if matches else ()


def _read(header: Any) -> HeaderMatch | None:
    header = map_of(header)
    name, value = header.get("name"), header.get("value")
    if not isinstance(name, str) or not isinstance(value, str):
        return None
    if header.get("type") != "RegularExpression":
        return HeaderMatch(name=name, value=value)
    if value.startswith(_BEFORE) and value.endswith(_AFTER):
        text = _unquote(value[len(_BEFORE) : -len(_AFTER)])
        if _prefix_pattern(text) == value:
            return HeaderMatch(name=name, value=text, type=HeaderMatchType.PREFIX)
    return HeaderMatch(name=name, value=value, type=HeaderMatchType.REGEX)


def _write(match: HeaderMatch) -> dict[str, str]:
    """A header condition; a prefix becomes a regular expression, the only form that Gateway API has for it."""
    if match.type is HeaderMatchType.EXACT:
        return {"name": match.name, "type": "Exact", "value": match.value}
    value = match.value if match.type is HeaderMatchType.REGEX else _prefix_pattern(match.value)
    return {"name": match.name, "type": "RegularExpression", "value": value}


def _prefix_pattern(text: str) -> str:
    """RE2 for "starts with ``text``", matched against the whole value. The group tells it from a user's."""
    quoted = "".join(f"\\{char}" if char in _SPECIAL else char for char in text)
    return f"{_BEFORE}{quoted}{_AFTER}"


def _unquote(text: str) -> str:
    out, escaped = [], False
    for char in text:
        if char == "\\" and not escaped:
            escaped = True
            continue
        out.append(char)
        escaped = False
    return "".join(out)
