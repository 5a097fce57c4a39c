"""Weights of KServe's groups: which member is written next, and what is said of the whole."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.carriers import TrafficPlace, kind_of
from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import Claim
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import GroupTraffic
from rollouts.engine.rollout_status import WayBack
from rollouts.objects import kinds
from rollouts.traffic import service_group
from rollouts.traffic.reading import Reader
from rollouts.traffic.service_group import service_identity
from rollouts.traffic.service_group_shares import after_reset, fine_weight, next_write, pair
from rollouts.traffic.writes import JsonPatch, RenderRefusal
from rollouts.units import FULL, ZERO, Weight, parse_weight

Object = dict[str, Any]
MARK = "inferencerollouts.dev~1declared-weight"
WRITTEN = {
    "manager": "inference-rollouts",
    "fieldsV1": {"f:spec": {"f:router": {"f:route": {"f:weight": {}}}}},
}
SPEC = GroupTraffic(kind="LLMInferenceService", name="mymodel")
V1, V2 = service_identity("v1"), service_identity("v2")


def member(name: str, weight: int, *, owner: str = "roll", **annotations: str) -> Object:
    consent = {"inferencerollouts.dev/managed-by": owner} if owner else {}
    return {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {
            "name": name,
            "namespace": "serving",
            "resourceVersion": f"{name}-7",
            "generation": 3,
            "annotations": consent | annotations,
        },
        "spec": {"model": {"name": "llama"}, "router": {"route": {"group": "mymodel", "weight": weight}}},
    }


def group(*members: Object) -> Object:
    found = service_group.joined("serving", "mymodel", members)
    assert found is not None
    return found


def weights(obj: Object) -> dict[str, int]:
    return {
        one["metadata"]["name"]: one["spec"]["router"]["route"]["weight"]
        for one in service_group.members_of(obj)
    }


def applied(obj: Object, patch: JsonPatch) -> Object:
    """The group after a write, which must be of one member's present version and of this group."""
    one = copy.deepcopy(dict(service_group.member(obj, patch.name) or {}))
    version, same, *kept, write = patch.operations
    assert version == {
        "op": "test",
        "path": "/metadata/resourceVersion",
        "value": one["metadata"]["resourceVersion"],
    }
    assert same == {"op": "test", "path": "/spec/router/route/group", "value": "mymodel"}
    assert write["path"] == "/spec/router/route/weight"
    before = one["spec"]["router"]["route"]["weight"]
    for mark in kept:  # what the first write of ours keeps of what somebody else gave
        assert mark == {"op": "add", "path": f"/metadata/annotations/{MARK}", "value": str(before)}
        one["metadata"]["annotations"][service_group.DECLARED] = mark["value"]
    one["spec"]["router"]["route"]["weight"] = write["value"]
    one["metadata"]["managedFields"] = [WRITTEN]
    found = service_group.with_member(obj, one)
    assert found is not None
    return found


def carrier(*records: WayBack) -> Any:
    kind = kind_of("LLMInferenceService")
    assert kind is not None
    place = TrafficPlace(
        rollout="roll", namespace="serving", resource=kinds.LLM_SERVICE, records=tuple(records)
    )
    return kind.carrier(place, SPEC, None)


def record(obj: Object) -> WayBack:
    found: WayBack = carrier().way_back(obj, V1, V2)
    return found


def brought(obj: Object, weight: str, *records: WayBack) -> list[dict[str, int]]:
    """The weights after each write until the canary has this share."""
    desired = DesiredTraffic(stable=V1, canary=V2, weight=parse_weight(weight))
    found = []
    while (patch := carrier(*records).render(obj, desired)) is not None:
        assert isinstance(patch, JsonPatch)
        obj = applied(obj, patch)
        found.append(weights(obj))
    return found


def given_back(obj: Object, way: WayBack, limit: Weight = ZERO) -> list[dict[str, int]]:
    kind, found = kind_of("LLMInferenceService"), []
    assert kind is not None
    while (patch := kind.lowered(obj, way, limit)) is not None:
        obj = applied(obj, patch)
        found.append(weights(obj))
    return found


