"""From the first CRD that was ever committed to the current one, with a Rollout that is stored meanwhile.

``tests/upgrade/crds`` has that CRD as Git had it, without its descriptions, which constrain nothing.
"""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rollouts.api.crds import all_crds, crd_files
from rollouts.api.parsing import parse_rollout
from rollouts.cli.crds import apply_crds
from rollouts.cli.main import main
from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.errors import Forbidden
from rollouts.lab.controlplane import install_crds
from rollouts.objects import kinds
from rollouts.traffic.fields import covers
from tests.kit.helm import render_chart
from tests.kit.polling import eventually

pytestmark = [pytest.mark.cluster]

Object = dict[str, Any]
OLD = json.loads((Path(__file__).parents[1] / "upgrade" / "crds" / "rollouts-first.json").read_text())
NAME = OLD["metadata"]["name"]
LACKING = "clusteranalysistemplates.inferencerollouts.dev"
"""Taken away, as if an earlier version had had no such kind."""
RBAC = "rbac.authorization.k8s.io"
ROLES = {
    kind: Resource(RBAC, "v1", plural, kind, namespaced=False)
    for kind, plural in (("ClusterRole", "clusterroles"), ("ClusterRoleBinding", "clusterrolebindings"))
}
NEWER = {"spec": {"strategy": {"canary": {"targetDeadline": "30m"}}}}
"""A field that the first CRD did not have."""


async def put_spec(kube, spec: Object) -> None:
    """As Helm leaves a CRD that it installed: owned by a plain write, with no field that we applied."""
    patch = [{"op": "replace", "path": "/spec", "value": spec}]
    await kube.with_field_manager("helm").patch(kinds.CRD, None, NAME, patch, kind=PatchKind.JSON)


async def keeps_what_is_newer(kube, namespace: str) -> bool:
    stored = await kube.patch(kinds.ROLLOUT, namespace, "demo", NEWER, kind=PatchKind.MERGE, dry_run=True)
    return stored["spec"]["strategy"]["canary"].get("targetDeadline") == "30m"


@pytest.fixture
async def stored(kube, namespace) -> Object:
    """A Rollout in mid-canary, made and stored under the first CRD."""
    await install_crds(kube, all_crds())
    await put_spec(kube, OLD["spec"])

    async def is_old() -> bool:
        page = await kube.list_page(kinds.ROLLOUT, namespace)
        return not page.items and not await served_with_newer(kube, namespace)

    await eventually(is_old, timeout=20)
    status = {"phase": "Progressing", "currentStep": 1, "attempt": 3}
    await kube.create(kinds.ROLLOUT, namespace, rollout())
    return await kube.patch(
        kinds.ROLLOUT, namespace, "demo", {"status": status}, kind=PatchKind.MERGE, subresource="status"
    )


def rollout() -> Object:
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "demo"},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {"canary": {"steps": [{"setWeight": 10}, {"pause": {"duration": "10m"}}]}},
        },
    }


async def served_with_newer(kube, namespace: str) -> bool:
    """Whether a new object may have the newer field: the API server takes a changed CRD up after a moment."""
    asked = rollout()
    asked["spec"]["strategy"]["canary"] |= NEWER["spec"]["strategy"]["canary"]
    made = await kube.create(kinds.ROLLOUT, namespace, asked, dry_run=True)
    return made["spec"]["strategy"]["canary"].get("targetDeadline") == "30m"


async def by_the_job(kube, helm, namespace: str, as_service_account) -> None:
    """What the Job's container runs, with the rights of its account."""
    objects = render_chart(helm, {"crds": {"upgradeJob": {"enabled": True}}}, namespace=namespace)
    hooks = [item for item in objects if "pre-upgrade" in str(item["metadata"].get("annotations"))]
    for item in hooks:
        if item["kind"] in ROLES:
            await kube.create(ROLES[item["kind"]], None, item)
    (job,) = [item for item in hooks if item["kind"] == "Job"]
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["crds", "--apply"]
    client = as_service_account(namespace, pod["serviceAccountName"])

    await without(kube, LACKING)
    said = await apply_crds(client.with_field_manager("rollouts-cli"))

    expected = {crd["metadata"]["name"]: "unchanged" for crd in all_crds()} | {
        NAME: "updated",
        LACKING: "created",
    }
    assert said == [f"{name}: {what}" for name, what in expected.items()]
    with pytest.raises(Forbidden):
        await client.list_page(kinds.CRD, None)
    with pytest.raises(Forbidden):
        await client.delete(kinds.CRD, None, NAME)
    with pytest.raises(Forbidden):
        await client.list_page(kinds.ROLLOUT, namespace)
    other = copy.deepcopy(OLD)
    other["metadata"]["name"] = "rollouts.argoproj.io"
    with pytest.raises(Forbidden):
        await client.patch(kinds.CRD, None, "rollouts.argoproj.io", other, kind=PatchKind.APPLY)


async def without(kube, name: str) -> None:
    """Delete a CRD, and wait until it is gone."""
    await kube.delete(kinds.CRD, None, name)

    async def gone() -> bool:
        return name not in {crd["metadata"]["name"] for crd in (await kube.list_page(kinds.CRD, None)).items}

    await eventually(gone, timeout=20)


async def by_hand(kube) -> None:
    """`kubectl apply --server-side --force-conflicts -f crds/`, file by file."""
    for _, text in crd_files():
        crd = yaml.safe_load(text)
        name = crd["metadata"]["name"]
        await kube.with_field_manager("kubectl").patch(
            kinds.CRD, None, name, crd, kind=PatchKind.APPLY, force=True
        )


@pytest.mark.parametrize("way", ["the Job of the chart", "kubectl"])
async def test_a_stored_rollout_survives_the_upgrade(
    kube, namespace, helm, as_service_account, stored: Object, way: str
):
    assert not await keeps_what_is_newer(kube, namespace)

    await (by_hand(kube) if way == "kubectl" else by_the_job(kube, helm, namespace, as_service_account))

    await eventually(lambda: keeps_what_is_newer(kube, namespace), timeout=20)
    live = await kube.get(kinds.CRD, None, NAME)
    (wanted,) = [crd for crd in all_crds() if crd["metadata"]["name"] == NAME]
    assert covers(live["spec"], wanted["spec"])
    # No field of the first schema that the current one lacks is left.
    assert covers(wanted["spec"]["versions"][0]["schema"], live["spec"]["versions"][0]["schema"])
    after = await kube.get(kinds.ROLLOUT, namespace, "demo")
    assert after["metadata"]["uid"] == stored["metadata"]["uid"]
    assert covers(after["spec"], stored["spec"])
    assert after["status"] == stored["status"]
    parsed = parse_rollout(after)
    assert parsed.spec is not None
    assert parsed.problems == ()
    changed = await kube.patch(kinds.ROLLOUT, namespace, "demo", NEWER, kind=PatchKind.MERGE)
    assert changed["spec"]["strategy"]["canary"]["targetDeadline"] == "30m"


async def test_the_command_says_what_it_did(kube, namespace, control_plane, stored: Object):
    def run() -> list[str]:
        arguments = ["crds", "--apply", "--kubeconfig", str(control_plane.kubeconfig)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return result.output.splitlines()

    first, again = await asyncio.to_thread(run), await asyncio.to_thread(run)

    assert f"{NAME}: updated" in first
    assert len(again) == len(all_crds())
    assert all(line.endswith(": unchanged") for line in again)
    await eventually(lambda: keeps_what_is_newer(kube, namespace), timeout=20)
