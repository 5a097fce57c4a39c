"""Simulated vLLM pods: real HTTP servers with vLLM's metrics, codes, streams and LoRA endpoints."""

from __future__ import annotations

from rollouts.lab.vllm.knobs import ErrorKind, Knobs, LoraLoad
from rollouts.lab.vllm.latency import LatencyProfile
from rollouts.lab.vllm.pod import Fleet, SimulatedPod
from rollouts.lab.vllm.spec import PodSpec, pod_spec_from_json, pod_spec_to_json

__all__ = [
    "ErrorKind",
    "Fleet",
    "Knobs",
    "LatencyProfile",
    "LoraLoad",
    "PodSpec",
    "SimulatedPod",
    "pod_spec_from_json",
    "pod_spec_to_json",
]
