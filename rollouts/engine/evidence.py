"""Gates that read the attempt's evidence instead of a run of their own.

The evidence is one AnalysisRun per attempt (``naming.background_run``). It belongs to one list of steps: after an edit
its verdicts say nothing until it was told the new list.
"""

from __future__ import annotations

from rollouts.engine.draft import Draft
from rollouts.engine.naming import background_run
from rollouts.engine.observation import GateView, StepVerdict

__all__ = ["evidence_gate", "evidence_of", "is_stale", "reads_evidence"]


def evidence_of(draft: Draft) -> GateView | None:
    """The attempt's run."""
    return draft.obs.gates.get(background_run(draft.obs.name, draft.status))


def is_stale(draft: Draft, gate: GateView) -> bool:
    """Whether the run's gates belong to another list of steps."""
    return bool(gate.steps_hash) and gate.steps_hash != draft.status.steps_hash


def reads_evidence(draft: Draft) -> bool:
    """Whether the gate of the current step reads the evidence."""
    return draft.status.current_step in draft.obs.compared


def evidence_gate(draft: Draft) -> tuple[str, StepVerdict | None]:
    """Name of the current step's reading, for overrides, and what the evidence says to it so far."""
    step = draft.status.current_step
    name = f"{background_run(draft.obs.name, draft.status)}-{step}"
    gate = evidence_of(draft)
    if gate is None or not reads_evidence(draft) or is_stale(draft, gate):
        return name, None
    return name, gate.steps.get(step)
