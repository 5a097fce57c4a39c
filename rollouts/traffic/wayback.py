"""The way back: how a traffic object's canary weight returns to stable without the spec (design rule 6).

Works on HTTPRoutes, InferenceModels, InferenceModelRewrites of every dialect and PoolSplits. Nothing is rendered:
weights of the live object are changed where they stand, by the record that was stored before the canary got any. A rule
counts by the entries that it has now, so that renamed, reordered, added and no longer chosen rules are found, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from rollouts.engine.observation import Claim, WayView
from rollouts.engine.rollout_status import EntryRef, WayBack
from rollouts.engine.variants import labels_of
from rollouts.engine.versions import VARIANT_KIND, Identity
from rollouts.objects.fields import list_of, map_of, metadata_of, text_of
from rollouts.objects.pools import POOL_GROUPS, POOL_KIND
from rollouts.traffic.fields import claim_of, weight_of
from rollouts.traffic.headers import is_header_rule
from rollouts.traffic.targets import guarded
from rollouts.traffic.weights import MAX_WEIGHT
from rollouts.traffic.writes import JsonPatch
from rollouts.units import FULL, ZERO, Weight

__all__ = ["EntryList", "Lists", "entry_of", "lists_of", "propose", "render", "spared", "view", "weighed"]

Object = Mapping[str, Any]

_SPARED = 16
"""Rules of an HTTPRoute (Gateway API) are at most 16."""
_MOST_REFS = 16
"""backendRefs of a rule are at most 16 (Gateway API)."""
_DIGITS = 8
"""Of a fingerprint: 16 of them stay far below the record's 8 KiB."""


@dataclass(frozen=True, slots=True)
class EntryList:
    """One list of weighted entries: its JSON pointer, the entries, and what else its rule says.

    ``key`` is the field of an entry that names its target, where weight 0 is illegal and an arm without weight leaves
    the list; empty where entries stay (backendRefs). ``written`` makes an arm's entry of the record, where the list is
    ours whole: entries of others then leave it.
    """

    path: str
    entries: Sequence[Any]
    rule: Mapping[str, Any]
    key: str = ""
    written: Callable[[EntryRef, int], dict[str, Any]] | None = None


Lists = Callable[[Object], list[EntryList]]
"""How the lists of a kind are found; ``lists_of`` knows those of HTTPRoutes and of model objects."""


# --- what a record says -----------------------------------------------------------------------------


def entry_of(identity: Identity, port: int | None = None) -> EntryRef:
    """The entry of an arm in the traffic object's own namespace."""
    return EntryRef(
        kind=identity.kind, name=identity.name, group=identity.group, port=port, source=identity.arm.source
    )


def propose(
    obj: Object | None, record: WayBack, chosen: Collection[int] | None, lists: Lists | None = None
) -> WayBack:
    """``record`` completed from the live object: ports, our part of the rules, and the rules that are not ours.

    ``chosen`` are the indices of the rules that are ours to weigh; None: all that there are.
    """
    if obj is None:
        return record
    share, spared, port = ZERO, list[str](), None
    for index, rule in enumerate((lists or lists_of)(obj)):
        if is_header_rule(rule.rule):
            continue
        roles = _Roles(rule.entries, record, _namespace(obj))
        if chosen is not None and index not in chosen:
            if roles.canary_weight:
                spared.append(_fingerprint(rule.rule))
            continue
        if roles.ours and roles.total:
            share = max(share, Weight(round(Fraction(roles.ours, roles.total) * FULL)))
        ports = (map_of(rule.entries[place]).get("port") for place in (*roles.stable, *roles.canary))
        port = port or next((item for item in ports if isinstance(item, int)), None)
    return replace(
        record,
        share=share or FULL,
        spared=tuple(sorted(set(spared)))[:_SPARED],
        stable=replace(record.stable, port=port or record.stable.port),
        canary=replace(record.canary, port=port or record.canary.port),
    )


def weighed(obj: Object, record: WayBack) -> list[Mapping[str, Any]]:
    """The rules in which the canary has weight that the record gives back, whatever the spec says by now."""
    return [found.rule for found, _ in _carrying(obj, record, None)]


def spared(obj: Object, record: WayBack) -> list[Mapping[str, Any]]:
    """The rules that send requests to the canary and never were the record's to give back."""
    ours = weighed(obj, record)
    return [
        rule.rule for rule, _ in _carrying(obj, replace(record, spared=()), None) if rule.rule not in ours
    ]


# --- what the live object says ----------------------------------------------------------------------


def view(
    obj: Object | None,
    record: WayBack,
    rollout: str,
    exists: Callable[[str], bool],
    lists: Lists | None = None,
    claimed: tuple[Claim, str] | None = None,
) -> WayView:
    """The engine's view. ``exists`` tells whether a Rollout of that name is there. Never raises.

    ``claimed``: whose the object is, where its own metadata do not say.
    """
    if obj is None:
        return WayView(exists=False, unsplit=bool(record.pool))
    claim, named = claimed or claim_of(obj, record.mode, rollout)
    if claim is Claim.OTHER and not exists(named):
        claim, named = Claim.UNCLAIMED, ""
    carrying = list(_carrying(obj, record, lists))
    return WayView(
        exists=True,
        resource_version=text_of(metadata_of(obj).get("resourceVersion")),
        share=max((_shown(roles) for rule, roles in carrying if not is_header_rule(rule.rule)), default=ZERO),
        pinned=any(is_header_rule(rule.rule) for rule, _ in carrying),
        claim=claim,
        claimed_by=named,
    )


