"""Doctor says when strangers may speak to a picker, and is silent about pickers of others."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.cli.doctor_pickers import exposure_checks
from rollouts.cli.findings import Level

SERVICE = {"metadata": {"name": "epp"}, "spec": {"selector": {"app": "picker"}}}
GATEWAY = [{"namespaceSelector": {}}]


def pod(*arguments: str, **labels: str) -> dict[str, Any]:
    container = {"name": "picker", "args": ["picker", "--pool=ns/p", *arguments]}
    return {"metadata": {"labels": {"app": "picker", **labels}}, "spec": {"containers": [container]}}


def policy(*rules: dict[str, Any], types: list[str] | None = None, **labels: str) -> dict[str, Any]:
    spec = {
        "podSelector": {"matchLabels": labels},
        "policyTypes": types or ["Ingress"],
        "ingress": list(rules),
    }
    return {"spec": spec}


CASES = {
    "nothing": ([pod()], [], Level.WARN),
    "certificates": ([pod("--client-ca=/ca")], [], Level.FINE),
    "certificates of one replica only": ([pod("--client-ca=/ca"), pod()], [], Level.WARN),
    "a policy": ([pod()], [policy({"from": GATEWAY, "ports": [{"port": "grpc"}]}, app="picker")], Level.FINE),
    "a policy of other pods": ([pod()], [policy({"from": GATEWAY}, app="other")], Level.WARN),
    "a policy that lets everybody in": ([pod()], [policy({"ports": [{"port": 9002}]})], Level.WARN),
    "a policy with an open probe port": (
        [pod()],
        [policy({"from": GATEWAY, "ports": [{"port": "grpc"}]}, {"ports": [{"port": "health"}]})],
        Level.FINE,
    ),
    "a policy of egress": ([pod()], [policy(types=["Egress"])], Level.WARN),
    "policies that may not be read": ([pod()], None, None),
    "a picker of somebody else": ([{"metadata": {"labels": {"app": "picker"}}, "spec": {}}], [], None),
    "no pod": ([], [], None),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_of_who_may_connect(case):
    pods, policies, want = CASES[case]

    found = [check.level for check in exposure_checks(SERVICE, pods, policies)]

    assert found == ([] if want is None else [want])
