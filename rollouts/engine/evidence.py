"""Gates that read the attempt's evidence instead of a run of their own.

The evidence is one AnalysisRun per attempt (``naming.background_run``). It belongs to one list of steps: after an edit
its verdicts say nothing until it was told the new list.
"""

from __future__ import annotations

from rollouts.engine.draft import Draft
from rollouts.engine.naming import background_run, renewed_background
from rollouts.engine.observation import GateOutcome, GateView, StepVerdict
from rollouts.engine.stamps import digits

__all__ = [
    "awaited_background",
    "evidence_gate",
    "evidence_of",
    "is_overridden",
    "is_stale",
    "reads_evidence",
    "renewed_run",
]


def evidence_of(draft: Draft) -> GateView | None:
    """The attempt's run."""
    return draft.obs.gates.get(background_run(draft.obs.owner, draft.status))


def is_stale(draft: Draft, gate: GateView) -> bool:
    """Whether the run's gates belong to another list of steps."""
    return bool(gate.steps_hash) and digits(gate.steps_hash) != digits(draft.current.steps_hash)


def reads_evidence(draft: Draft) -> bool:
    """Whether the gate of the current step reads the evidence."""
    return draft.current.current_step in draft.obs.compared


def evidence_gate(draft: Draft) -> tuple[str, StepVerdict | None]:
    """Name of the current step's reading, for overrides, and what the evidence says to it so far."""
    step = draft.current.current_step
    name = f"{background_run(draft.obs.owner, draft.status)}-{step}"
    gate = evidence_of(draft)
    if gate is None or not reads_evidence(draft) or is_stale(draft, gate):
        return name, None
    return name, gate.steps.get(step)


def is_overridden(draft: Draft) -> bool:
    """Whether a person went on against the attempt's evidence as a whole: it gates nothing any more."""
    return background_run(draft.obs.owner, draft.status) in draft.current.overrides


def renewed_run(draft: Draft) -> str | None:
    """Name of the background run that goes on judging after a person overrode an inconclusive one, else None.

    As Argo Rollouts does when a rollout resumes from an inconclusive analysis. A run that failed and asked for a
    person (``onFail: Pause``) was judged: that judgement stays overridden. Comparisons are not begun anew
    either: one evidence per attempt is what bounds its false aborts.
    """
    name, number = background_run(draft.obs.owner, draft.status), 1
    while name in draft.current.overrides:
        gate = draft.obs.gates.get(name)
        if gate is None or gate.outcome is not GateOutcome.INCONCLUSIVE:
            break
        number += 1
        name = renewed_background(draft.obs.owner, draft.status, number)
    return None if number == 1 or draft.obs.compares else name


def awaited_background(draft: Draft) -> StepVerdict | None:
    """What keeps the attempt from leaving its last step: the background's comparisons have not passed.

    At 100 % stable serves nobody, so what has not been shown before can never be.
    """
    last = draft.current.current_step == len(draft.spec.canary.steps) - 1
    if not last or not draft.obs.background_compares or is_overridden(draft):
        return None
    gate = evidence_of(draft)
    verdict = gate.background if gate is not None else None
    if verdict is None:
        return StepVerdict(outcome=GateOutcome.RUNNING, message="comparing the canary with stable")
    return None if verdict.outcome is GateOutcome.PASSED else verdict
