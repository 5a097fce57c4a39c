"""Canary against stable, from raw counters, with a bounded probability of a false abort.

Feed an `EvidenceProcess` one `Scrape` per interval; ask `harm` for the whole rollout, `judge` for a gate, `report`
and `describe` for what to show; `save` and `restore` carry the state over restarts.
"""

from rollouts.analysis.evidence.checkpoint import CheckpointError, restore, save
from rollouts.analysis.evidence.gates import (
    GateVerdict,
    Harm,
    MetricReport,
    Reason,
    Verdict,
    harm,
    judge,
    report,
    silent,
)
from rollouts.analysis.evidence.lost import LostTest
from rollouts.analysis.evidence.model import (
    Arm,
    CompareMetric,
    CountSeries,
    Direction,
    EvidenceSpec,
    Exclusion,
    GaugeSeries,
    HistogramSample,
    HistogramSeries,
    LostSeries,
    Mark,
    OnUndecided,
    PodSample,
    Require,
    Scrape,
)
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.analysis.evidence.words import describe

__all__ = [
    "Arm",
    "CheckpointError",
    "CompareMetric",
    "CountSeries",
    "Direction",
    "EvidenceProcess",
    "EvidenceSpec",
    "Exclusion",
    "GateVerdict",
    "GaugeSeries",
    "Harm",
    "HistogramSample",
    "HistogramSeries",
    "LostSeries",
    "LostTest",
    "Mark",
    "MetricReport",
    "OnUndecided",
    "PodSample",
    "Reason",
    "Require",
    "Scrape",
    "Verdict",
    "describe",
    "harm",
    "judge",
    "report",
    "restore",
    "save",
    "silent",
]
