"""Shared strategies in files: found, looked at by themselves, and judged with the Rollouts that name them."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from rollouts.api.status import write_status
from rollouts.api.strategies import StrategyFault, pin_strategy
from rollouts.cli.explain import explanation
from rollouts.cli.lint import lint_documents
from rollouts.cli.lint_live import Live
from rollouts.cli.main import main
from rollouts.cli.render import rollout_view
from rollouts.engine.attempt import PinnedStrategy
from rollouts.engine.observation import StrategyView
from tests.kit.world import START, World, pause, spec, weight

Object = dict[str, Any]
API = "inferencerollouts.dev/v1alpha1"
GATE: Object = {"preset": "default"}
STEPS: list[Object] = [{"setWeight": 10}, {"analysis": GATE}, {"setWeight": 50}]


def strategy(canary: Object, kind: str = "RolloutStrategy", name: str = "careful") -> Object:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": {"canary": canary}}


def rollout(reference: Object | None = None, **own: Any) -> Object:
    found: Object = {"canaryFrom": reference or {"name": "careful"}}
    if own:
        found["canary"] = own
    return {
        "apiVersion": API,
        "kind": "Rollout",
        "metadata": {"name": "mymodel", "namespace": "default", "generation": 0},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": found,
        },
    }


def told(*documents: Object, live: Live | None = None) -> list[str]:
    return [
        f"{one.severity.value} {one.where}: {one.text}" for one in lint_documents(list(documents), live=live)
    ]


def test_a_sound_pair_has_no_problems_whatever_the_order():
    for files in ((strategy({"steps": STEPS}), rollout()), (rollout(), strategy({"steps": STEPS}))):
        assert [text for text in told(*files) if text.startswith("problem")] == []


def test_what_is_wrong_in_the_strategy_is_told_there_with_its_path():
    wrong = strategy({"steps": [{"setWeight": 50}, {"setWeight": 10}]})
    found = lint_documents([wrong])
    assert [(one.where, one.path) for one in found] == [
        ("RolloutStrategy/careful", ("spec", "canary", "steps", 1, "setWeight"))
    ]


def test_conditions_of_a_strategy_are_checked_without_a_rollout():
    metric = {"name": "errors", "query": "up", "successCondition": "result <> 2"}
    (text,) = told(strategy({"steps": [{"setWeight": 5}, {"analysis": {"metrics": [metric]}}]}))
    assert "metric errors" in text


def test_what_does_not_fit_the_rollout_is_told_at_its_reference():
    header = {"setHeaderRoute": {"name": "testers", "match": []}}
    found = lint_documents([strategy({"steps": [header, *STEPS]}), rollout()])
    (one,) = [finding for finding in found if finding.severity.value == "problem"]
    assert (one.where, one.path) == ("Rollout/mymodel", ("spec", "strategy", "canaryFrom"))
    assert one.text.startswith(
        "with RolloutStrategy careful: spec.strategy.canary.steps[0].setHeaderRoute needs a"
    )


def test_an_own_field_keeps_its_path():
    found = lint_documents(
        [strategy({"steps": STEPS}), rollout(steps=[{"setWeight": 50}, {"setWeight": 10}])]
    )
    problems = [one for one in found if one.severity.value == "problem"]
    assert [one.path for one in problems] == [("spec", "strategy", "canary", "steps", 1, "setWeight")]


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ({"name": "carefull"}, "did you mean careful?"),
        ({"name": "careful", "kind": "ClusterRolloutStrategy"}, "set canaryFrom.kind: RolloutStrategy"),
        ({"name": "bold"}, "RolloutStrategy bold is not in these files: it must exist in the cluster"),
    ],
)
def test_an_unknown_one_is_a_hint_in_files_and_a_problem_where_all_can_be_seen(reference: Object, says: str):
    files = (strategy({"steps": STEPS}), rollout(reference))
    (hint,) = [text for text in told(*files) if "RolloutStrategy " in text]
    assert hint.startswith("hint")
    assert says in hint
    (problem,) = [
        text
        for text in told(*files, live=Live())
        if "Strategy" in text and "neither in these files nor" in text
    ]
    assert problem.startswith("problem Rollout/mymodel")


def test_a_rollout_with_a_strategy_that_cannot_be_used_says_so():
    text = "\n".join(told(strategy({"steps": []}), rollout()))
    assert "problem Rollout/mymodel: RolloutStrategy careful cannot be used: spec.canary.steps" in text


def test_plan_reckons_with_the_effective_one(tmp_path: Path):
    file = tmp_path / "files.yaml"
    file.write_text(yaml.safe_dump_all([rollout(), strategy({"steps": STEPS})]))
    ran = CliRunner().invoke(
        main, ["plan", str(file), "--rate", "20", "--stable-pods", "10", "--canary-pods", "2"]
    )
    assert ran.exit_code == 0, ran.output
    assert "2/3" in ran.output or "ttft" in ran.output
    file.write_text(yaml.safe_dump_all([rollout()]))
    ran = CliRunner().invoke(main, ["plan", str(file), "--rate", "20", "--stable-pods", "10"])
    assert ran.exit_code == 2
    assert "RolloutStrategy careful is not in these files; add it as another document" in ran.output


def pinned(canary: Object) -> PinnedStrategy:
    found = pin_strategy(strategy(canary))
    assert isinstance(found, PinnedStrategy)
    return found


def explained(live: PinnedStrategy | StrategyFault | None, **own: Any) -> list[str]:
    used = pinned({"steps": [{"setWeight": 10}, {"pause": {}}]})
    made = spec(weight(10), pause())
    world = World(made, strategy=StrategyView(used=used, next=used, spec=made))
    world.settle()
    obj = {**rollout(**own), "status": write_status(world.status)}
    return [text for head, text in explanation(obj, [], START, live) if head == "Strategy"]


def test_explain_shows_what_is_pinned_and_the_drift():
    same = explained(pinned({"steps": [{"setWeight": 10}, {"pause": {}}]}), bake="5m")
    assert len(same) == 1
    assert "pinned when attempt 1 began; this Rollout's own fields win: bake." in same[0]
    drift = explained(pinned({"steps": [{"setWeight": 20}], "bake": "1m"}))
    assert "was changed since" in drift[1]
    assert drift[1].endswith("bake, steps): that counts from the next attempt on.")
    gone = explained(StrategyFault(text="it does not exist"))
    assert gone[1] == (
        "RolloutStrategy careful: it does not exist; the attempt goes on by what is pinned, no new attempt begins "
        "until that is mended."
    )
    assert len(explained(None)) == 1


def test_explain_of_a_rollout_at_rest_shows_what_the_next_attempt_would_do():
    live = pinned({"steps": STEPS})
    lines = [text for head, text in explanation(rollout(), [], START, live) if head == "Strategy"]
    assert lines == [f"RolloutStrategy careful ({live.hash[:8]})."]
    unread = [text for head, text in explanation(rollout(), [], START) if head == "Strategy"]
    assert unread == [
        "RolloutStrategy careful was not read: what the next attempt goes by is not known here."
    ]


def test_waves_put_the_strategy_before_the_rollout():
    late = copy.deepcopy(strategy({"steps": STEPS}))
    late["metadata"]["annotations"] = {"argocd.argoproj.io/sync-wave": "2"}
    assert any("RolloutStrategy/careful, which it needs, in 2" in text for text in told(late, rollout()))


def test_get_does_not_show_what_stands_in_the_place_of_unknown_steps():
    obj = {**rollout(), "status": write_status(World(spec(weight(10), target="v1")).status)}
    out = Console(width=120, record=True, file=io.StringIO())
    out.print(rollout_view(obj, []))
    text = out.export_text()
    assert "pause until promoted" not in text
    assert "those of RolloutStrategy careful, when an attempt begins" in text
