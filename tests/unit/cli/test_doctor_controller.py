"""What ``doctor`` makes of the word that a leading controller leaves on its Lease."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rollouts.cli.doctor import diagnose
from rollouts.cli.findings import Level
from rollouts.controller.reporting import REPORT_ANNOTATION, read_report, report_annotations
from rollouts.controller.settings import Settings, read_config
from rollouts.objects import kinds
from rollouts.runtime.lease import LEASES
from tests.unit.cli.test_doctor import Cluster, sound

CONFIG = """
parallelism: {pool: 1, namespace: 2}
capacity: {enabled: true, kinds: [Deployment]}
notifications:
  receivers:
    change-board: {type: webhook, url: "https://board.example"}
    audit: {type: webhook, url: "https://audit.example", namespaces: [team-a]}
    channel: {type: slack, url: "https://chat.example"}
"""


def settings(tmp_path: Path, **more: Any) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    return read_config(str(file), Settings(**more))


def lease(
    said: Settings, *, holder: str = "me", writer: str = "me", namespace: str = "system"
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "rollouts",
            "namespace": namespace,
            "annotations": report_annotations(said, writer),
        },
        "spec": {"holderIdentity": holder},
    }


def test_the_word_of_the_holder_is_read_back_without_addresses(tmp_path):
    obj = lease(settings(tmp_path, namespaces=("team-a", "default"), freezes=True))
    report = read_report(obj)

    assert report is not None
    assert (report.source, report.freezes, report.capacity) == (
        "Lease system/rollouts",
        True,
        ("Deployment",),
    )
    assert report.parallelism == {"pool": 1, "namespace": 2}
    assert (report.answering("team-a"), report.answering("default")) == (
        ["audit", "change-board"],
        ["change-board"],
    )
    assert [report.watches(name) for name in ("team-a", "default", "other")] == [True, True, False]
    assert "example" not in obj["metadata"]["annotations"][REPORT_ANNOTATION]


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"holderIdentity": "another"}},
        {"spec": {"holderIdentity": ""}},
        {"spec": None},
        {"metadata": {"name": "rollouts"}},
        {"metadata": {"name": "rollouts", "annotations": {REPORT_ANNOTATION: "[" * 100_000}}},
        {"metadata": {"name": "rollouts", "annotations": {REPORT_ANNOTATION: '{"holder": ["me"]}'}}},
    ],
)
def test_nobody_elses_word_counts(tmp_path, change):
    assert read_report({**lease(settings(tmp_path)), **change}) is None


def with_lease(cluster: Cluster, *leases: dict[str, Any]) -> Cluster:
    cluster.objects[LEASES] = {f"{number}": one for number, one in enumerate(leases)}
    return cluster


def frozen(cluster: Cluster, *, end: str = "2999-01-01T00:00:00Z") -> Cluster:
    cluster.add(kinds.ROLLOUT_FREEZE, "year-end", spec={"reason": "closed", "end": end})
    return cluster


async def told(cluster: Cluster) -> list[tuple[Level, str]]:
    checks = await diagnose(cluster, "default", None, None, "argocd")  # type: ignore[arg-type]
    words = ("RolloutFreeze ", "receiver", "may scale nothing", "none of the controllers")
    return [(check.level, check.text) for check in checks if any(word in check.text for word in words)]


@pytest.mark.parametrize(("obeys", "level"), [(False, Level.BAD), (True, Level.FINE)])
async def test_a_freeze_that_nobody_obeys_is_a_problem(tmp_path, obeys, level):
    cluster = with_lease(frozen(sound()), lease(settings(tmp_path, freezes=obeys)))
    ((found, text),) = await told(cluster)

    assert found is level
    assert "RolloutFreeze year-end" in text
    assert ("started without --freezes" in text) is not obeys


async def test_a_freeze_that_is_over_concerns_nobody(tmp_path):
    now = datetime.now(UTC)
    cluster = frozen(sound(), end=f"{now.year - 1}-01-01T00:00:00Z")

    assert await told(with_lease(cluster, lease(settings(tmp_path)))) == []


@pytest.mark.parametrize("hidden", [True, False])
async def test_what_no_lease_says_is_not_known(hidden):
    cluster = with_lease(frozen(sound()))
    if hidden:
        cluster.hidden.add(LEASES)
    ((level, text),) = await told(cluster)

    assert (level, "is not known" in text) == (Level.WARN, True)


def asking(cluster: Cluster, *steps: dict[str, Any], **canary: Any) -> Cluster:
    cluster.objects[kinds.ROLLOUT]["demo"]["spec"]["strategy"] = {"canary": {"steps": list(steps), **canary}}
    return cluster


async def test_receivers_that_a_step_names_and_nobody_has_are_problems(tmp_path):
    steps = (
        {"setWeight": 10},
        {"approve": {"webhook": "audit"}},
        {"pause": {"approve": {"webhook": "channel"}}},
        {"approve": {"webhook": "change-board"}},
    )
    found = await told(with_lease(asking(sound(), *steps), lease(settings(tmp_path))))

    assert [(level, text.split(", and")[0]) for level, text in found] == [
        (Level.BAD, "Rollout demo: step 2 asks audit"),
        (Level.BAD, "Rollout demo: step 3 asks channel"),
    ]
    assert all("there are change-board" in text for _, text in found)


async def test_approvals_of_a_shared_strategy_count(tmp_path):
    cluster = sound()
    cluster.objects[kinds.ROLLOUT]["demo"]["spec"]["strategy"] = {"canaryFrom": {"name": "careful"}}
    cluster.add(
        kinds.ROLLOUT_STRATEGY, "careful", spec={"canary": {"steps": [{"approve": {"webhook": "nobody"}}]}}
    )
    found = await told(with_lease(cluster, lease(settings(tmp_path))))

    assert [(level, text.split(",")[0]) for level, text in found] == [
        (Level.BAD, "Rollout demo: step 1 asks nobody")
    ]


async def test_capacity_and_namespaces_that_the_controller_was_not_told_of(tmp_path):
    cluster = asking(sound(), {"setWeight": 10}, capacity={"maxSurge": 1})
    blind = await told(with_lease(cluster, lease(Settings(namespaces=()))))
    elsewhere = await told(with_lease(cluster, lease(Settings(namespaces=("team-a",)))))

    assert [(level, "may scale nothing" in text) for level, text in blind] == [(Level.BAD, True)]
    assert [(level, "watches namespace default" in text) for level, text in elsewhere] == [(Level.BAD, True)]
