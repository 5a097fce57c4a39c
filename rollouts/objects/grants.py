"""ReferenceGrants: which references of an HTTPRoute into other namespaces are allowed there.

Gateway API, ReferenceGrant: an object in the namespace that is referred to; one of ``spec.from`` (group, kind and
namespace of who refers) and one of ``spec.to`` (group and kind, all names or one) have to match. Another HTTPRoute, or
a label of some, is no backend: kgateway delegates to such a route without a grant; whoever wrote that one lets it in by
its ``parentRefs``, or by being where the label is looked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.objects.fields import items_at, map_of, metadata_of, text_at, text_of

__all__ = ["GRANT_KIND", "ForeignRef", "foreign_refs"]

GRANT_KIND = "ReferenceGrant"
_ROUTE = ("gateway.networking.k8s.io", "HTTPRoute")
_DELEGATED = (_ROUTE, ("delegation.kgateway.dev", "label"))

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRef:
    """A backend in another namespace. ``origin``: the route's namespace, empty where a file does not say it."""

    rule: str
    origin: str
    group: str
    kind: str
    namespace: str
    name: str

    @property
    def shown(self) -> str:
        """For messages."""
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def grant(self) -> str:
        """The grant that it needs, as one line of YAML."""
        origin, group = self.origin or "(the route's)", self.group or '""'
        return (
            f"kind {GRANT_KIND} in namespace {self.namespace} with spec: "
            f"{{from: [{{group: {_ROUTE[0]}, kind: {_ROUTE[1]}, namespace: {origin}}}], "
            f"to: [{{group: {group}, kind: {self.kind}, name: {self.name}}}]}}"
        )

    def granted_by(self, grants: Iterable[Object]) -> str:
        """The name of the grant that allows it, among objects of any namespace; empty without one."""
        return next((str(metadata_of(one).get("name")) for one in grants if self._allowed(one)), "")

    def _allowed(self, grant: Object) -> bool:
        if text_at(grant, "metadata", "namespace") != self.namespace:
            return False
        sources = [
            (text_of(one.get("group")), text_of(one.get("kind"))) == _ROUTE
            and text_of(one.get("namespace")) == (self.origin or text_of(one.get("namespace")))
            for one in items_at(grant, "spec", "from")
        ]
        targets = [
            (text_of(one.get("group")), text_of(one.get("kind"))) == (self.group, self.kind)
            and text_of(one.get("name")) in ("", self.name)
            for one in items_at(grant, "spec", "to")
        ]
        return any(sources) and any(targets)


def foreign_refs(spec: Object, namespace: str) -> list[ForeignRef]:
    """Backends of other namespaces in the rules and mirrors of an HTTPRoute's spec, each once."""
    found = []
    for index, rule in enumerate(items_at(spec, "rules")):
        for ref in _refs(rule):
            other = text_of(ref.get("namespace"))
            what = text_of(ref.get("group")), text_of(ref.get("kind"))
            if other and other != namespace and what not in _DELEGATED:
                found.append(
                    ForeignRef(
                        rule=text_of(rule.get("name")) or str(index),
                        origin=namespace,
                        group=text_of(ref.get("group")),
                        kind=text_of(ref.get("kind")) or "Service",
                        namespace=other,
                        name=text_of(ref.get("name")),
                    )
                )
    return list(dict.fromkeys(found))


def _refs(rule: Object) -> Iterator[Object]:
    """A backendRef without group and kind is a Service (Gateway API, BackendObjectReference)."""
    yield from items_at(rule, "backendRefs")
    for one in items_at(rule, "filters"):
        yield map_of(map_of(one.get("requestMirror")).get("backendRef"))
