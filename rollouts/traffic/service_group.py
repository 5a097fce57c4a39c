"""KServe's routing groups: how the share of two LLMInferenceServices is read and written.

Each member holds its own weight, and shares are parts of the group's sum, so one share is two objects. Where no other
member has weight, stable's stays as others gave it (``declared``), or a little below, as far as whole numbers say the
share beside it: then a tool that sets it to that again raises no share. Where it is too coarse both are the least
numbers that say it, which keeps what such a reset makes of it small (``after_reset``). Where others have weight,
the sum of our two stays, so that theirs keep their share: two writes. In between, the canary never has more than
is asked: stable rises before the canary falls, and the canary rises before stable falls. What comes next follows
from the live weights and the recorded way back alone, so that a crash between two writes goes on. Nothing is said to be
done before the last of them is stored. Who gives a member of others weight in the middle of an attempt has seen ours:
that share is what it comes to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import Claim, ParentsView, RuleView, TrafficView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import GroupTraffic, TrafficMode
from rollouts.engine.rollout_status import WayBack
from rollouts.engine.versions import Identity
from rollouts.objects.fields import list_of, map_of, metadata_of, text_of
from rollouts.objects.llm_services import (
    LLM_SERVICE_GROUP,
    LLM_SERVICE_KIND,
    WEIGHT_PATH,
    LlmService,
    read_llm_service,
)
from rollouts.traffic.fields import claim_of, last_writer
from rollouts.traffic.reading import Reader
from rollouts.traffic.service_group_shares import goal, next_write
from rollouts.traffic.targets import guarded
from rollouts.traffic.wayback import EntryList
from rollouts.traffic.weights import MAX_WEIGHT
from rollouts.traffic.writes import APPLIED_BY, JsonPatch, RenderRefusal
from rollouts.units import FULL, ZERO, Weight

__all__ = [
    "DECLARED",
    "claim_of_members",
    "declared",
    "joined",
    "joint_of",
    "lists",
    "lowered",
    "lowered_alone",
    "member",
    "members_of",
    "ours_of",
    "render",
    "service_identity",
    "view",
    "with_member",
]

Object = Mapping[str, Any]

DECLARED = "inferencerollouts.dev/declared-weight"
"""On a member whose weight we wrote: the one that somebody else gave it last, which a tool would set again."""

_MOST_JOINT = 2 * MAX_WEIGHT
"""What a record holds: of two members as heavy as KServe takes them. More is refused all the same."""

_MEMBERS = "members"
_WEIGHT_FIELD = "router.route.weight"


def service_identity(name: str) -> Identity:
    """An LLMInferenceService as an arm."""
    return Identity(kind=LLM_SERVICE_KIND, group=LLM_SERVICE_GROUP, name=name)


# --- the group as one object ------------------------------------------------------------------------


def joined(namespace: str, name: str, members: Iterable[Object]) -> dict[str, Any] | None:
    """The group as an object of its own, its members by name; None without any.

    Its resourceVersion is that of all of them: it changes when one does.
    """
    found = sorted(members, key=lambda obj: text_of(metadata_of(obj).get("name")))
    if not found:
        return None
    versions = (
        f"{metadata_of(one).get('name')}={metadata_of(one).get('resourceVersion', '')}" for one in found
    )
    meta = {"name": name, "namespace": namespace, "resourceVersion": ",".join(versions)}
    return {"kind": LLM_SERVICE_KIND, "metadata": meta, _MEMBERS: found}


def with_member(group: Object, stored: Object) -> dict[str, Any] | None:
    """The group with one member as it has just been stored."""
    meta, name = metadata_of(group), metadata_of(stored).get("name")
    others = [one for one in members_of(group) if metadata_of(one).get("name") != name]
    return joined(text_of(meta.get("namespace")), text_of(meta.get("name")), [*others, stored])


def members_of(group: Object | None) -> Sequence[Object]:
    """The members' objects."""
    return [map_of(one) for one in list_of((group or {}).get(_MEMBERS))]


def member(group: Object | None, name: str) -> Object | None:
    """The member of a name; None where the group has none."""
    return next((one for one in members_of(group) if metadata_of(one).get("name") == name), None)


def lists(group: Object) -> list[EntryList]:
    """Its weights as one list, for the way back. Never raises."""
    entries = [{"name": one.name, "weight": one.weight} for one in map(read_llm_service, members_of(group))]
    return [EntryList(f"/{_MEMBERS}", entries, {})]


