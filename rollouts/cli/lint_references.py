"""Names that a Rollout gives, against the objects that stand in the same files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollouts.api.references import traffic_names, version_names
from rollouts.carriers import TRAFFIC_KINDS, TrafficKind, asked_in, kind_of, object_targets
from rollouts.carriers.http_route import HTTP_ROUTE
from rollouts.cli.lint_findings import Finding, hint, problem
from rollouts.cli.lint_kinds import is_ours, name_of
from rollouts.cli.lint_words import nearest
from rollouts.cli.yaml_source import Path
from rollouts.engine.versions import Identity
from rollouts.objects.fields import dict_at, list_of, map_of, metadata_of, text_of
from rollouts.objects.grants import GRANT_KIND, foreign_refs
from rollouts.objects.pools import read_pool
from rollouts.traffic.backends import backend_refs, pool_of, rules_of
from rollouts.traffic.writes import CONSENT_ANNOTATION
from rollouts.units import Weight, parse_weight

__all__ = ["Known", "picker_findings", "reference_findings", "unwanted_findings"]

Object = Mapping[str, Any]
_POOL = "InferencePool"
_SERVICE = "Service"
_PICKER_FIELDS = ("endpointPickerRef", "extensionRef")
"""Of InferencePool v1 and of its alpha versions."""
_LISTED = 4


class Known:
    """Objects of the files by kind, as far as Rollouts name such; with ``--live`` those of the cluster, too.

    ``unread`` are (kind, name) of which the cluster does not tell; None where it was not asked.
    """

    def __init__(
        self, objects: Sequence[Object], *, unread: frozenset[tuple[str, str]] | None = None
    ) -> None:
        self.unread = unread
        wanted = {_SERVICE, GRANT_KIND, *(kind.kind for kind in TRAFFIC_KINDS)}
        wanted |= {kind.kind for kind in object_targets()}
        self._by_kind: dict[str, dict[str, list[Object]]] = {}
        for obj in objects:
            kind, name = obj.get("kind"), text_of(metadata_of(obj).get("name"))
            if kind in wanted and name and not is_ours(obj):
                self._by_kind.setdefault(str(kind), {}).setdefault(name, []).append(obj)

    def named(self, kind: str, name: str, namespace: str) -> Object | None:
        """The object, where it is in the files; a namespace that is left out is any."""
        return next(
            (obj for obj in self._by_kind.get(kind, {}).get(name, []) if _beside(obj, namespace)), None
        )

    def all(self, kind: str) -> list[Object]:
        """Every object of a kind."""
        return [obj for objects in self._by_kind.get(kind, {}).values() for obj in objects]

    def names(self, kind: str, namespace: str) -> list[str]:
        """Names of the objects of a kind."""
        found = self._by_kind.get(kind, {}).items()
        return [name for name, objects in found if any(_beside(obj, namespace) for obj in objects)]


def _beside(obj: Object, namespace: str) -> bool:
    return not namespace or text_of(metadata_of(obj).get("namespace")) in ("", namespace)


def reference_findings(known: Known, rollout: Object) -> Iterator[Finding]:
    """Pools and traffic objects that the files do not hold although they hold others, and missing consent."""
    where, namespace = name_of(rollout), text_of(metadata_of(rollout).get("namespace"))
    spec = map_of(rollout.get("spec"))
    for kind, name in dict.fromkeys(version_names({"spec": spec})):
        yield from _absent(known, kind, name, namespace, where, _version_path(spec, name))
        yield from _unsplit(known.named(_POOL, name, namespace), spec, where)
    managed = _managed(spec)
    for kind, name in traffic_names({"spec": spec}):
        if (kind, name) in managed:
            continue
        path, carrier = _traffic_path(spec, kind, name), kind_of(kind)
        if carrier is not None and carrier.versions is not None:
            yield from _members(known, rollout, carrier, name, path)
            continue
        yield from _absent(known, kind, name, namespace, where, path)
        obj = known.named(kind, name, namespace)
        if obj is not None:
            yield from _consent(obj, rollout, path)
            yield from _unlisted(obj, spec, namespace or _namespace(obj), where, path)
            yield from _ungranted(known, map_of(obj.get("spec")), namespace or _namespace(obj), where, path)
    for index, entry in enumerate(list_of(map_of(spec.get("traffic")).get("httpRoutes"))):
        template = map_of(map_of(entry).get("template"))
        path = ("spec", "traffic", "httpRoutes", index, "template")
        yield from _ungranted(known, map_of(template.get("spec", template)), namespace, where, path)


def _members(known: Known, rollout: Object, kind: TrafficKind, group: str, path: Path) -> Iterator[Finding]:
    """The version that is asked for is a part of the traffic object, and consents."""
    where, namespace = name_of(rollout), text_of(metadata_of(rollout).get("namespace"))
    for target, name in asked_in(map_of(rollout.get("spec")).get("target")):
        obj = known.named(kind.kind, name, namespace)
        if obj is None:
            continue
        if not kind.is_part(obj, group):
            text = f"{name_of(obj)} is not in group {group:.63}: set {kind.membership} there"
            yield problem(where, text, rule="reference", path=("spec", "target", target.field, "name"))
        yield from _consent(obj, rollout, path)
    for other in known.all(kind.kind):
        consents = map_of(metadata_of(other).get("annotations")).get(CONSENT_ANNOTATION)
        ours = consents == text_of(metadata_of(rollout).get("name")) and _beside(other, namespace)
        risk = kind.reset_risk(other, _weights(rollout)) if ours and kind.is_part(other, group) else ""
        if risk:
            yield hint(where, risk, rule="reset", path=path)


def _weights(rollout: Object) -> Iterator[Weight]:
    """Of the steps, as far as they can be read."""
    strategy = map_of(map_of(rollout.get("spec")).get("strategy"))
    for step in list_of(map_of(strategy.get("canary")).get("steps")):
        with contextlib.suppress(ValueError):
            yield parse_weight(map_of(step).get("setWeight"))


def _unsplit(pool: Object | None, spec: Object, where: str) -> Iterator[Finding]:
    """A pool of variants whose split is void while its picker is down."""
    if pool is None or not map_of(spec.get("target")).get("variant"):
        return
    what = read_pool(pool).unsplit_when_down
    if what:
        yield hint(
            where,
            f"{what}; leave failureMode out",
            rule="fail-open",
            path=("spec", "traffic", "inferencePool", "name"),
        )


def unwanted_findings(obj: Object) -> Iterator[Finding]:
    """Objects in files that the controller alone makes: a sync would write over its weights. Pickers may read files."""
    kind = kind_of(text_of(obj.get("kind")))
    if (
        kind is None
        or kind.in_git
        or obj.get("apiVersion") not in {one.api_version for one in kind.resources}
    ):
        return
    text = f"the controller makes each {kind.kind} itself, and a sync would write over its weights: take it out of Git"
    yield hint(name_of(obj), text, rule="git", path=("kind",))


def picker_findings(known: Known, pool: Object) -> Iterator[Finding]:
    """The Service of a pool's endpoint picker, where the files hold Services of its namespace, and not that one.

    With ``--live`` the cluster has been asked for it.
    """
    if known.unread is not None or is_ours(pool) or pool.get("kind") != _POOL:
        return
    picker, namespace = read_pool(pool).picker, _namespace(pool)
    names = known.names(_SERVICE, namespace)
    if picker is None or not names or picker.name in names:
        return
    near = nearest(picker.name, names, cutoff=0.8)
    told = f"did you mean {near}?" if near else "`rollouts picker-manifest` prints one"
    text = f"Service {picker.name:.63} of its endpoint picker is not in these files, and must exist in the cluster"
    spec = map_of(pool.get("spec"))
    field = next((one for one in _PICKER_FIELDS if one in spec), "")
    yield hint(name_of(pool), f"{text}: {told}", rule="reference", path=("spec", field, "name"))


def _unlisted(route: Object, spec: Object, namespace: str, where: str, path: Path) -> Iterator[Finding]:
    """An Adopted HTTPRoute none of whose rules has an entry for the new pool: no attempt begins.

    Which rules are weighed depends on what serves; one of them at least has to have it. Patches have no rules.
    """
    pool = text_of(map_of(map_of(spec.get("target")).get("pool")).get("name"))
    rules = rules_of(route.get("spec")) if route.get("kind") == HTTP_ROUTE.kind else []
    entries = map(map_of, list_of(map_of(spec.get("traffic")).get(HTTP_ROUTE.field)))
    entry = next((one for one in entries if one.get("name") == metadata_of(route).get("name")), {})
    if not pool or not rules or entry.get("addBackend") is True:
        return
    names = list_of(entry.get("ruleNames"))
    chosen = [rule for rule in rules if not names or map_of(rule).get("name") in names]
    listed = {found.name for rule in chosen for ref in backend_refs(rule) if (found := _pool(ref, namespace))}
    if not chosen:
        text = f"no rule of {name_of(route)} is named as ruleNames say: correct them, or leave them out"
        yield problem(where, text, rule="reference", path=path)
    elif pool not in listed:
        own = f" of namespace {namespace}" if namespace else ""
        text = (
            f"no rule of {name_of(route)} lists {_POOL} {pool:.63}{own}, so that no attempt begins: add it to the "
            "backendRefs beside the pool that serves, with weight: 0, or set addBackend: true"
        )
        yield problem(where, text, rule="reference", path=path)


def _pool(ref: Any, namespace: str) -> Identity | None:
    """The pool of the route's namespace that an entry names, of any where the files leave that to whoever applies."""
    return pool_of(ref, namespace or text_of(map_of(ref).get("namespace")))