@pytest.mark.parametrize(
    ("stable", "canary", "weight", "steps"),
    [
        (10_000, 0, "10%", [(10_000, 1111)]),  # stable's weight stays: one write
        (10_000, 1111, "50%", [(10_000, 10_000)]),
        (10_000, 10_000, "10%", [(10_000, 1111)]),
        (9, 0, "10%", [(9, 1)]),  # fine enough
        (
            9,
            0,
            "1%",
            [(99, 0), (99, 1)],
        ),  # too coarse: the least numbers, by a write that keeps the share first
        (300, 0, "1%", [(300, 3), (297, 3)]),  # the next below that says it
        (990_000, 0, "1%", [(990_000, 10_000)]),
        (9, 9, "100%", [(9, 10_000), (0, 10_000)]),  # so that stable, set to 9 again, has next to nothing
        (10_000, 10_000, "100%", [(0, 10_000)]),
        (10_000, 0, "100%", [(10_000, 10_000), (0, 10_000)]),  # the canary first
        (10_000, 1111, "99.9%", [(10_000, 999_999), (1001, 999_999)]),  # beyond the greatest weight: both
        (0, 10_000, "50%", [(10_000, 10_000)]),
        (0, 10_000, "0%", [(10_000, 10_000), (10_000, 0)]),  # stable is back before the canary is gone
        (0, 0, "0%", [(10_000, 0)]),
        (10_000, 1111, "10%", []),
    ],
)
def test_one_share_is_as_few_writes_as_arithmetic_allows(
    stable: int, canary: int, weight: str, steps: list[tuple[int, int]]
) -> None:
    found = brought(group(member("v1", stable), member("v2", canary)), weight)

    assert [(one["v1"], one["v2"]) for one in found] == steps


def test_members_of_others_keep_weight_and_share_by_two_writes() -> None:
    start = group(member("v1", 300), member("v2", 0), member("other", 100, owner=""))
    way = record(start)

    rise = brought(start, "10%", way)
    assert [(one["v1"], one["v2"], one["other"]) for one in rise] == [(300, 30, 100), (270, 30, 100)]
    at_half = group(member("v1", 150), member("v2", 150), member("other", 100, owner=""))
    assert [(one["v1"], one["v2"]) for one in given_back(at_half, way)] == [(300, 150), (300, 0)]


def test_a_crash_between_two_writes_goes_on_where_it_was() -> None:
    way = record(group(member("v1", 300), member("v2", 0), member("other", 100, owner="")))
    between = group(member("v1", 300), member("v2", 150), member("other", 100, owner=""))

    assert [(one["v1"], one["v2"]) for one in brought(between, "50%", way)] == [(150, 150)]
    assert [(one["v1"], one["v2"]) for one in given_back(between, way)] == [(300, 0)]


def test_an_abort_from_all_restores_stable_first() -> None:
    way = record(group(member("v1", 10_000), member("v2", 0)))
    found = given_back(group(member("v1", 0), member("v2", 10_000)), way)

    assert [(one["v1"], one["v2"]) for one in found] == [(10_000, 10_000), (10_000, 0)]


def test_a_canary_whose_stable_is_gone_gives_its_weight_back_all_the_same() -> None:
    way = record(group(member("v1", 10_000), member("v2", 0)))

    assert given_back(group(member("v2", 500)), way) == [{"v2": 0}]


def test_a_share_that_no_whole_number_says_beside_others_is_refused() -> None:
    obj = group(member("v1", 90), member("v2", 0), member("other", 10, owner=""))
    desired = DesiredTraffic(stable=V1, canary=V2, weight=parse_weight("1%"))
    refused = carrier(record(obj)).render(obj, desired)

    assert isinstance(refused, RenderRefusal)
    assert refused.reason is Reason.GROUP_TOO_COARSE
    assert "a hundred times as large" in refused.message


def test_a_version_that_is_in_no_group_is_named() -> None:
    desired = DesiredTraffic(stable=V1, canary=V2, weight=parse_weight("1%"))
    refused = carrier().render(group(member("v1", 90)), desired)

    assert isinstance(refused, RenderRefusal)
    assert refused.reason is Reason.SERVICE_NOT_IN_GROUP
    assert "v2 is not in group mymodel" in refused.message


