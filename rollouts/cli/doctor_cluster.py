"""What ``doctor`` says of the cluster, whatever Rollouts there are: kinds that it serves, rights that it gives."""

from __future__ import annotations

from collections.abc import AsyncIterator

from rollouts.carriers import TRAFFIC_KINDS
from rollouts.cli.doctor_released import ending_crd_checks
from rollouts.cli.findings import Check, bad, fine, warn
from rollouts.cli.readable import get_or_none, is_served
from rollouts.kube.client import KubeClient, Resource
from rollouts.kube.errors import Forbidden, KindNotServed
from rollouts.objects import kinds

__all__ = ["kind_checks", "right_checks"]

_OURS = (
    kinds.ROLLOUT,
    kinds.ANALYSIS_RUN,
    kinds.ANALYSIS_TEMPLATE,
    kinds.CLUSTER_ANALYSIS_TEMPLATE,
    kinds.ROLLOUT_STRATEGY,
    kinds.CLUSTER_ROLLOUT_STRATEGY,
    kinds.ROLLOUT_FREEZE,
    kinds.POOL_SPLIT,
)
_ARGO_ROLLOUT = Resource("argoproj.io", "v1alpha1", "rollouts", "Rollout")
_CRD = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
_ACCESS = Resource(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)
_NEEDED = (
    ("watch", kinds.ROLLOUT, ""),
    ("patch", kinds.ROLLOUT, "status"),
    ("create", kinds.ANALYSIS_RUN, ""),
    ("patch", kinds.ANALYSIS_RUN, "status"),
    ("watch", kinds.ANALYSIS_TEMPLATE, ""),
    ("watch", kinds.ROLLOUT_STRATEGY, ""),
    *(
        (verb, resource, "")
        for kind in TRAFFIC_KINDS
        for resource in kind.resources
        for verb in kind.asked_for
    ),
    ("watch", kinds.POD, ""),
    ("create", kinds.EVENT, ""),
)
"""What every rollout of base models needs; the chart's role has all of it."""


async def kind_checks(client: KubeClient, namespace: str) -> AsyncIterator[Check]:
    """Ours, those that rollouts are about, and one of another tool whose name is like ours."""
    missing = [kind.kind for kind in _OURS if not await is_served(client, kind, namespace)]
    if missing:
        yield bad(
            f"CRDs are missing: {', '.join(missing)}", "rollouts crds | kubectl apply --server-side -f -"
        )
    else:
        yield fine("the CRDs of inferencerollouts.dev are installed")
    crds = [await get_or_none(client, _CRD, "", f"{kind.plural}.{kind.group}") for kind in _OURS]
    for check in ending_crd_checks(crd for crd in crds if crd is not None):
        yield check
    for kind in TRAFFIC_KINDS:
        if kind.unserved[0] and not any([await is_served(client, one, namespace) for one in kind.resources]):
            yield warn(*kind.unserved)
    if not any([await is_served(client, pool, namespace) for pool in kinds.POOLS]):
        yield bad("the cluster serves no InferencePool", "install the Gateway API Inference Extension")
    if await is_served(client, _ARGO_ROLLOUT, namespace):
        yield warn(
            "Argo Rollouts is installed too: `kubectl get rollouts` may show its Rollouts",
            "use our short names iro, iat, icat, iar, or rollouts.inferencerollouts.dev",
        )


async def right_checks(client: KubeClient, namespace: str, account: str) -> AsyncIterator[Check]:
    """Whether the controller's ``account`` (``namespace/name``) may do in the namespace what every rollout needs."""
    user = f"system:serviceaccount:{account.replace('/', ':')}"
    lacking = []
    for verb, resource, subresource in _NEEDED:
        wanted = {
            "namespace": namespace,
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "subresource": subresource,
        }
        review = {"apiVersion": _ACCESS.api_version, "kind": _ACCESS.kind}
        try:
            answer = await client.create(
                _ACCESS, None, {**review, "spec": {"user": user, "resourceAttributes": wanted}}
            )
        except (KindNotServed, Forbidden):
            yield warn("the controller's rights cannot be asked for", "ask as a cluster administrator")
            return
        if not (answer.get("status") or {}).get("allowed"):
            lacking.append(f"{verb} {resource.plural}{'/' if subresource else ''}{subresource}")
    if lacking:
        yield bad(f"{account} may not {', '.join(lacking)} in {namespace}", "install the roles of the chart")
    else:
        yield fine(f"{account} has the rights that rollouts need in {namespace}")
