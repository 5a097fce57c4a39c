"""Findings as lines, JSON, SARIF 2.1.0 and GitHub's workflow commands. Whatever they quote is data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.cli.lint_findings import Finding, Severity, path_text
from rollouts.terminal import document, printable, say

__all__ = ["OUTPUTS", "Placed"]

_LONGEST = 1000
_MOST = 1000
"""Findings that are printed: GitHub and SARIF's readers take fewer, and nobody reads more."""
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A finding with its file, line and column, both from 1."""

    finding: Finding
    file: str
    line: int
    column: int


Report = Callable[[Sequence[Placed], Mapping[str, int]], None]
"""Prints findings and counts (``objects``, ``problems``, ``hints``)."""


def _lines(found: Sequence[Placed], counts: Mapping[str, int]) -> None:
    for one in found[:_MOST]:
        finding = one.finding
        where = f"{finding.where}: " if finding.where else ""
        place = f"{one.file}:{one.line}:{one.column}: " if one.file else ""
        say(f"{place}{finding.severity.value}: {where}{finding.text[:_LONGEST]}")
    if len(found) > _MOST:
        say(f"... and {len(found) - _MOST} more")
    say(f"{counts['objects']} objects, {counts['problems']} problems, {counts['hints']} hints")


def _json(found: Sequence[Placed], counts: Mapping[str, int]) -> None:
    findings = [
        {
            "severity": one.finding.severity.value,
            "rule": one.finding.rule,
            "file": one.file,
            "line": one.line,
            "column": one.column,
            "object": one.finding.where,
            "path": path_text(one.finding.path),
            "message": one.finding.text[:_LONGEST],
        }
        for one in found[:_MOST]
    ]
    document(json.dumps({"findings": findings, **counts}, indent=2))


def _sarif(found: Sequence[Placed], counts: Mapping[str, int]) -> None:
    rules = sorted({one.finding.rule for one in found})
    driver: dict[str, Any] = {"name": "rollouts lint", "rules": [{"id": rule} for rule in rules]}
    results = [
        {
            "ruleId": one.finding.rule,
            "level": "error" if one.finding.severity is Severity.PROBLEM else "note",
            "message": {"text": _said(one.finding)},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": _uri(one.file or "stdin")},
                        "region": {"startLine": one.line, "startColumn": one.column},
                    }
                }
            ],
        }
        for one in found[:_MOST]
    ]
    run = {"tool": {"driver": driver}, "results": results, "properties": dict(counts)}
    document(json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2))


def _uri(file: str) -> str:
    from urllib.parse import quote

    return quote(file.encode("utf-8", "surrogateescape"))


def _said(finding: Finding) -> str:
    return f"{finding.where}: {finding.text[:_LONGEST]}" if finding.where else finding.text[:_LONGEST]


def _github(found: Sequence[Placed], _counts: Mapping[str, int]) -> None:
    """Workflow commands: a line break or a ``::`` in data would be a command of its own."""
    for one in found[:_MOST]:
        level = "error" if one.finding.severity is Severity.PROBLEM else "notice"
        file, title = _property(one.file or "stdin"), _property(one.finding.rule)
        message = printable(_said(one.finding)).replace("%", "%25")
        document(f"::{level} file={file},line={one.line},col={one.column},title={title}::{message}")


def _property(text: str) -> str:
    escaped = printable(text).replace("%", "%25")
    return escaped.replace(":", "%3A").replace(",", "%2C")


OUTPUTS: Mapping[str, Report] = {"text": _lines, "json": _json, "sarif": _sarif, "github": _github}
"""What ``-o`` takes."""