@pytest.mark.parametrize("ways", [0, 1])
def test_a_share_that_nobody_of_ours_has_is_not_taken_from_others(ways: int) -> None:
    obj = group(member("v1", 0), member("v2", 0), member("other", 100, owner=""))
    for desired in (
        DesiredTraffic(stable=V1, canary=None, weight=ZERO),
        DesiredTraffic(stable=V1, canary=V2, weight=parse_weight("10%")),
    ):
        refused = carrier(*[record(obj)] * ways).render(obj, desired)

        assert isinstance(refused, RenderRefusal)
        assert refused.reason is Reason.GROUP_WITHOUT_SHARE
        assert "set spec.router.route.weight of v1 by hand" in refused.message


def test_a_share_that_both_lost_in_the_middle_is_the_recorded_one() -> None:
    way = record(group(member("v1", 300), member("v2", 0), member("other", 100, owner="")))
    lost = group(member("v1", 0), member("v2", 0), member("other", 100, owner=""))

    assert brought(lost, "10%", way)[-1] == {"v1": 270, "v2": 30, "other": 100}


def test_more_than_one_member_may_have_is_refused_before_the_first_weight() -> None:
    obj = group(member("v1", 700_000), member("v2", 400_000), member("other", 100, owner=""))
    way = record(obj)
    desired = DesiredTraffic(stable=V1, canary=V2, weight=parse_weight("50%"))
    refused = carrier(way).render(obj, desired)

    assert isinstance(refused, RenderRefusal)
    assert refused.reason is Reason.GROUP_TOO_HEAVY
    assert given_back(obj, way)[-1] == {"v1": 1_000_000, "v2": 0, "other": 100}


def test_the_canary_alone_is_lowered_where_stable_cannot_be_written() -> None:
    kind = kind_of("LLMInferenceService")
    assert kind is not None
    start = group(member("v1", 300), member("v2", 0), member("other", 100, owner=""))
    way, live = record(start), group(member("v1", 150), member("v2", 150), member("other", 100, owner=""))

    for limit, left in (("0%", 0), ("10%", 16)):
        patch = kind.lowered_alone(live, way, parse_weight(limit))
        assert patch is not None
        assert weights(applied(live, patch)) == {"v1": 150, "v2": left, "other": 100}
    for nobody in (
        group(member("v1", 0), member("v2", 150)),
        group(member("v1", 9, **{"serving.kserve.io/stop": "true"}), member("v2", 150)),
        group(member("v2", 150)),
        start,
    ):
        assert kind.lowered_alone(nobody, way, ZERO) is None
    assert kind.lowered_alone(live, way, FULL) is None


def test_an_earlier_canary_is_no_other() -> None:
    start = group(member("v1", 300), member("v2", 0), member("v3", 0), member("other", 100, owner=""))
    way, v3 = record(start), service_identity("v3")

    for live in ((270, 30), (300, 30)):  # while its weight goes, the sum is another between two writes
        obj = group(
            member("v1", live[0]), member("v2", live[1]), member("v3", 0), member("other", 100, owner="")
        )
        assert carrier(way).way_back(obj, V1, v3).joint == 300
    alone = group(member("v1", 270), member("v2", 30), member("v3", 0))
    assert carrier(record(group(member("v1", 300), member("v2", 0)))).way_back(alone, V1, v3).joint == 0


def test_retired_members_lose_their_weight_and_those_of_others_never() -> None:
    obj = group(member("v1", 10_000), member("v2", 0), member("old", 50), member("theirs", 70, owner="else"))
    drop = (service_identity("old"), service_identity("theirs"))
    desired = DesiredTraffic(stable=V1, canary=None, weight=ZERO, drop=drop)
    patch = carrier().render(obj, desired)

    assert isinstance(patch, JsonPatch)
    after = applied(obj, patch)
    assert weights(after) == {"v1": 10_000, "v2": 0, "old": 0, "theirs": 70}
    assert carrier().render(after, desired) is None


BOUNDED = st.integers(min_value=0, max_value=1_000_000)


@given(
    stable=BOUNDED,
    canary=BOUNDED,
    weight=st.integers(min_value=0, max_value=10_000),
    joint=st.sampled_from([0, 0, 100, 9000, 1_000_000]),
    grain=BOUNDED,
)
@settings(max_examples=400, deadline=None)
def test_no_state_in_between_gives_the_canary_more_than_before_or_than_is_asked(
    stable: int, canary: int, weight: int, joint: int, grain: int
) -> None:
    live = {"v1": stable, "v2": canary}
    most = max(_share(live), Fraction(weight, FULL))
    for _ in range(4):
        step = next_write(live, "v1", "v2", Weight(weight), joint, grain)
        if step is None:
            break
        live[step[0]] = step[1]
        assert 0 <= step[1] <= 1_000_000
        assert _share(live) <= most + Fraction(1, joint or 10_000)
    assert next_write(live, "v1", "v2", Weight(weight), joint, grain) is None
    assert abs(_share(live) - Fraction(weight, FULL)) <= Fraction(1, 2 * (joint or 10_000))
    if not joint:
        assert round(_share(live) * FULL) == weight


