"""``dependsOn`` across files: circles, Rollouts that are not there, consent of other namespaces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollouts.api.references import DEPENDENTS_ANNOTATION, dependencies, permits
from rollouts.cli.lint_findings import Finding, at_document, hint, problem
from rollouts.cli.lint_kinds import is_ours, name_of
from rollouts.cli.lint_words import nearest
from rollouts.cli.yaml_source import Path
from rollouts.engine.dependencies import cycle_from
from rollouts.objects.fields import metadata_of, text_of

__all__ = ["order_findings"]

Object = Mapping[str, Any]
Key = tuple[str, str]


def order_findings(placed: Sequence[tuple[int, Path, Object]], others: Sequence[Object]) -> Iterator[Finding]:
    """Findings of the Rollouts among the placed objects; ``others`` are of the cluster, where it was asked."""
    objects = [obj for _, _, obj in placed if _is_rollout(obj)]
    known = {_key(obj): obj for obj in (*filter(_is_rollout, others), *objects)}
    for number, path, obj in placed:
        if _is_rollout(obj):
            yield from (at_document(found, number, path) for found in _of_one(obj, known))


def _is_rollout(obj: Object) -> bool:
    return is_ours(obj) and obj.get("kind") == "Rollout"


def _key(obj: Object) -> Key:
    meta = metadata_of(obj)
    return text_of(meta.get("namespace")), text_of(meta.get("name"))


def _of_one(obj: Object, known: Mapping[Key, Object]) -> Iterator[Finding]:
    where, own, seen = name_of(obj), _key(obj), set[Key]()
    cycle = cycle_from("/".join(own), lambda name: _edges(name, known))
    for index, key in enumerate(dependencies(obj)):
        path: Path = ("spec", "dependsOn", index, "name")
        shown = key[1] if key[0] == own[0] else "/".join(key)
        first = known.get(key)
        if "/".join(key) in cycle:
            names = " -> ".join(name.removeprefix("/") for name in cycle)
            text = f"{names} depend on each other, so that none can begin: take one of these dependsOn out"
            if key == own:
                text = "it depends on itself, so that it can never begin: take this entry out"
            yield problem(where, text, rule="cycle", path=path)
        elif key in seen:
            yield hint(where, f"dependsOn names {shown:.63} twice: once is enough", path=path)
        elif first is not None and not permits(first, own[0]):
            text = (
                f"Rollout {shown:.127} does not consent: annotate it with {DEPENDENTS_ANNOTATION}: {own[0]}"
            )
            yield problem(where, text, rule="consent", path=path)
        elif first is None and len(known) > 1:
            yield hint(where, _absent(shown, key, own, known), rule="reference", path=path)
        seen.add(key)


def _absent(shown: str, key: Key, own: Key, known: Mapping[Key, Object]) -> str:
    names = [name for namespace, name in known if namespace == key[0] and (namespace, name) != own]
    near = nearest(key[1], names, cutoff=0.8)
    told = f": did you mean {near}?" if near else ""
    return f"Rollout {shown:.127} of dependsOn is not in these files, and must exist in the cluster{told}"


def _edges(name: str, known: Mapping[Key, Object]) -> list[str]:
    namespace, _, rest = name.partition("/")
    present = known.get((namespace, rest))
    return [] if present is None else ["/".join(key) for key in dependencies(present)]