def _namespace(obj: Object) -> str:
    return text_of(metadata_of(obj).get("namespace"))


def _ungranted(known: Known, route: Object, namespace: str, where: str, path: Path) -> Iterator[Finding]:
    """Backends of other namespaces without a ReferenceGrant in the files: it may be in the cluster."""
    for ref in foreign_refs(route, namespace):
        if not ref.granted_by(known.all(GRANT_KIND)):
            text = f"rule {ref.rule} lists {ref.shown}, which no ReferenceGrant in these files allows: {ref.grant}"
            yield hint(where, text, rule="grant", path=path)


def _managed(spec: Object) -> set[tuple[str, str]]:
    """What the controller makes from the spec is in no file."""
    found = set()
    for kind in TRAFFIC_KINDS:
        for entry in kind.said(map_of(spec.get("traffic"))):
            if (
                not kind.in_git
                or entry.get("template") is not None
                or (kind.field != "httpRoutes" and entry.get("modelName"))
            ):
                found.add((kind.kind, text_of(entry.get("name"))))
    return found


def _version_path(spec: Object, name: str) -> Path:
    for kind, found in asked_in(spec.get("target")):
        if found == name:
            return ("spec", "target", kind.field, "name")
    capacity = dict_at(spec, "strategy", "canary", "capacity")
    for index, one in enumerate(list_of(capacity.get("with"))):
        if map_of(one).get("pool") == name:
            return ("spec", "strategy", "canary", "capacity", "with", index, "pool")
    return ("spec", "stableHint") if spec.get("stableHint") == name else ("spec", "traffic")


