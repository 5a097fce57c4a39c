"""Queries of files, parsed by a real Prometheus."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from rollouts.cli.lint_promql import QueryParsers
from rollouts.cli.main import main
from rollouts.lab.prometheus import Prometheus
from tests.kit.served import ROLLOUT

QUERIES = {
    "sum(rate(x{pod=~'{{args.canary}}.*'}[5m]))": "",
    "sum by (le) (rate(x[5m]": "unclosed left parenthesis",
    "histogram_quantil(0.9, x)": "unknown function",
    "rate(x)": "expected type range vector",
}


async def test_the_server_knows_what_is_a_query(prometheus: Prometheus, tmp_path: Path) -> None:
    await prometheus.start()
    metrics: list[dict[str, Any]] = [
        {"name": f"m{number}", "query": query, "successCondition": "result < 1.0"}
        for number, query in enumerate(QUERIES)
    ]
    steps = [{"setWeight": 10}, {"analysis": {"metrics": metrics}}]
    spec = {**ROLLOUT["spec"], "strategy": {"canary": {"steps": steps}}}
    file = tmp_path / "rollout.yaml"
    file.write_text(yaml.safe_dump({**ROLLOUT, "spec": spec}), encoding="utf-8")
    words = ["lint", str(file), "-o", "json", "--source", f"default={prometheus.url}"]

    result = await asyncio.to_thread(CliRunner().invoke, main, words)

    told = [one["message"] for one in json.loads(result.stdout)["findings"] if one["rule"] == "promql"]
    assert len(told) == 3
    assert [words for words in QUERIES.values() if not any(words in one for one in told)] == []


def test_a_server_that_is_away_decides_nothing_and_is_named() -> None:
    parsers = QueryParsers({"default": "http://127.0.0.1:1"})

    assert (parsers("default", "rate(x)"), parsers("other", "rate(x)")) == (None, None)
    assert list(parsers.troubles) == ["default"]
