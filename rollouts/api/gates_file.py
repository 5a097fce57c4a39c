"""Gates for ``backtest``: the metrics of an AnalysisTemplate, read by the models that the cluster reads them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from pydantic import ValidationError

from rollouts.analysis.backtest import Replayed
from rollouts.analysis.comparisons import GatesError, comparisons_of, evidence_spec
from rollouts.analysis.offers import ANY_OFFER
from rollouts.analysis.templates import BUILT_IN, resolve
from rollouts.analysis.types import CompareSpec
from rollouts.api.base import first_error
from rollouts.api.rollout_models import BackgroundModel
from rollouts.api.runs import gate_of

__all__ = ["parse_gates"]


def parse_gates(plain: object, *, interval: float = 30.0) -> Replayed:
    """A list of metrics, a mapping as of background analysis, or a whole AnalysisTemplate; raises GatesError.

    Arguments have the template's defaults; ``interval`` is the recording's, in seconds. Each metric is judged as in the
    last gate.
    """
    if isinstance(plain, Mapping) and isinstance(plain.get("spec"), Mapping):
        plain = plain["spec"]
    if isinstance(plain, list):
        plain = {"metrics": plain}
    try:
        model = BackgroundModel.model_validate(plain, extra="forbid")
        gate = gate_of(model)
    except ValidationError as error:
        raise GatesError(first_error(error)) from None
    except (ValueError, RecursionError) as error:
        raise GatesError(str(error)) from error
    if gate.templates:
        raise GatesError("templates are not looked up: write their metrics in the file")
    compared = tuple(metric for metric in gate.metrics if isinstance(metric.what, CompareSpec))
    if not compared:
        raise GatesError("no metric of the compare form: nothing can be judged against stable")
    offers = {metric.source: ANY_OFFER for metric in compared}
    resolved = resolve(replace(gate, metrics=compared), {}, BUILT_IN, offers, _no_conditions)
    if resolved.problems:
        raise GatesError(resolved.problems[0][1])
    comparisons = comparisons_of([(0, resolved.metrics)])
    return Replayed(
        spec=evidence_spec(comparisons, float(model.false_abort_rate), timedelta(seconds=interval)),
        skipped=tuple(metric.name for metric in gate.metrics if metric not in compared),
        optional=frozenset(item.name for item in comparisons if item.optional),
    )


def _no_conditions(_: str) -> str:
    return "a comparison takes no conditions: it has verdicts of its own"
