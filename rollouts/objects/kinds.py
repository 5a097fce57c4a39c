"""The API resources that controller, picker and commands read and write."""

from __future__ import annotations

from rollouts.objects.grants import GRANT_KIND
from rollouts.objects.llm_services import LLM_SERVICE_GROUP, LLM_SERVICE_KIND
from rollouts.objects.models import MODEL_GROUP, MODEL_KIND, REWRITE_GROUPS, REWRITE_KIND
from rollouts.objects.pool_splits import POOL_SPLIT_KIND
from rollouts.objects.pools import POOL_GROUPS, POOL_KIND
from rollouts.objects.resource import Resource

__all__ = [
    "ANALYSIS_RUN",
    "ANALYSIS_TEMPLATE",
    "CLUSTER_ANALYSIS_TEMPLATE",
    "CLUSTER_ROLLOUT_STRATEGY",
    "CRD",
    "EVENT",
    "GATEWAY",
    "GROUP",
    "HTTP_ROUTE",
    "INFERENCE_MODEL",
    "JOB",
    "LLM_SERVICE",
    "LLM_SERVICE_V1ALPHA1",
    "NAMESPACE",
    "OTHER_VERSIONS",
    "POD",
    "POOLS",
    "POOL_SPLIT",
    "POOL_V1",
    "POOL_X",
    "REFERENCE_GRANT",
    "REWRITES",
    "REWRITE_LLMD",
    "REWRITE_X",
    "ROLLOUT",
    "ROLLOUT_FREEZE",
    "ROLLOUT_STRATEGY",
    "SERVICE",
    "VERSION",
]

GROUP = "inferencerollouts.dev"
VERSION = "v1alpha1"

ROLLOUT = Resource(GROUP, VERSION, "rollouts", "Rollout")
ANALYSIS_RUN = Resource(GROUP, VERSION, "analysisruns", "AnalysisRun")
ANALYSIS_TEMPLATE = Resource(GROUP, VERSION, "analysistemplates", "AnalysisTemplate")
CLUSTER_ANALYSIS_TEMPLATE = Resource(
    GROUP, VERSION, "clusteranalysistemplates", "ClusterAnalysisTemplate", namespaced=False
)
ROLLOUT_STRATEGY = Resource(GROUP, VERSION, "rolloutstrategies", "RolloutStrategy")
CLUSTER_ROLLOUT_STRATEGY = Resource(
    GROUP, VERSION, "clusterrolloutstrategies", "ClusterRolloutStrategy", namespaced=False
)

ROLLOUT_FREEZE = Resource(GROUP, VERSION, "rolloutfreezes", "RolloutFreeze", namespaced=False)
POOL_SPLIT = Resource(GROUP, VERSION, "poolsplits", POOL_SPLIT_KIND)

HTTP_ROUTE = Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
GATEWAY = Resource("gateway.networking.k8s.io", "v1", "gateways", "Gateway")
REFERENCE_GRANT = Resource("gateway.networking.k8s.io", "v1beta1", "referencegrants", GRANT_KIND)
POOL_V1 = Resource(POOL_GROUPS[0], "v1", "inferencepools", POOL_KIND)
POOL_X = Resource(POOL_GROUPS[1], "v1alpha2", "inferencepools", POOL_KIND)
POOLS = (POOL_V1, POOL_X)
INFERENCE_MODEL = Resource(MODEL_GROUP, "v1alpha2", "inferencemodels", MODEL_KIND)
REWRITES = REWRITE_LLMD, REWRITE_X = tuple(
    Resource(group, "v1alpha2", "inferencemodelrewrites", REWRITE_KIND) for group in REWRITE_GROUPS
)
"""The groups of InferenceModelRewrite, the one that pickers prefer first."""

LLM_SERVICE = Resource(LLM_SERVICE_GROUP, "v1alpha2", "llminferenceservices", LLM_SERVICE_KIND)
LLM_SERVICE_V1ALPHA1 = Resource(LLM_SERVICE_GROUP, "v1alpha1", "llminferenceservices", LLM_SERVICE_KIND)
OTHER_VERSIONS = {LLM_SERVICE: (LLM_SERVICE_V1ALPHA1,)}
"""Of kinds that read alike in all of their versions: those that a server may serve instead."""

NAMESPACE = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
POD = Resource("", "v1", "pods", "Pod")
SERVICE = Resource("", "v1", "services", "Service")
CONFIG_MAP = Resource("", "v1", "configmaps", "ConfigMap")
EVENT = Resource("", "v1", "events", "Event")
JOB = Resource("batch", "v1", "jobs", "Job")

CRD = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
