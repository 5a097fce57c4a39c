"""A preset and a model server that the product does not know: one row and two columns of the catalogue.

``python -m tests.kit.dummy_series`` adds them to the catalogue's text before anything has read it, asks everything that
speaks of presets and servers, and prints the answers as JSON.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

__all__ = ["load"]

_ADDED = (
    ('        _histogram("queue_time", "queue-time"),\n', '        _histogram("warmth", "warmth"),\n'),
    ('        queue_time="request_queue_time_seconds",\n', '        warmth="warmth_seconds",\n'),
    (
        "SERVERS: Mapping[str, Mapping[str, Groups]] = {\n",
        '    "Dummy": _column("dummy:", ttft="first_seconds", requests="all_total", load="all_total"),\n',
    ),
)
"""What stands in the catalogue, and the line after it: the row, its name in vLLM's column, the server's column."""


def load() -> None:
    """Make ``rollouts.analysis.catalogue`` of the text with the additions."""
    spec = find_spec("rollouts.analysis.catalogue")
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    for place, line in _ADDED:
        before, found, after = text.partition(place)
        assert found, place
        text = before + found + line + after
    module = sys.modules[spec.name] = module_from_spec(spec)
    exec(compile(text, spec.origin, "exec"), module.__dict__)


def _page(name: str) -> bytes:
    buckets = "".join(f'{name}_bucket{{le="{bound}"}} 4\n' for bound in ("0.1", "1.0", "+Inf"))
    return f"# TYPE {name} histogram\n{buckets}{name}_sum 0.2\n{name}_count 4\n".encode()


def _read(name: str, logical: str) -> float | None:
    """The sum that an evidence process gets of a page, under the logical name."""
    from rollouts.analysis.evidence.model import Arm, CompareMetric, EvidenceSpec, HistogramSeries
    from rollouts.analysis.exposition import parse_exposition
    from rollouts.analysis.logical import wanted_of
    from rollouts.analysis.offers import POD_OFFER

    metric = CompareMetric(name="m", series=HistogramSeries(name=logical), margin=0.0, tolerance=1.0)
    wanted = wanted_of(EvidenceSpec(metrics=(metric,)))
    raw = parse_exposition(_page(name), wanted.raw_names(POD_OFFER))
    return wanted.sample(raw, POD_OFFER, Arm.CANARY, "pod", None).histograms[logical].sum


def _linted(metric: dict[str, Any]) -> list[str]:
    """What `lint` says of a Rollout with the metric."""
    from rollouts.cli.lint import Severity, lint_documents
    from tests.kit.faults.objects import rollout_object

    rollout = rollout_object([{"setWeight": 10}, {"analysis": {"metrics": [{"name": "m", **metric}]}}])
    return [one.text for one in lint_documents([rollout]) if one.severity is Severity.PROBLEM]


def _answers() -> dict[str, Any]:
    from rollouts.analysis.offers import POD_OFFER, PROMETHEUS_OFFER
    from tools.reference import reference

    table = reference().split("## Metrics")[1].splitlines()
    return {
        "offered": ["warmth" in offer.presets for offer in (POD_OFFER, PROMETHEUS_OFFER)],
        "read": [_read("vllm:warmth_seconds", "warmth"), _read("dummy:first_seconds", "ttft")],
        "linted": _linted({"measure": {"preset": "warmth"}, "successCondition": "result < 1"})
        + _linted({"compare": {"preset": "warmth"}}),
        "server": "Dummy" in next(line for line in table if line.startswith("| preset")),
        "row": next(line for line in table if line.startswith("| `warmth`")).split(" | ")[-5:],
    }


if __name__ == "__main__":
    load()
    sys.stdout.write(json.dumps(_answers()))
