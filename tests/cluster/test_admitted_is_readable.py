"""Whatever a real API server admits of our kinds can be read: bounds and formats of CRDs and parsers are one."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.api.parsing import parse_rollout
from rollouts.api.runs import parse_run, parse_template
from rollouts.api.strategies import StrategyFault, pin_strategy
from rollouts.cli.lint_findings import Severity
from rollouts.cli.lint_schema import NO_NAME, strict_findings
from rollouts.kube.errors import Invalid, KubeError
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.controlplane import install_crds
from rollouts.objects import kinds
from tests.kit.admission import written

pytestmark = [pytest.mark.cluster]

RESOURCES = {
    resource.kind: resource
    for resource in (
        kinds.ROLLOUT,
        kinds.ANALYSIS_RUN,
        kinds.ANALYSIS_TEMPLATE,
        kinds.CLUSTER_ANALYSIS_TEMPLATE,
        kinds.ROLLOUT_STRATEGY,
    )
}
KNOWN = (
    "two metrics are called",
    "two arguments are called",
    "is lower than the weight before it",
    "nested deeper than",
)
"""What a spec that can be read may still have said of it: rules that CEL's budget has no room for."""


def unreadable(kind: str, obj: dict[str, Any]) -> list[str]:
    if kind == "AnalysisRun":
        return [text] if (text := parse_run(obj).problem) else []
    if kind == "RolloutStrategy":
        pinned = pin_strategy(obj)
        found = [pinned.text] if isinstance(pinned, StrategyFault) else []
        return [text for text in found if not any(known in text for known in KNOWN)]
    if kind != "Rollout":
        template = parse_template(obj)
        return [template] if isinstance(template, str) else []
    parsed = parse_rollout(obj)
    found = [problem.message for problem in parsed.problems]
    if parsed.spec is None or parsed.model is None:
        return found or ["no spec"]
    return [text for text in found if not any(known in text for known in KNOWN)]


def refused_by_lint(obj: dict[str, Any]) -> list[str]:
    """What ``lint`` says that this server would refuse. It prunes fields that it does not know, and says nothing."""
    found = strict_findings(obj, "")
    found = [one for one in found if one.severity is Severity.PROBLEM]
    return [one.text for one in found if one.rule not in ("unknown-field", "template", NO_NAME)]


async def try_all(kube: HttpKubeClient, namespace: str, seed: int, *, seconds: float) -> Counter[str]:
    """Write objects, stored nowhere, until the time is over; every admitted one must be readable."""
    rng, counts, end = random.Random(seed), Counter[str](), time.monotonic() + seconds
    while time.monotonic() < end:
        kind, obj = written(rng)
        resource = RESOURCES[kind]
        where = namespace if resource.namespaced else None
        try:
            stored = await kube.create(resource, where, obj, dry_run=True)
        except Invalid:
            counts["refused"] += 1
            continue
        except KubeError:  # not even an object
            counts["malformed"] += 1
            continue
        counts[kind] += 1
        assert unreadable(kind, stored) == [], f"seed {seed}: {json.dumps(obj)[:4000]}"
        assert refused_by_lint(obj) == [], f"seed {seed}: {json.dumps(obj)[:4000]}"
    return counts


@pytest.mark.timeout(120)
async def test_what_the_server_admits_can_be_read(kube, namespace):
    await install_crds(kube, all_crds())

    counts = await try_all(kube, namespace, 20261128, seconds=15)

    assert all(counts[kind] >= 20 for kind in RESOURCES), counts
    assert counts["refused"] >= 100, counts


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
async def test_what_the_server_admits_can_be_read_for_minutes(kube, namespace, seed):
    await install_crds(kube, all_crds())

    assert sum((await try_all(kube, namespace, seed, seconds=120)).values()) >= 5000