def claim_of_members(group: Object, rollout: str, names: Iterable[str]) -> tuple[Claim, str]:
    """Whose these members are together: each has to consent. Those that are not there say nothing."""
    found = [one for one in (member(group, name) for name in names) if one is not None]
    claims = [claim_of(one, TrafficMode.ADOPTED, rollout) for one in found]
    for wanted in (Claim.OTHER, Claim.UNCLAIMED):
        for claim in claims:
            if claim[0] is wanted:
                return claim
    return (Claim.CONSENTED, rollout) if claims else (Claim.UNCLAIMED, "")


def _unclaimed(group: Object, rollout: str, names: Sequence[str], *, first: bool) -> str:
    """The member without whose consent nothing may be written: an arm, or who serves at first sight; empty: none is.

    At first sight nobody of ours may have weight while a member that belongs to no Rollout has: that one is what a
    new version is to be compared with, not a bystander.
    """
    found = {one.name: (one, claim_of(obj, TrafficMode.ADOPTED, rollout)[0]) for obj, one in _read(group)}
    arms = [name for name in names if name in found and found[name][1] is Claim.UNCLAIMED]
    if arms or not first:
        return arms[0] if arms else ""
    serving = [(one, claim) for one, claim in found.values() if one.weight and not one.stopped]
    if any(claim is Claim.CONSENTED for _, claim in serving):
        return ""
    theirs = [one for one, claim in serving if claim is Claim.UNCLAIMED]
    return max(theirs, key=lambda one: one.weight).name if theirs else ""


def _read(group: Object | None) -> Iterator[tuple[Object, LlmService]]:
    for obj in members_of(group):
        yield obj, read_llm_service(obj)


# --- what it says -----------------------------------------------------------------------------------


def view(group: Object | None, spec: GroupTraffic, reader: Reader) -> TrafficView:
    """The engine's view. Never raises.

    Weights of others are foreign: of members that are no arm and consent to another Rollout, or to none.
    """
    kind = f"{LLM_SERVICE_KIND} group"
    if group is None:
        return TrafficView(kind=kind, name=spec.name, mode=TrafficMode.ADOPTED)
    names = [arm.name for arm in reader.arms]
    ours = {one.name: one for one in _consenting(group, reader.rollout, names)}
    asked = [arm.name for arm in reader.stored if arm.name in ours] or names
    claim, claimed_by = claim_of_members(group, reader.rollout, asked)
    unclaimed = _unclaimed(group, reader.rollout, asked, first=not reader.stored)
    if unclaimed and claim is not Claim.OTHER:
        claim, claimed_by = Claim.UNCLAIMED, ""
    writer, written_at = _last_writer(group, names, reader.field_manager)
    return TrafficView(
        kind=kind,
        name=spec.name,
        mode=TrafficMode.ADOPTED,
        exists=True,
        resource_version=text_of(metadata_of(group).get("resourceVersion")),
        claim=claim,
        claimed_by=claimed_by,
        unclaimed=f"{LLM_SERVICE_KIND} {unclaimed}" if unclaimed else "",
        rules=(
            RuleView(
                name=spec.name, entries={service_identity(one.name): one.weight for one in ours.values()}
            ),
        ),
        parents=_in_force([ours[name] for name in dict.fromkeys(names) if name in ours]),
        last_writer=writer,
        last_written_at=written_at,
        written_by_us=writer == reader.field_manager,
        written_by_gitops=writer in reader.gitops_managers,
    )


def _consenting(group: Object, rollout: str, arms: Sequence[str]) -> list[LlmService]:
    """Members that are ours to weigh: the arms, and whoever consents."""
    found = []
    for obj in members_of(group):
        one = read_llm_service(obj)
        consents = claim_of(obj, TrafficMode.ADOPTED, rollout)[0] is Claim.CONSENTED
        if consents or one.name in arms:
            found.append(one)
    return found


def _last_writer(group: Object, names: Sequence[str], ours: str) -> tuple[str, Any]:
    """Who wrote an arm's weight last. Of one second, ours counts: it is what times are told in."""
    found = [last_writer(one, _WEIGHT_FIELD, ours) for one in (member(group, name) for name in names) if one]
    return max(found, key=lambda item: (str(item[1] or ""), item[0] == ours), default=("", None))


