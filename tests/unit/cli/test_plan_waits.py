"""What ``rollouts plan`` says stands in the way beside the gates, and when it would be over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rollouts.api.status import write_status
from rollouts.cli.main import main
from rollouts.cli.plan_waits import Surroundings, ends_at, surroundings
from rollouts.controller.reporting import report_annotations
from rollouts.controller.settings import Settings
from rollouts.engine.turns import LimitScope
from rollouts.kube.client import Resource
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.objects import kinds
from rollouts.objects.workloads import AUTOSCALER, WORKLOADS
from rollouts.runtime.lease import LEASES
from tests.kit.crds import crd
from tests.kit.served import Server
from tests.kit.world import World, pause, spec, weight

API = "inferencerollouts.dev/v1alpha1"
START = datetime(2026, 12, 18, 15, tzinfo=UTC)  # a Friday
HOUR = {"pause": {"duration": "1h"}}
STEPS = [{"setWeight": 10}, HOUR, {"setWeight": 50}, HOUR]
OFFICE = {"schedule": "0 9 * * mon-fri", "duration": "8h", "timeZone": "UTC"}


def rollout(steps: list[dict[str, Any]] = STEPS, *, depends: Any = None, **canary: Any) -> dict[str, Any]:
    asked = {"dependsOn": depends} if depends else {}
    return {
        "apiVersion": API,
        "kind": "Rollout",
        "metadata": {"name": "demo", "namespace": "default", "labels": {"tier": "gold"}},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {"canary": {"steps": steps, **canary}},
            **asked,
        },
    }


def freeze(name: str = "year-end", **said: Any) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "RolloutFreeze",
        "metadata": {"name": name},
        "spec": {"reason": "shut", **said},
    }


def plan(folder: Path, *documents: dict[str, Any], words: tuple[str, ...] = ()) -> str:
    file = folder / "rollout.yaml"
    file.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    result = CliRunner().invoke(main, ["plan", str(file), "--start", "2026-12-18T15:00:00Z", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_windows_stretch_it_over_the_weekend(tmp_path):
    said = plan(tmp_path, rollout(windows=[OFFICE]))

    assert "one is until Fri 2026-12-18 17:00Z" in said
    assert "Total: about 2 h 00 min" in said
    # 10 % at 15:00, 50 % at 16:00, and the rest, which has to wait from 17:00 on, on Monday at 9.
    assert "from Fri 2026-12-18 15:00Z until Mon 2026-12-21 09:00Z; 3 days of it outside of windows" in said


def test_a_freeze_of_the_file_holds_what_it_selects(tmp_path):
    holds = freeze(
        start="2026-12-18T15:30:00Z",
        end="2027-01-04T07:00:00Z",
        rolloutSelector={"matchLabels": {"tier": "gold"}},
    )
    other = freeze("other", rolloutSelector={"matchLabels": {"tier": "silver"}})
    said = plan(tmp_path, rollout(), holds, other)

    assert "Freeze: year-end from Fri 2026-12-18 15:30Z until Mon 2027-01-04 07:00Z: shut." in said
    assert "other" not in said
    # 10 % before it, 50 % when it is over, then an hour.
    assert "until Mon 2027-01-04 08:00Z" in said


def test_a_freeze_without_an_end_has_none(tmp_path):
    found = json.loads(plan(tmp_path, rollout(), freeze(), words=("-o", "json")))

    assert (found["start"], found["end"], found["minutes"]) == ("2026-12-18T15:00:00Z", None, 120.0)
    assert found["waits"] == ["Freeze: year-end until somebody ends it: shut."]


@pytest.mark.parametrize(("label", "holds"), [("prod", True), ("dev", False), (None, True)])
def test_a_namespace_that_is_not_known_may_be_meant(tmp_path, label, holds):
    meant = freeze(namespaceSelector={"matchLabels": {"env": "prod"}})
    space = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "default", "labels": {"env": label}},
    }
    said = plan(tmp_path, rollout(windows=[OFFICE]), meant, *([space] if label else []))

    assert ("Freeze: year-end" in said) is holds


def test_who_goes_first_and_who_approves_is_named(tmp_path):
    steps = [*STEPS, {"approve": {"webhook": "board"}}, {"pause": {"approve": {"webhook": "qa"}}}]
    said = plan(tmp_path, rollout(steps, depends=[{"name": "small", "soak": "30m"}]))

    assert "Order: small has to be Healthy for 30m first; its state is not known here (--live asks)." in said
    assert "Approval: step 5 asks board." in said
    assert "Approval: step 6 asks qa." in said


def test_a_controller_in_the_file_says_what_it_does_not_obey_or_know(tmp_path):
    container = {"image": "inference-rollouts", "args": ["controller", "--all-namespaces", "--no-freezes"]}
    pod = {"containers": [container], "volumes": [{"configMap": {"name": "c"}}]}
    deployed = {"kind": "Deployment", "metadata": {"name": "r"}, "spec": {"template": {"spec": pod}}}
    config = {
        "kind": "ConfigMap",
        "metadata": {"name": "c"},
        "data": {"config.yaml": "parallelism: {pool: 1}"},
    }
    steps = [*STEPS, {"approve": {"webhook": "board"}}]
    said = plan(tmp_path, rollout(steps), freeze(), deployed, config)

    assert "shut (the controller runs without --freezes, and does not obey)." in said
    assert "Approval: step 5 asks board, and the controller has no such receiver; there are none." in said
    assert "Limit: 1 in progress at a time on pool v2." in said
    assert "until Fri 2026-12-18 17:00Z" in said


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    yield running
    running.stop()


def test_live_asks_who_is_in_progress_and_who_goes_first(tmp_path, server):
    world = World(spec=spec(weight(10), pause()))
    world.settle()
    settings = Settings(namespaces=(), parallelism={LimitScope.NAMESPACE: 1})
    lease = {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": {
            "name": "rollouts",
            "namespace": "default",
            "annotations": report_annotations(settings, "me"),
        },
        "spec": {"holderIdentity": "me"},
    }
    server.name = "small"

    def there(api: Any) -> None:
        small = rollout()
        api.create(kinds.ROLLOUT, "default", {**small, "metadata": {"name": "small"}}, manager="test")
        api.create(LEASES, "default", lease, manager="test")
        api.create(kinds.ROLLOUT_FREEZE, None, freeze(end="2026-12-19T00:00:00Z"), manager="test")

    server.within(there)
    server.patch_status(write_status(world.status))
    said = plan(
        tmp_path,
        rollout(depends=[{"name": "small"}, {"name": "gone"}]),
        words=("--live", "--kubeconfig", str(server.kubeconfig)),
    )

    assert "Order: small has to be Healthy first; now it is Paused." in said
    assert "Order: gone has to be Healthy first; it does not exist." in said
    assert (
        "Limit: 1 of 1 in progress in namespace default (default/small), so that it would wait in line."
        in said
    )
    assert "Freeze: year-end until Sat 2026-12-19 00:00Z" in said


def of_version(name: str, replicas: int, with_pool: str = "") -> list[tuple[Resource, dict[str, Any]]]:
    """A pool, which works for another one or gets requests itself, and its Deployment."""
    labels = {"labels": {"inferencerollouts.dev/with": with_pool}} if with_pool else {}
    selector = {"matchLabels": {"release": name}}
    pool = {
        "metadata": {"name": name, **labels},
        "spec": {"selector": selector, "targetPorts": [{"number": 8000}]},
    }
    pool["spec"]["extensionRef"] = {"name": "picker"}
    template = {"metadata": {"labels": {"release": name}}}
    made = {
        "metadata": {"name": f"vllm-{name}"},
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    }
    return [(kinds.POOL_X, pool), (WORKLOADS["Deployment"], made)]


def test_live_knows_an_autoscaler_of_what_works_for_stable(tmp_path, server):
    world = World(spec=spec(weight(10), pause(), target="v1"))
    world.settle()
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm-p1"}
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "auto"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 9},
    }

    def there(api: Any) -> None:
        api.create(CRDS, None, crd(kinds.POOL_X), manager="test")
        for name, replicas, of in (("v1", 8, ""), ("v2", 0, ""), ("p1", 4, "v1"), ("p2", 0, "v2")):
            for resource, obj in of_version(name, replicas, of):
                typed = {"apiVersion": resource.api_version, "kind": resource.kind}
                api.create(resource, "default", {**typed, **obj}, manager="test")
        api.create(AUTOSCALER, "default", scaler, manager="test")
        api.create(kinds.ROLLOUT, "default", rollout(), manager="test")

    server.within(there)
    server.patch_status(write_status(world.status))
    asked = rollout(capacity={"maxSurge": 1, "minStable": 1})
    words = ("--live", "--kubeconfig", str(server.kubeconfig), "--stable-pods=8", "--companion-pods=4")
    said = " ".join(plan(tmp_path, asked, words=words).split())

    assert "Capacity: it would wait as CapacityInfeasible: stable is to give pods while it serves" in said
    assert (
        "HorizontalPodAutoscaler auto scales Deployment vllm-p1: take that away, or set maxSurge to 8" in said
    )


def around(*objects: Any, live: bool = False) -> Surroundings:
    return surroundings(rollout(), objects, (), "default", live=live)


def of_status(phase: str, name: str = "demo", namespace: str = "default") -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace}
    return {**rollout(), "metadata": meta, "status": {"phase": phase} if phase else {"observedGeneration": 0}}


@pytest.mark.parametrize(
    ("objects", "live", "phase"),
    [
        ([of_status("Healthy"), of_status("Paused")], True, "Paused"),
        ([of_status("Healthy"), of_status("Paused")], False, "Healthy"),
        ([of_status(""), of_status("Paused")], True, "Paused"),
        ([of_status(""), of_status("Paused")], False, "Paused"),
        ([of_status("Healthy")], True, "Healthy"),
        ([of_status("")], True, None),
    ],
)
def test_the_clusters_status_counts_where_it_is_asked_and_none_that_nobody_wrote(objects, live, phase):
    assert around(*objects, live=live).stored["status"].get("phase") == phase


def test_a_rollout_of_the_file_that_is_in_the_cluster_too_is_one():
    file = of_status("", "b", "")
    there = around(file, of_status("Progressing", "b"), of_status("Paused", "b", "x"), live=True).rollouts

    assert [one["status"]["phase"] for one in there] == ["Progressing", "Paused"]


def test_what_other_namespaces_of_a_file_have_says_nothing():
    named = [
        {"kind": "InferencePool", "metadata": {"name": "v1", "namespace": at}} for at in ("default", "x")
    ]
    free = {"kind": "InferencePool", "metadata": {"name": "v2"}}

    assert around(*named, free).objects == (named[0], free)
    assert surroundings({"kind": "Rollout"}, [*named, free], (), "", live=False).objects == (*named, free)


def test_live_asks_for_the_strategy_and_the_templates_that_it_names(tmp_path, server):
    limit = {"name": "up", "query": "up", "successCondition": "result > 0", "interval": "1m", "count": 3}
    gate = {"analysis": {"templates": [{"templateName": "alive"}]}}
    template = {
        "apiVersion": API,
        "kind": "AnalysisTemplate",
        "metadata": {"name": "alive"},
        "spec": {"metrics": [limit]},
    }
    careful = {
        "apiVersion": API,
        "kind": "RolloutStrategy",
        "metadata": {"name": "careful"},
        "spec": {"canary": {"steps": [{"setWeight": 10}, gate]}},
    }

    def there(api: Any) -> None:
        api.create(kinds.ANALYSIS_TEMPLATE, "default", template, manager="test")
        api.create(kinds.ROLLOUT_STRATEGY, "default", careful, manager="test")

    server.within(there)
    mine = rollout()
    mine["spec"]["strategy"] = {"canaryFrom": {"name": "careful"}}
    said = plan(tmp_path, mine, words=("--live", "--kubeconfig", str(server.kubeconfig)))

    assert "3 x result > 0" in said


@pytest.mark.parametrize("minutes", [[0.0, 60.0, 0.0, 60.0, 0.0], [0.0, float("inf"), 0.0, 60.0, 0.0]])
def test_without_a_calendar_it_takes_what_its_steps_take(minutes):
    asked = spec(weight(10), pause(3600), weight(50), pause(3600))
    found = ends_at(asked, minutes, Surroundings(namespace="default"), START)

    assert found == (START + timedelta(hours=2) if float("inf") not in minutes else None)
