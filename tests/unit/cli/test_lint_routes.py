"""What files say of a Managed route, before the API server refuses it in the middle of an attempt."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.cli.lint import Severity, lint_documents

GATEWAYS = [{"name": "gw"}]


def marked(name: str) -> dict[str, Any]:
    match = [{"headerName": "x-test", "headerValue": {"exact": name}}]
    return {"setHeaderRoute": {"name": name, "match": match}}


def problems(template: dict[str, Any], *steps: dict[str, Any]) -> list[str]:
    obj = {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "demo"},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route", "template": template}]},
            "strategy": {"canary": {"steps": [*steps, {"setWeight": 10}]}},
        },
    }
    return [one.text for one in lint_documents([obj]) if one.severity is Severity.PROBLEM]


def rules(count: int, matches: int = 1) -> list[dict[str, Any]]:
    paths = [{"path": {"type": "PathPrefix", "value": f"/{number}"}} for number in range(matches)]
    return [{"matches": paths} for _ in range(count)]


@pytest.mark.parametrize(
    ("count", "matches", "steps", "said"),
    [
        (8, 1, [marked("a")], ""),
        (9, 1, [marked("a")], "18 rules with 18 matches"),
        (6, 1, [marked("a"), marked("b")], "step 2: "),
        (6, 1, [marked("a"), {"setHeaderRoute": {"name": "a"}}, marked("b")], ""),
        (1, 64, [marked("a")], ""),
        (2, 33, [marked("a")], "4 rules with 132 matches"),
        (16, 1, [], ""),
    ],
)
def test_header_routes_that_leave_no_room(count: int, matches: int, steps: list[Any], said: str) -> None:
    found = problems({"parentRefs": GATEWAYS, "rules": rules(count, matches)}, *steps)

    assert [said in text for text in found] == ([True] if said else [])


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ({"rules": rules(1)}, "names no parentRefs"),
        (
            {"parentRefs": GATEWAYS, "rules": [{"backendRefs": [{"name": "x"}]}]},
            "no rule without backendRefs",
        ),
    ],
)
def test_what_the_controller_would_say_of_the_template(template: dict[str, Any], part: str) -> None:
    assert [part in text for text in problems(template)] == [True]