@given(weight=st.integers(min_value=1, max_value=9_999), grain=st.integers(min_value=1, max_value=1_000_000))
@settings(max_examples=400, deadline=None)
def test_a_stable_that_is_reset_leaves_the_canary_at_what_is_asked_wherever_whole_numbers_can_say_it(
    weight: int, grain: int
) -> None:
    stable, canary = pair(Weight(weight), grain)
    became, exact = Fraction(canary, grain + canary), Fraction(weight, FULL)

    assert after_reset(Weight(weight), grain) == became
    if stable <= grain:
        assert became <= exact + Fraction(1, 2 * FULL)
    else:  # no smaller numbers say it exactly
        assert Fraction(canary, stable + canary) == exact
        assert canary == exact.numerator
        assert grain < exact.denominator - exact.numerator


def test_how_far_a_reset_raises_the_canary_is_known_before() -> None:
    assert after_reset(parse_weight("1%"), 9) == Fraction(1, 10)
    assert after_reset(parse_weight("10%"), 9) == Fraction(1, 10)
    assert after_reset(parse_weight("50%"), 10_000) == Fraction(1, 2)
    assert after_reset(parse_weight("10%"), 0) == 1
    assert (after_reset(ZERO, 9), after_reset(FULL, 9)) == (0, 1)
    assert fine_weight([parse_weight(one) for one in ("1%", "10%", "50%", "100%")], 9) == 99
    assert fine_weight([parse_weight("1%")], 100) == 198
    assert fine_weight([parse_weight("0.01%"), parse_weight("0.03%")], 9) == 10_000


def test_what_somebody_else_gave_stable_is_what_the_next_share_is_measured_by() -> None:
    obj, shares = group(member("v1", 9), member("v2", 0)), []
    for weight in ("1%", "10%", "50%"):
        desired = DesiredTraffic(stable=V1, canary=V2, weight=parse_weight(weight))
        while (patch := carrier().render(obj, desired)) is not None:
            obj = applied(obj, patch)
        shares.append(tuple(weights(obj).values()))

    assert shares == [(99, 1), (9, 1), (9, 9)]
    marks = [
        one["metadata"]["annotations"].get(service_group.DECLARED) for one in service_group.members_of(obj)
    ]
    assert marks == ["9", None]  # the canary came with nothing, and what it has is ours
    theirs = copy.deepcopy(dict(service_group.member(obj, "v1") or {}))
    theirs["spec"]["router"]["route"]["weight"] = 20
    theirs["metadata"]["managedFields"] = [{**WRITTEN, "manager": "kubectl-edit"}]
    assert (
        service_group.declared(service_group.member(obj, "v1") or {}),
        service_group.declared(theirs),
    ) == (9, 20)


def _share(live: dict[str, int]) -> Fraction:
    total = sum(live.values())
    return Fraction(live["v2"], total) if total else Fraction(0)


# --- what is said ----------------------------------------------------------------------------------


READER = Reader(rollout="roll", arms=(V1, V2), stored=(V1, V2))


def answered(obj: Object, said: dict[str, int] | None, **more: Any) -> Object:
    members = [{"name": name, "weight": weight} for name, weight in (said or {}).items()]
    router = {"group": {"name": "mymodel", "members": members}} if said is not None else {}
    return {**obj, "status": {"observedGeneration": 3, "router": router, **more}}


def test_weights_are_in_force_once_both_statuses_say_so() -> None:
    right = {"v1": 9, "v2": 1}
    told = [answered(member("v1", 9), right), answered(member("v2", 1), right)]

    assert service_group.view(group(*told), SPEC, READER).parents.programmed
    late = service_group.view(group(told[0], answered(member("v2", 1), {"v1": 9, "v2": 0})), SPEC, READER)
    assert not late.parents.programmed
    assert (
        late.parents.message == "KServe has not put weight 1 of LLMInferenceService v2 in force: "
        "the status of v2 has weight 0 for v2"
    )


