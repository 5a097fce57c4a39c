"""The API resources that the controller reads and writes."""

from __future__ import annotations

from rollouts.kube.client import Resource

__all__ = [
    "ANALYSIS_RUN",
    "ANALYSIS_TEMPLATE",
    "CLUSTER_ANALYSIS_TEMPLATE",
    "EVENT",
    "GATEWAY",
    "GROUP",
    "HTTP_ROUTE",
    "INFERENCE_MODEL",
    "JOB",
    "POD",
    "POOLS",
    "POOL_V1",
    "POOL_X",
    "REWRITES",
    "REWRITE_LLMD",
    "REWRITE_X",
    "ROLLOUT",
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

HTTP_ROUTE = Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
GATEWAY = Resource("gateway.networking.k8s.io", "v1", "gateways", "Gateway")
POOL_V1 = Resource("inference.networking.k8s.io", "v1", "inferencepools", "InferencePool")
POOL_X = Resource("inference.networking.x-k8s.io", "v1alpha2", "inferencepools", "InferencePool")
POOLS = (POOL_V1, POOL_X)
INFERENCE_MODEL = Resource("inference.networking.x-k8s.io", "v1alpha2", "inferencemodels", "InferenceModel")
REWRITE_X = Resource(
    "inference.networking.x-k8s.io", "v1alpha2", "inferencemodelrewrites", "InferenceModelRewrite"
)
REWRITE_LLMD = Resource("llm-d.ai", "v1alpha2", "inferencemodelrewrites", "InferenceModelRewrite")
REWRITES = (REWRITE_LLMD, REWRITE_X)
"""The groups of InferenceModelRewrite, the one that pickers prefer first."""

POD = Resource("", "v1", "pods", "Pod")
SERVICE = Resource("", "v1", "services", "Service")
EVENT = Resource("", "v1", "events", "Event")
JOB = Resource("batch", "v1", "jobs", "Job")
