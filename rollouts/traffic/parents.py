"""What the gateways say of an HTTPRoute: ``status.parents`` (Gateway API, RouteParentStatus).

Each controller writes entries of its own, one per parentRef, and nobody takes the entries of a controller away that
is gone. So an entry that speaks of an older generation counts only where no other entry of the same parent speaks of
the current one: the living controller answers after each write, the one that is gone never does.
``observedGeneration`` is optional in Kubernetes conditions, and some controllers leave it out or 0: then there is
nothing that could be old, and the condition counts as current.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rollouts.engine.observation import ParentsView
from rollouts.objects.fields import list_of, map_of, metadata_of, text_of

__all__ = ["parents_view"]

_MESSAGE = 200
_CONDITIONS = ("Accepted", "ResolvedRefs")
_DEFAULTS = (("group", "gateway.networking.k8s.io"), ("kind", "Gateway"))
"""What a parentRef means where it says nothing (Gateway API, ParentReference)."""

Object = Mapping[str, Any]
Place = tuple[Any, ...]
"""Group, kind, namespace and name of a parent; then the section and port of it, None for the whole."""


def parents_view(route: Object) -> ParentsView:
    """Accepted and ResolvedRefs on every parent that the route names, by each controller that lives."""
    meta = metadata_of(route)
    namespace, generation = text_of(meta.get("namespace")), meta.get("generation")
    wanted = [map_of(item) for item in list_of(map_of(route.get("spec")).get("parentRefs"))]
    if not wanted:
        return _missing("the HTTPRoute names no parentRefs: no gateway serves it")
    places = [_place(ref, namespace) for ref in wanted]
    reported: dict[Place, list[Object]] = {}
    for entry in map(map_of, list_of(map_of(route.get("status")).get("parents"))):
        reported.setdefault(_place(map_of(entry.get("parentRef")), namespace), []).append(entry)
    for ref, place in zip(wanted, places, strict=True):
        name = f"{text_of(ref.get('kind')) or 'Gateway'} {text_of(ref.get('name'))}"
        entries = _entries(place, places, reported)
        if not entries:
            return _missing(f"{name} has not reported on the HTTPRoute yet")
        for entry in _living(entries, generation):
            problem = _problem(entry, generation)
            if problem:
                controller = text_of(entry.get("controllerName"))[:_MESSAGE]
                return _missing(f"{name}{f' ({controller})' if controller else ''}: {problem}")
    return ParentsView(programmed=True)


def _missing(message: str) -> ParentsView:
    return ParentsView(programmed=False, message=message)


def _place(ref: Object, namespace: str) -> Place:
    """The full reference, defaults filled in; hostile values are compared as text."""
    whole = [text_of(ref.get(key)) or default for key, default in _DEFAULTS]
    whole += [text_of(ref.get("namespace")) or namespace, text_of(ref.get("name"))]
    port = ref.get("port")
    return (*whole, text_of(ref.get("sectionName")), port if isinstance(port, int) and port else 0)


def _entries(place: Place, places: Sequence[Place], reported: Mapping[Place, list[Object]]) -> list[Object]:
    """Entries for the parent; a whole Gateway without one is told by those for its listeners, as some report."""
    exact = reported.get(place, [])
    if exact or any(place[4:]):
        return exact
    parts = (item for item in reported if item[:4] == place[:4] and item not in places)
    return [entry for part in parts for entry in reported[part]]


def _conditions(entry: Object) -> dict[str, Object]:
    found: dict[str, Object] = {}
    for item in map(map_of, list_of(entry.get("conditions"))):
        name = item.get("type")
        if name in _CONDITIONS:
            found.setdefault(str(name), item)
    return found


def _is_old(condition: Object, generation: Any) -> bool:
    seen = condition.get("observedGeneration")
    return isinstance(seen, int) and seen != 0 and seen != generation


def _living(entries: Sequence[Object], generation: Any) -> Sequence[Object]:
    """Entries that say anything of the current generation; all of them where none does."""
    living = [
        entry
        for entry in entries
        if any(not _is_old(condition, generation) for condition in _conditions(entry).values())
    ]
    return living or entries


def _problem(entry: Object, generation: Any) -> str:
    conditions = _conditions(entry)
    for name in _CONDITIONS:
        condition = conditions.get(name)
        if condition is None:
            return f"{name} is not reported yet"
        if _is_old(condition, generation):
            return f"{name} is not yet reported for the current generation"
        if condition.get("status") != "True":
            return f"{name} is {condition.get('status')}: {text_of(condition.get('message'))[:_MESSAGE]}"
    return ""