def _in_force(arms: Sequence[LlmService]) -> ParentsView:
    """Whether KServe says that the arms' weights are in the routes of each: which one a gateway takes is not known."""
    for one in arms:
        failed = one.failing.get("GroupReady")
        if failed is not None:
            message = f"KServe says GroupReady=False of LLMInferenceService {one.name} ({failed.words})"
            return ParentsView(programmed=False, message=message)
    for one in arms:
        if one.stopped or one.deleting:
            continue  # it has no routes
        for other in arms:
            said = None if one.effective is None else one.effective.get(other.name, 0)
            due = 0 if other.stopped else other.weight
            if said != due:
                return ParentsView(programmed=False, message=_behind(one, other, said))
    return ParentsView(programmed=True)


def _behind(one: LlmService, other: LlmService, said: int | None) -> str:
    degraded = one.failing.get("GroupDegraded")
    words = f"; it says GroupDegraded ({degraded.words})" if degraded is not None else ""
    has = "no group" if said is None else f"weight {said} for {other.name}"
    return (
        f"KServe has not put weight {other.weight} of LLMInferenceService {other.name} in force: the status of "
        f"{one.name} has {has}{words}"
    )


# --- what is known of the weights -------------------------------------------------------------------------------------


def declared(obj: Object) -> int:
    """The weight that somebody else gave a member last: what a tool that applies it from Git sets again."""
    live = read_llm_service(obj).weight
    kept = text_of(map_of(metadata_of(obj).get("annotations")).get(DECLARED))
    known = kept.isascii() and kept.isdigit() and len(kept) <= len(str(MAX_WEIGHT))
    return min(int(kept), MAX_WEIGHT) if known and _is_ours(obj) else live


def _is_ours(obj: Object) -> bool:
    """Whether the weight of a member is what we wrote."""
    return last_writer(obj, _WEIGHT_FIELD, APPLIED_BY)[0] == APPLIED_BY


def ours_of(group: Object | None, rollout: str, arms: Iterable[str], records: Iterable[WayBack]) -> set[str]:
    """The members that are ours: the arms, and those of recorded ways back that consent: an earlier canary."""
    past = {name for way in records for name in (way.stable.name, way.canary.name)}
    return set(arms) | (past & {one.name for one in _consenting(group or {}, rollout, [])})


def joint_of(group: Object | None, ours: Collection[str], stable: str, records: Iterable[WayBack]) -> int:
    """What ours have together where the weights of others are to keep their share; 0 where nobody else has any.

    While an earlier canary has weight, what was recorded for it counts: between two writes the sum is another.
    """
    found = {one.name: one for _, one in _read(group)}
    if not _others(found.values(), ours):
        return 0
    for way in records:
        carries = way.canary.name in found and found[way.canary.name].weight
        if way.joint and way.stable.name == stable and carries:
            return way.joint
    return min(sum(found[name].weight for name in ours if name in found), _MOST_JOINT)


def _others(members: Iterable[LlmService], ours: Iterable[str]) -> int:
    """Weight of members that are none of ours; stopped ones get nothing."""
    mine = set(ours)
    return sum(one.weight for one in members if one.name not in mine and not one.stopped)


# --- writes -----------------------------------------------------------------------------------------


def render(
    group: Object | None,
    spec: GroupTraffic,
    rollout: str,
    records: Iterable[WayBack],
    desired: DesiredTraffic,
) -> JsonPatch | RenderRefusal | None:
    """The next write on the way to ``desired``; None when the group says so already."""
    stable, canary = desired.stable.name, desired.canary.name if desired.canary is not None else None
    found = {one.name: one for one in map(read_llm_service, members_of(group))}
    for name in (stable, canary):
        if name is not None and name not in found and (name == stable or desired.weight > ZERO):
            return RenderRefusal(
                reason=Reason.SERVICE_NOT_IN_GROUP,
                message=f"LLMInferenceService {name} is not in group {spec.name}: set spec.router.route.group there",
            )
    stored = [one for one in records if one.name == spec.name]
    retired = {arm.name for arm in (*desired.keep, *desired.drop)}
    consenting = {one.name for one in _consenting(group or {}, rollout, [])}
    ours = {name for name in (stable, canary) if name is not None} | (retired & consenting)
    weights = {name: one.weight for name, one in found.items() if name in ours}
    recorded = [one.joint for one in stored if (one.stable.name, one.canary.name) == (stable, canary)]
    joint = recorded[0] if recorded else joint_of(group, ours, stable, stored)
    if canary is None and weights[stable]:
        joint = min(joint, weights[stable])  # what somebody gave a retired member is nobody's share
    others = sum(weights.values()) == 0 and _others(found.values(), ours)
    refused = _no_share(spec, stable, others) if others and not joint else None
    if refused is None and canary is not None:
        refused = _too_coarse(spec, desired.weight, joint)
    if refused is not None:
        return refused
    step = next_write(weights, stable, canary, desired.weight, joint, _grain(group, stable))
    stays = canary if step is not None and step[0] == stable else stable
    return _write(group, spec.name, step, stays or "")