def _traffic_path(spec: Object, kind: str, name: str) -> Path:
    field = next(one.field for one in TRAFFIC_KINDS if one.kind == kind)
    value = map_of(spec.get("traffic")).get(field)
    for index, entry in enumerate(list_of(value)):
        if map_of(entry).get("name") == name:
            return ("spec", "traffic", field, index, "name")
    return ("spec", "traffic", field, "name")


def _absent(known: Known, kind: str, name: str, namespace: str, where: str, path: Path) -> Iterator[Finding]:
    names = known.names(kind, namespace)
    if name in names or (known.unread is not None and (kind, name) in known.unread):
        return
    near = nearest(name, names, cutoff=0.8)
    if known.unread is not None:
        text = f"{kind} {name:.63} is neither in these files nor in the cluster"
        yield problem(where, f"{text}: did you mean {near}?" if near else text, rule="reference", path=path)
        return
    if not names:
        return
    told = f"did you mean {near}?" if near else f"the files have {', '.join(sorted(names)[:_LISTED])}"
    text = f"{kind} {name:.63} is not in these files, and must exist in the cluster: {told}"
    yield hint(where, text, rule="reference", path=path)


def _consent(obj: Object, rollout: Object, path: Path) -> Iterator[Finding]:
    """An Adopted object is somebody else's: without their annotation nothing of it is written."""
    name = text_of(metadata_of(rollout).get("name"))
    given = map_of(metadata_of(obj).get("annotations")).get(CONSENT_ANNOTATION)
    if given == name:
        return
    said = f"is annotated for {given!r:.63}" if given else "does not consent"
    text = f"{name_of(obj)} {said}: annotate it with {CONSENT_ANNOTATION}: {name}"
    yield problem(name_of(rollout), text, rule="consent", path=path)