def _shown(roles: _Roles) -> Weight:
    """Rounded to a hundredth of a percent, but a trickle is never nothing."""
    return max(Weight(1), Weight(round(roles.share * FULL)))


class _Roles:
    """Whose entries a rule has, by their place in the list."""

    def __init__(self, entries: Sequence[Any], record: WayBack, namespace: str) -> None:
        self.weights = [weight_of(entry) for entry in entries]
        if record.canary.kind == VARIANT_KIND:
            # Whatever names the canary, or sends to its pods under another name, is the canary's.
            by_name = record.stable.name != record.canary.name
            canary = [_is_variant(entry, record.canary, by_name=by_name) for entry in entries]
            stable = [_is_variant(entry, record.stable, by_name=by_name) for entry in entries]
            self.canary = [place for place, is_canary in enumerate(canary) if is_canary]
            self.stable = [place for place, is_stable in enumerate(stable) if is_stable and not canary[place]]
            return
        # An edit may have moved an entry to the other API group; the group tells arms of one name apart.
        same = record.stable.name == record.canary.name
        names_stable = _is if same else _is_like
        self.stable = [i for i, e in enumerate(entries) if names_stable(e, record.stable, namespace)]
        self.canary = [
            i for i, e in enumerate(entries) if i not in self.stable and _is_like(e, record.canary, namespace)
        ]

    @property
    def canary_weight(self) -> int:
        return sum(self.weights[place] for place in self.canary)

    @property
    def ours(self) -> int:
        return self.canary_weight + sum(self.weights[place] for place in self.stable)

    @property
    def total(self) -> int:
        return sum(self.weights)

    @property
    def share(self) -> Fraction:
        """The canary's part of the joint weight; that is above 0 where the canary carries."""
        return Fraction(self.canary_weight, self.ours)


def _carrying(obj: Object, record: WayBack, lists: Lists | None) -> Iterator[tuple[EntryList, _Roles]]:
    """Rules of ours in which the canary has weight."""
    namespace = _namespace(obj)
    for rule in (lists or lists_of)(obj):
        roles = _Roles(rule.entries, record, namespace)
        if roles.canary_weight and _fingerprint(rule.rule) not in record.spared:
            yield rule, roles


def lists_of(obj: Object) -> list[EntryList]:
    """The lists of an HTTPRoute, an InferenceModel or an InferenceModelRewrite, told by their fields. Never raises."""
    spec = map_of(obj.get("spec"))
    if "modelName" in spec:
        # Without a list the name that clients ask for is the one target.
        entries = list_of(spec.get("targetModels")) or [{"name": spec["modelName"], "weight": 1}]
        return [EntryList("/spec/targetModels", entries, {}, "name")]
    found = []
    for index, rule in enumerate(map(map_of, list_of(spec.get("rules")))):
        for field in ("backendRefs", "targets", "split"):
            if field in rule:
                key = "" if field == "backendRefs" else "modelRewrite"
                found.append(EntryList(f"/spec/rules/{index}/{field}", list_of(rule[field]), rule, key))
                break
        else:
            found.append(EntryList(f"/spec/rules/{index}/backendRefs", (), rule))
    return found


def _namespace(obj: Object) -> str:
    return text_of(metadata_of(obj).get("namespace"))


