"""``rollouts plan`` of one Rollout: what is given and known goes in, a value to print comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from rollouts.analysis.backtest import finite
from rollouts.analysis.comparisons import GatesError
from rollouts.analysis.evidence.model import EvidenceSpec
from rollouts.analysis.forecasting import Forecast, GatePlan, plan_rollout, traffic_of
from rollouts.analysis.recording import Recording, RecordingError
from rollouts.analysis.templates import Template
from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.api.scalars import format_time
from rollouts.api.strategies import StrategyFault
from rollouts.cli.file_conditions import FileConditions
from rollouts.cli.given_files import BadInput, load_recording
from rollouts.cli.lint_strategies import FileStrategies
from rollouts.cli.offline import TEMPLATE_KINDS, compared_gates, gates_of_attempt, is_adapter, template_of
from rollouts.cli.plan_around import calendar_line
from rollouts.cli.plan_capacity import accelerators_of, capacity_lines, companions_in
from rollouts.cli.plan_table import PlanRow, Total, minutes_of, pods_line, rows_of, total_of
from rollouts.cli.plan_waits import Surroundings, ends_at, obstacles
from rollouts.cli.scaled_elsewhere import nothing_given
from rollouts.engine.rollout_spec import RolloutSpec

__all__ = ["AttemptPlan", "Figures", "plan_attempt"]

Object = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the user says of traffic and pods, for every Rollout of the file; None: not said.

    ``rate`` in requests per second over both arms; ``history`` a recording, from which what is not said is taken.
    """

    rate: float | None
    stable_pods: int | None
    canary_pods: int | None
    gpus_per_pod: int | None
    companion_pods: tuple[int, ...]
    history: Path | None

    @cached_property
    def recording(self) -> Recording | None:
        """What ``history`` names, read once; raises BadInput."""
        return None if self.history is None else load_recording(self.history)

    def traffic(self, spec: EvidenceSpec) -> Forecast:
        """What comparisons have to go by; raises BadInput, RecordingError."""
        if self.recording is not None:
            found = traffic_of(self.recording, spec, self.canary_pods)
            return replace(
                found, rate=self.rate or found.rate, stable_pods=self.stable_pods or found.stable_pods
            )
        if self.rate is None or self.stable_pods is None:
            raise BadInput("give --rate and --stable-pods, or --history")
        return Forecast(rate=self.rate, stable_pods=self.stable_pods, canary_pods=self.canary_pods)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptPlan:
    """How an attempt would go.

    ``rows`` are of every metric, ``gates`` of those that compare, under ``traffic`` (None: none does); ``capacity``
    is a text where nobody can tell which companions it has. ``end`` None: never, as far as is known.
    """

    file: Path
    spec: RolloutSpec
    around: Surroundings
    traffic: Forecast | None
    gates: tuple[GatePlan, ...]
    rows: tuple[PlanRow, ...]
    silent: tuple[str, ...]
    capacity: tuple[str, ...] | str
    waits: tuple[str, ...]
    start: datetime
    end: datetime | None

    @property
    def total(self) -> Total:
        """Of all steps."""
        return total_of(self.spec, self.rows)

    def to_json(self) -> dict[str, Any]:
        """For scripts; minutes that never end are null, and so is the end where somebody else decides on it."""
        total = self.total
        decided = not (total.people or total.jobs or total.asked)
        return {
            "gates": [gate.to_json() for gate in self.gates],
            "thresholds": [row.to_json() for row in self.rows if row.finds is None],
            "silent": list(self.silent),
            "minutes": finite(total.minutes),
            "waits": list(self.waits),
            "start": format_time(self.start),
            "end": format_time(self.end) if self.end is not None and decided else None,
        }

    def before_table(self) -> list[str]:
        """What the gates' figures rest on, and the pods that it takes; raises BadInput."""
        if isinstance(self.capacity, str):
            raise BadInput(f"{self.file}: {self.capacity}")
        if self.traffic is None:
            return list(self.capacity)
        known = self.traffic.from_history
        noise = "the recording" if known else "priors; --history of the stable pods makes it exact"
        return [
            f"{self.traffic.rate:.3g} requests per second; noise from {noise}.",
            pods_line(self.spec, self.traffic),
            *self.capacity,
        ]

    def after_table(self) -> list[str]:
        """What it waits for beside the gates, how long it takes, and what is to be known of single gates."""
        calendar = self.around.freezes or self.spec.canary.windows
        return [
            *self.waits,
            self.total.words,
            *([calendar_line(self.total, self.start, self.end)] if calendar else []),
            *(gate.words for gate in self.gates if gate.minutes_to_pass == math.inf),
            *self.silent,
        ]