def test_kserves_words_are_shown_where_the_group_is_degraded_or_not_ready() -> None:
    degraded = [
        {
            "type": "GroupDegraded",
            "status": "True",
            "reason": "MemberDivergence",
            "message": "group has members with different model sets: llama+sql",
        }
    ]
    alone = answered(member("v1", 9), {"v1": 9}, conditions=degraded)
    seen = service_group.view(group(alone, answered(member("v2", 1), {"v2": 1})), SPEC, READER)
    assert "MemberDivergence: group has members with different model sets: llama+sql" in seen.parents.message

    pending = [
        {"type": "GroupReady", "status": "False", "reason": "FinalizationPending", "message": "waiting"}
    ]
    seen = service_group.view(group(answered(member("v1", 9), {"v1": 9}, conditions=pending)), SPEC, READER)
    assert not seen.parents.programmed
    assert seen.parents.message.endswith("(FinalizationPending: waiting)")


def test_a_stopped_member_has_no_weight_whatever_its_spec_says() -> None:
    stopped = member("v1", 9, **{"serving.kserve.io/stop": "true"})
    members = [{"name": "v1", "weight": 9, "stopped": True}, {"name": "v2", "weight": 9}]
    running = member("v2", 9) | {
        "status": {"router": {"group": {"name": "mymodel", "members": members}}},
    }

    assert service_group.view(group(stopped, running), SPEC, READER).parents.programmed


def test_the_group_consents_when_each_of_our_members_does() -> None:
    seen = service_group.view(group(member("v1", 9), member("v2", 1, owner="")), SPEC, READER)
    assert seen.claim is Claim.UNCLAIMED
    seen = service_group.view(group(member("v1", 9), member("v2", 1, owner="else")), SPEC, READER)
    assert (seen.claim, seen.claimed_by) == (Claim.OTHER, "else")
    seen = service_group.view(group(member("v1", 9), member("v2", 1), member("x", 5, owner="")), SPEC, READER)
    assert seen.claim is Claim.CONSENTED
    assert seen.rules[0].entries == {V1: 9, V2: 1}


def test_at_first_sight_the_member_that_serves_is_asked_for_its_consent() -> None:
    first = Reader(rollout="roll", arms=(V2,))
    seen = service_group.view(group(member("v1", 100, owner=""), member("v2", 0)), SPEC, first)
    assert (seen.claim, seen.unclaimed) == (Claim.UNCLAIMED, "LLMInferenceService v1")

    stopped = member("v1", 100, owner="", **{"serving.kserve.io/stop": "true"})
    for fine in (
        group(member("v1", 100), member("v2", 0), member("other", 900, owner="")),  # a bystander
        group(member("v1", 100, owner="else"), member("v2", 0)),
        group(stopped, member("v2", 0)),
    ):
        assert service_group.view(fine, SPEC, first).claim is Claim.CONSENTED
    later = service_group.view(group(member("x", 100, owner=""), member("v1", 0)), SPEC, READER)
    assert later.claim is Claim.CONSENTED


def test_who_wrote_a_weight_last_is_told_by_the_latest_time() -> None:
    def written(obj: Object, manager: str, at: str) -> Object:
        fields = {"f:spec": {"f:router": {"f:route": {"f:weight": {}}}}}
        managed = [{"manager": manager, "time": at, "fieldsV1": fields}]
        return {**obj, "metadata": {**obj["metadata"], "managedFields": managed}}

    ours = written(member("v1", 9), "inference-rollouts", "2026-11-01T10:00:00Z")
    theirs = written(member("v2", 1), "kubectl-edit", "2026-11-01T10:00:01Z")
    seen = service_group.view(group(ours, theirs), SPEC, READER)
    assert (seen.last_writer, seen.written_by_us) == ("kubectl-edit", False)
    same = written(member("v2", 1), "kubectl-edit", "2026-11-01T10:00:00Z")
    assert service_group.view(group(ours, same), SPEC, READER).written_by_us


def test_without_a_member_there_is_no_group() -> None:
    assert service_group.joined("serving", "mymodel", []) is None
    assert not service_group.view(None, SPEC, READER).exists
