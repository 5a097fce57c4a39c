"""PoolSplits on a real kube-apiserver: what it refuses, and that what it admits is read without a complaint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.kube.client import PatchKind
from rollouts.kube.errors import Invalid
from rollouts.lab.controlplane import install_crds
from rollouts.objects import kinds
from rollouts.objects.pool_splits import MAX_LABELS, MAX_VARIANTS, read_pool_split

pytestmark = [pytest.mark.cluster]

Object = dict[str, Any]
Change = Callable[[Object], object]


def pool_split() -> Object:
    """As large as it may be: each label of each variant has another value."""
    return {
        "apiVersion": kinds.POOL_SPLIT.api_version,
        "kind": "PoolSplit",
        "metadata": {"name": "s"},
        "spec": {
            "poolRef": {"name": "p"},
            "modelName": "m",
            "variants": [
                {
                    "name": f"v{number}",
                    "labels": {f"label{key}": f"v{number}" for key in range(MAX_LABELS)},
                    "model": "n",
                    "weight": number,
                }
                for number in range(MAX_VARIANTS)
            ],
        },
    }


def variant(**changed: Any) -> Change:
    return lambda spec: spec["variants"][1].update(changed)


REFUSED: dict[str, Change] = {
    "two variants have the same name": variant(name="v0"),
    "a pod could have the labels of two variants": variant(labels={"other": "x"}),
    "no variant has a weight": lambda spec: [one.update(weight=0) for one in spec["variants"]],
    "at least 1 properties": variant(labels={}),
    "poolRef: Required": lambda spec: spec.pop("poolRef"),
    "less than or equal to 1000000": variant(weight=1_000_001),
    "greater than or equal to 0": variant(weight=-1),
    "should match": variant(name="v 1"),
    "weight: Required": lambda spec: spec["variants"][1].pop("weight"),
    "at least 1 items": lambda spec: spec.update(variants=[]),
    "at most 8 items": lambda spec: spec["variants"].append({**spec["variants"][0], "name": "v9"}),
}


@pytest.mark.timeout(120)
async def test_the_server_refuses_what_no_picker_could_obey(kube, namespace):
    await install_crds(kube, all_crds())

    stored = await kube.create(kinds.POOL_SPLIT, namespace, pool_split())
    read = read_pool_split(stored)
    assert (len(read.variants), read.problems) == (MAX_VARIANTS, ())

    for says, change in REFUSED.items():
        wrong = copy.deepcopy(pool_split())
        change(wrong["spec"])
        with pytest.raises(Invalid, match=says):
            await kube.create(kinds.POOL_SPLIT, namespace, wrong, dry_run=True)
    with pytest.raises(Invalid, match="poolRef cannot be changed"):
        await kube.patch(
            kinds.POOL_SPLIT, namespace, "s", {"spec": {"poolRef": {"name": "q"}}}, kind=PatchKind.MERGE
        )