def plan_attempt(
    rollout: Object, around: Surroundings, figures: Figures, start: datetime, file: Path
) -> AttemptPlan:
    """The plan of a Rollout of ``file``, begun at ``start``. Raises BadInput where there can be none."""
    parsed, templates = _with_strategy(rollout, around.objects, file), _templates(around.objects, file)
    try:
        with FileConditions() as check:
            gates = gates_of_attempt(parsed, templates, check)
        compared, silent = compared_gates(parsed, gates)
        traffic = figures.traffic(compared[0].spec) if compared else None
        coupled = None if traffic is None else replace(traffic, coupled=is_adapter(parsed))
        plans = () if coupled is None else plan_rollout(compared, coupled)
    except (GatesError, RecordingError) as error:
        raise BadInput(f"{file}: {error}") from error
    assert parsed.spec is not None
    rows = rows_of(plans, gates)
    minutes = minutes_of(parsed.spec, rows)
    stable = coupled.stable_pods if coupled is not None else figures.stable_pods
    return AttemptPlan(
        file=file,
        spec=parsed.spec,
        around=around,
        traffic=coupled,
        gates=plans,
        rows=tuple(rows),
        silent=tuple(silent),
        capacity=_capacity(rollout, parsed.spec, around, figures, stable, minutes),
        waits=tuple(obstacles(parsed, around, start)),
        start=start,
        end=ends_at(parsed.spec, minutes, around, start),
    )


def _templates(objects: Sequence[Object], file: Path) -> dict[tuple[bool, str], Template]:
    """The templates; those of the file win. Raises BadInput."""
    templates = dict[tuple[bool, str], Template]()
    for key, template in (template_of(d) for d in objects if d.get("kind") in TEMPLATE_KINDS):
        if isinstance(template, str):
            raise BadInput(f"{file}: {template}")
        templates.setdefault(key, template)
    return templates


def _with_strategy(rollout: Object, documents: Sequence[Object], file: Path) -> ParsedRollout:
    """The Rollout with the shared strategy that it names, which stands in the same file. Raises BadInput."""
    strategies = FileStrategies(documents)
    found = strategies.of(rollout)
    for finding in strategies.findings(rollout):
        add = "; add it as another document" if found is None else ""
        raise BadInput(f"{file}: {finding.text.partition(': it must exist')[0]}{add}")
    return parse_rollout(rollout, strategy=None if isinstance(found, StrategyFault) else found)


def _capacity(
    rollout: Object,
    spec: RolloutSpec,
    around: Surroundings,
    figures: Figures,
    stable: int | None,
    minutes: Sequence[float],
) -> tuple[str, ...] | str:
    """What the pods take, a line each; none where stable's are not known, a text where its companions are not."""
    if stable is None:
        return ()
    beside = companions_in(spec, around.objects, figures.companion_pods)
    if isinstance(beside, str):
        return beside
    gpus = figures.gpus_per_pod or accelerators_of(rollout, around.objects)
    sizes, policy = (stable, *(one.pods for one in beside)), spec.canary.capacity
    kept = nothing_given(around.stored, policy, around.objects, sizes) if policy is not None else None
    return tuple(capacity_lines(spec, stable, minutes, gpus, beside, kept))
