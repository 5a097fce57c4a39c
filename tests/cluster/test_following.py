"""What `status` asks, of a real API server, by an account that may see one Rollout and no other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.cli.following import follow
from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.controlplane import install_crds
from rollouts.objects import kinds
from tests.kit.served import ROLLOUT

pytestmark = pytest.mark.cluster

RBAC = "rbac.authorization.k8s.io"
ROLES = Resource(RBAC, "v1", "roles", "Role")
BINDINGS = Resource(RBAC, "v1", "rolebindings", "RoleBinding")
RULE = {
    "apiGroups": [kinds.GROUP],
    "resources": ["rollouts"],
    "resourceNames": ["demo"],
    "verbs": ["list", "watch"],
}


async def test_a_rollout_is_followed_from_before_it_is_there_until_it_is_gone(
    kube: HttpKubeClient,
    namespace: str,
    as_service_account: Callable[[str, str], HttpKubeClient],
) -> None:
    await install_crds(kube, all_crds())
    role = {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": {"name": "ci"}, "rules": [RULE]}
    subject = {"kind": "ServiceAccount", "name": "ci", "namespace": namespace}
    reference = {"apiGroup": RBAC, "kind": "Role", "name": "ci"}
    binding = {**role, "kind": "RoleBinding", "roleRef": reference, "subjects": [subject]}
    del binding["rules"]
    await kube.create(ROLES, namespace, role)
    await kube.create(BINDINGS, namespace, binding)

    def named(name: str) -> dict[str, Any]:
        return {**ROLLOUT, "metadata": {"name": name, "namespace": namespace}}

    patch = {"metadata": {"annotations": {"inferencerollouts.dev/commit": "abc"}}}
    steps = [
        lambda: kube.create(kinds.ROLLOUT, namespace, named("other")),
        lambda: kube.create(kinds.ROLLOUT, namespace, named("demo")),
        lambda: kube.patch(kinds.ROLLOUT, namespace, "demo", patch, kind=PatchKind.MERGE),
        lambda: kube.delete(kinds.ROLLOUT, namespace, "demo"),
    ]
    await steps.pop(0)()
    seen, client = list[Any](), as_service_account(namespace, "ci")
    async with aclosing(follow(client, namespace, "demo", away=seen.append, back=lambda: None)) as changes:
        async for found in changes:
            seen.append(found and found["metadata"].get("annotations", {}))
            if not steps:
                break
            await steps.pop(0)()

    assert seen == [None, {}, {"inferencerollouts.dev/commit": "abc"}, None]
