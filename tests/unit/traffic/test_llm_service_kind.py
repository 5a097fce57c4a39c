"""What keeps a member of a KServe group from being a target, in KServe's words."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.carriers import asked_in, object_target, pods_of
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import GroupTraffic
from rollouts.objects import kinds
from rollouts.traffic.service_group import service_identity
from tests.unit.traffic.test_service_group import member

Object = dict[str, Any]
SPEC = GroupTraffic(kind="LLMInferenceService", name="mymodel")
READY: Object = {"type": "Ready", "status": "True"}


def said(obj: Object, *conditions: Object, generation: int = 3) -> Object:
    return {**obj, "status": {"observedGeneration": generation, "conditions": list(conditions)}}


def lacks(obj: Object, beside: Object | None = None) -> list[tuple[Reason, str]]:
    kind = object_target("LLMInferenceService")
    assert kind is not None
    return [(one.reason, one.message) for one in kind.lacks(obj, beside, SPEC, "roll")]


def test_a_ready_member_that_consents_lacks_nothing() -> None:
    stable = said(member("v1", 9), READY)
    assert lacks(said(member("v2", 0), READY), stable) == []


def test_a_member_of_no_group_or_of_another_is_told_what_to_set() -> None:
    lonely = said(member("v2", 0), READY)
    del lonely["spec"]["router"]["route"]["group"]
    ((reason, message),) = lacks(lonely)
    assert reason is Reason.SERVICE_NOT_IN_GROUP
    assert message == (
        "LLMInferenceService v2 is in no group: set spec.router.route.group to mymodel, and weight to 0"
    )
    other = said(member("v2", 0), READY)
    other["spec"]["router"]["route"]["group"] = "other"
    assert lacks(other)[0][1].startswith("LLMInferenceService v2 is in group other:")


@pytest.mark.parametrize("owner", ["", "else"])
def test_each_member_consents_by_itself(owner: str) -> None:
    ((reason, message),) = lacks(said(member("v2", 0, owner=owner), READY))
    assert reason is Reason.ROUTE_NOT_CONSENTED
    assert message.endswith("inferencerollouts.dev/managed-by: roll")


def test_a_stopped_member_is_named() -> None:
    stopped = member("v2", 0, **{"serving.kserve.io/stop": "true"})
    condition = {"type": "Ready", "status": "False", "reason": "Stopped", "message": "Service is stopped"}
    reasons = dict(lacks(said(stopped, condition)))
    assert "take that away to start it" in reasons[Reason.SERVICE_STOPPED]
    assert reasons[Reason.SERVICE_NOT_READY].endswith("(Stopped: Service is stopped)")


@pytest.mark.parametrize(
    ("obj", "words"),
    [
        (member("v2", 0), "KServe has not said that LLMInferenceService v2 is Ready yet"),
        (
            said(member("v2", 0), READY, generation=2),
            "KServe has not looked at the newest spec of LLMInferenceService v2 yet",
        ),
        (
            said(
                member("v2", 0), {"type": "Ready", "status": "False", "reason": "MinimumReplicasUnavailable"}
            ),
            "KServe says Ready=False of LLMInferenceService v2 (MinimumReplicasUnavailable)",
        ),
        (
            said(
                member("v2", 0),
                READY,
                {
                    "type": "GroupReady",
                    "status": "False",
                    "reason": "FinalizationPending",
                    "message": "waits",
                },
            ),
            "KServe says GroupReady=False of LLMInferenceService v2 (FinalizationPending: waits)",
        ),
    ],
)
def test_what_kserve_does_not_call_ready_is_waited_for(obj: Object, words: str) -> None:
    assert lacks(obj) == [(Reason.SERVICE_NOT_READY, words)]


def test_members_of_other_names_share_nothing() -> None:
    apart = {
        "type": "GroupDegraded",
        "status": "True",
        "reason": "MemberDivergence",
        "message": "group has members with different model sets: sql",
    }
    other = said(member("v2", 0), READY, apart)
    other["spec"]["model"]["name"] = "sql"
    ((reason, message),) = lacks(other, said(member("v1", 9), READY))
    assert reason is Reason.GROUP_DIVERGES
    assert message.startswith("LLMInferenceService v2 serves sql and v1 llama")
    assert "(KServe: MemberDivergence: group has members with different model sets: sql)" in message


def test_a_target_of_the_kind_is_found_in_a_raw_spec_of_any_shape() -> None:
    ((kind, name),) = asked_in({"llmInferenceService": {"name": "v2"}})
    assert (kind, name) == (object_target("LLMInferenceService"), "v2")
    for junk in (None, [], {"llmInferenceService": 3}, {"llmInferenceService": {"name": 1}}, {"pool": {}}):
        assert asked_in(junk) == []


def test_the_pods_of_an_arm_are_read_where_it_lives() -> None:
    ((resource, read),) = pods_of(service_identity("v2"))
    assert resource == kinds.LLM_SERVICE
    assert read(member("v2", 0)).name == "v2"