def _no_share(spec: GroupTraffic, stable: str, others: int) -> RenderRefusal:
    return RenderRefusal(
        reason=Reason.GROUP_WITHOUT_SHARE,
        message=f"in group {spec.name} members that are not this Rollout's have all of the weight ({others}), and "
        f"{stable} has none: which share it is to have is not known; set spec.router.route.weight of {stable} by hand",
    )


def _too_coarse(spec: GroupTraffic, weight: Weight, joint: int) -> RenderRefusal | None:
    if joint > MAX_WEIGHT and weight > ZERO:
        return RenderRefusal(
            reason=Reason.GROUP_TOO_HEAVY,
            message=f"group {spec.name}: both versions have {joint} together, more than the {MAX_WEIGHT} that one "
            "of them may have, and members that are not this Rollout's have weight, so that it stays: make all weights "
            "of the group a tenth as large",
        )
    if not joint or weight in (ZERO, FULL):
        return None
    _, part = goal(0, 0, weight, joint, 0)
    if round(Fraction(part, joint) * FULL) == weight:
        return None
    return RenderRefusal(
        reason=Reason.GROUP_TOO_COARSE,
        message=f"group {spec.name}: of {joint}, which both versions have together, no whole number is "
        f"{weight / 100:g} %, and members that are not this Rollout's have weight, so that it stays: make all weights "
        "of the group a hundred times as large",
    )


def _grain(group: Object | None, stable: str) -> int:
    obj = member(group, stable)
    return declared(obj) if obj is not None else 0


def _keep_declared(obj: Object) -> Iterator[dict[str, Any]]:
    """Beside the first weight of ours the one that somebody else gave. Of none nothing has to be known."""
    marks, given = metadata_of(obj).get("annotations"), read_llm_service(obj).weight
    if not isinstance(marks, Mapping) or _is_ours(obj):
        return
    if marks.get(DECLARED, "0") != str(given):
        path = f"/metadata/annotations/{DECLARED.replace('/', '~1')}"
        yield {"op": "add", "path": path, "value": str(given)}


def lowered(group: Object, record: WayBack, limit: Weight) -> JsonPatch | None:
    """The next write that lowers the recorded canary to ``limit``; None where it has no more than that."""
    stable, canary = record.stable.name, record.canary.name
    found = {one.name: one for one in map(read_llm_service, members_of(group))}
    weights = {name: found[name].weight for name in (stable, canary) if name in found}
    live, carried = weights.get(stable, 0), weights.get(canary, 0)
    if not carried or Fraction(carried, live + carried) <= Fraction(limit, FULL):
        return None
    wanted, part = goal(live, carried, limit, record.joint, _grain(group, stable))
    if stable in found and live < wanted:
        return _write(group, record.name, (stable, wanted))
    return _write(group, record.name, (canary, min(part, carried - 1)), stable)


def lowered_alone(group: Object, record: WayBack, limit: Weight) -> JsonPatch | None:
    """The write of the canary alone that lowers it to ``limit``, where stable has weight as it is; else None.

    For when stable's is refused: the share of others changes, and users are off the canary.
    """
    found = {one.name: one for _, one in _read(group)}
    stable, canary = found.get(record.stable.name), found.get(record.canary.name)
    if canary is None or stable is None or not stable.weight or stable.stopped:
        return None
    part = stable.weight * limit // (FULL - limit) if limit < FULL else canary.weight
    step = (canary.name, part)
    return _write(group, record.name, step, stable.name) if part < canary.weight else None


def _write(
    group: Object | None, name: str, step: tuple[str, int] | None, stays: str = ""
) -> JsonPatch | None:
    """``stays``: who serves what a member loses that falls to 0."""
    obj = member(group, step[0]) if step is not None else None
    if step is None or obj is None:
        return None
    same = {"op": "test", "path": WEIGHT_PATH.rsplit("/", 1)[0] + "/group", "value": name}
    patch = guarded(obj, same, *_keep_declared(obj), {"op": "add", "path": WEIGHT_PATH, "value": step[1]})
    beside = stays if step[1] == 0 and member(group, stays) is not None else ""
    return JsonPatch(operations=patch.operations, name=step[0], beside=beside)
