"""What the schema holds and the controller does not do yet. Each line goes when its feature comes."""

from __future__ import annotations

from collections.abc import Iterator

from rollouts.api.analysis_models import GateModel
from rollouts.api.rollout_models import RolloutSpecModel

__all__ = ["unsupported"]


def unsupported(spec: RolloutSpecModel) -> Iterator[tuple[str, str]]:
    """Field paths and what to do instead."""
    canary = spec.strategy.canary
    gates: list[tuple[str, GateModel | None]] = [("spec.strategy.canary.analysis", canary.analysis)]
    for index, step in enumerate(canary.steps):
        gates.append((f"spec.strategy.canary.steps[{index}].analysis", step.analysis))
    for path, gate in gates:
        if gate is None:
            continue
        if gate.preset:
            yield f"{path}.preset", "preset sets are not built yet: list metrics with measure"
        for number, metric in enumerate(gate.metrics):
            if metric.compare is not None:
                yield (
                    f"{path}.metrics[{number}].compare",
                    "comparing canary with stable is not built yet: use measure with a condition",
                )
