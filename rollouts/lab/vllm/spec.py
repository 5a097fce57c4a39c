"""What a simulated pod is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rollouts.lab.vllm.knobs import Knobs, apply_knobs, knobs_to_json
from rollouts.lab.vllm.latency import LatencyProfile

__all__ = ["PodSpec", "pod_spec_from_json", "pod_spec_to_json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSpec:
    """One pod. ``address`` is any 127/8 address: Linux answers on all of them without set-up.

    ``served_model`` is the first ``--served-model-name``, the only model name in the metrics; ``adapters``
    maps the names loaded at start to their paths. ``adapter_paths`` are where adapters can be loaded from at run
    time; empty: anywhere. ``large_adapters``: those of them whose rank is above the limit. ``max_queued`` 0 is no
    limit, ``api_key`` empty none.
    ``more_ports``: further processes of the pod, each a server with an engine and counters of its own, as the ranks of
    data parallelism behind an external load balancer are.
    ``pooling``: serve embeddings, rerank and score; ``generates``: completions. A real server has either, by its model.
    """

    name: str
    address: str
    port: int = 8000
    more_ports: tuple[int, ...] = ()
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    served_model: str = "mymodel"
    model: str = "lab/simulated"
    adapters: Mapping[str, str] = field(default_factory=dict)
    adapter_paths: tuple[str, ...] = ()
    large_adapters: tuple[str, ...] = ()
    max_loras: int = 4
    runtime_lora: bool = True
    max_num_seqs: int = 128
    max_model_len: int = 8192
    max_queued: int = 0
    kv_tokens: int = 65536
    api_key: str = ""
    pooling: bool = True
    generates: bool = True
    seed: int = 0
    speed: float = 1.0
    latency: LatencyProfile = LatencyProfile()  # noqa: RUF009  # frozen, one default for all
    knobs: Knobs = Knobs()  # noqa: RUF009  # frozen, one default for all


def pod_spec_from_json(document: Mapping[str, Any]) -> PodSpec:
    """Read what ``pod_spec_to_json`` wrote, or a person: missing fields take their defaults.

    Raises TypeError for an unknown field and KnobError for a bad knob.
    """
    fields = dict(document)
    knobs = apply_knobs(Knobs(), fields.pop("knobs", {}))
    latency = LatencyProfile(**fields.pop("latency", {}))
    for name in ("adapter_paths", "large_adapters", "more_ports"):
        fields[name] = tuple(fields.get(name, ()))
    return PodSpec(**fields, knobs=knobs, latency=latency)


def pod_spec_to_json(spec: PodSpec) -> dict[str, Any]:
    """All fields, for a child process that hosts the pod."""
    return {**asdict(spec), "knobs": knobs_to_json(spec.knobs)}