def _fingerprint(rule: Mapping[str, Any]) -> str:
    """Eight digits of what a rule matches: what tells it from others, wherever it stands."""
    text = json.dumps(rule.get("matches"), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _name_of(entry: Mapping[str, Any]) -> str:
    """A backendRef's or an InferenceModel's name, or that of a rewrite's target."""
    return text_of(entry.get("name")) or text_of(entry.get("modelRewrite"))


def _is(entry: Any, ref: EntryRef, namespace: str) -> bool:
    """Whether an entry is the very one, whatever its port and weight."""
    return _is_like(entry, ref, namespace) and (
        ref.kind != POOL_KIND or map_of(entry).get("group") == ref.group
    )


def _is_like(entry: Any, ref: EntryRef, namespace: str) -> bool:
    """Whether an entry names the arm, in whichever API group its pool is served."""
    entry = map_of(entry)
    if _name_of(entry) != ref.name:
        return False
    if ref.kind != POOL_KIND:
        return True
    where = text_of(entry.get("namespace")) or namespace
    return (
        entry.get("kind") == POOL_KIND
        and entry.get("group") in POOL_GROUPS
        and where == (ref.namespace or namespace)
    )


def _is_variant(entry: Any, ref: EntryRef, *, by_name: bool) -> bool:
    """Whether an entry has a variant's labels, or its name."""
    entry = map_of(entry)
    labels = {str(key): text_of(value) for key, value in map_of(entry.get("labels")).items()}
    return labels == labels_of(ref.arm) or (by_name and text_of(entry.get("name")) == ref.name)


# --- the write ---------------------------------------------------------------------------------------


def render(obj: Object, record: WayBack, limit: Weight, lists: Lists | None = None) -> JsonPatch | None:
    """The patch that lowers the canary to ``limit`` wherever it has more; None where it has not.

    Touches weights of our two arms alone; a rule that lost stable's entry gets the recorded one back. Header rules of
    ours are the canary's alone: they are taken out with the last of its weight.
    """
    operations, removals = list[dict[str, Any]](), list[dict[str, Any]]()
    for rule, roles in _carrying(obj, record, lists):
        if is_header_rule(rule.rule):
            removals = [*_removal(rule), *removals] if limit <= ZERO else []
        elif roles.share > Fraction(limit, FULL):
            stable, canary = _lowered(roles, record, limit)
            write = _list if rule.key else _weights
            operations += write(rule, roles, record, stable, canary)
    operations += removals
    return guarded(obj, *operations) if operations else None


def _removal(rule: EntryList) -> list[dict[str, Any]]:
    """Take a whole rule out; later ones first, since each moves those behind it."""
    path = rule.path.rsplit("/", 1)[0]
    return [
        {"op": "test", "path": f"{path}/name", "value": rule.rule.get("name")},
        {"op": "remove", "path": path},
    ]


def _lowered(roles: _Roles, record: WayBack, limit: Weight) -> tuple[int, int]:
    """New weights of stable and canary. Where the limit is no whole number of them, both are scaled; beside entries of
    others, which keep their weight to the letter, the canary gets less instead."""
    joint, others = roles.ours, roles.total - roles.ours
    if not roles.stable and others and record.share < FULL:
        # Stable's entry was taken out: its part of the rule comes back, too.
        joint = max(1, min(MAX_WEIGHT, round(Fraction(others * record.share, FULL - record.share))))
    if not others and joint * (exact := (Fraction(limit, FULL) * joint).denominator) <= MAX_WEIGHT:
        joint *= exact
    canary = joint * limit // FULL
    return joint - canary, canary


def _weights(
    rule: EntryList, roles: _Roles, record: WayBack, stable: int, canary: int
) -> list[dict[str, Any]]:
    """Operations on the weights of backendRefs, each behind a test of the entry's name."""
    wanted = dict.fromkeys((*roles.stable, *roles.canary), 0)
    wanted[roles.canary[0]] = canary
    if roles.stable:
        wanted[roles.stable[0]] = stable
    operations = []
    for place, weight in wanted.items():
        entry = map_of(rule.entries[place])
        operations.append({"op": "test", "path": f"{rule.path}/{place}/name", "value": entry.get("name")})
        operations.append({"op": "add", "path": f"{rule.path}/{place}/weight", "value": weight})
    if not roles.stable:
        place = roles.canary[0]
        ref = _stable_ref(record, map_of(rule.entries[place])) | {"weight": stable}
        if len(rule.entries) < _MOST_REFS:
            operations.append({"op": "add", "path": f"{rule.path}/-", "value": ref})
        else:
            # There is no room beside the canary's entry: it is replaced.
            operations[1:2] = [
                {"op": "remove", "path": f"{rule.path}/{place}"},
                {"op": "add", "path": f"{rule.path}/{place}", "value": ref},
            ]
    return operations


def _stable_ref(record: WayBack, neighbour: Mapping[str, Any]) -> dict[str, Any]:
    ref: dict[str, Any] = {
        "group": record.stable.group,
        "kind": record.stable.kind,
        "name": record.stable.name,
    }
    if record.stable.namespace:
        ref["namespace"] = record.stable.namespace
    port = neighbour.get("port", record.stable.port)
    return ref if port is None else {**ref, "port": port}


def _list(rule: EntryList, roles: _Roles, record: WayBack, stable: int, canary: int) -> list[dict[str, Any]]:
    """The list of a model object anew: weight 0 is illegal there, an arm without weight is left out."""
    if rule.written is not None:
        arms = ((record.stable, stable), (record.canary, canary))
        ours = [rule.written(ref, weight) for ref, weight in arms if weight]
        return [{"op": "add", "path": rule.path, "value": ours}]
    first = {**dict.fromkeys(roles.stable[:1], stable), **dict.fromkeys(roles.canary[:1], canary)}
    mine = {*roles.stable, *roles.canary}
    # All entries have a weight or none has (Inference Extension): the ones of others are written out.
    entries = [
        {**entry, "weight": first.get(place, roles.weights[place])}
        for place, entry in enumerate(map(map_of, rule.entries))
        if place not in mine or first.get(place)
    ]
    if not roles.stable:
        entries.append({rule.key: record.stable.name, "weight": stable})
    operations: list[dict[str, Any]] = []
    if "matches" in rule.rule:
        parent = rule.path.rsplit("/", 1)[0]
        operations.append({"op": "test", "path": f"{parent}/matches", "value": rule.rule["matches"]})
    operations.append({"op": "add", "path": rule.path, "value": entries})
    return operations
