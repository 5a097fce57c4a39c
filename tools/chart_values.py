"""The table of values in the chart's README, from values.yaml and its comments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

__all__ = ["chart_values", "rows"]

_CHART = Path(__file__).resolve().parent.parent / "charts" / "inference-rollouts"
_HEADING = "\n## Values\n"


def chart_values() -> Iterator[tuple[Path, str]]:
    """The README: what people wrote, and below its last heading the table."""
    readme = _CHART / "README.md"
    written = readme.read_text(encoding="utf-8").partition(_HEADING)[0].rstrip("\n")
    table = "".join(
        f"| {f'`{name}`'} | {f'`{default}`' if default else ''} | {said} |\n".replace("  |", " |")
        for name, default, said in rows((_CHART / "values.yaml").read_text(encoding="utf-8"))
    )
    head = "Generated from [values.yaml](values.yaml) by `make generate`.\n\n| value | default | |\n|---|---|---|\n"
    yield readme, f"{written}\n{_HEADING}\n{head}{table}"


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Name, default as JSON, and comment of each value; of a group that has a comment, name and comment."""
    yield from _rows(yaml.compose(text), yaml.safe_load(text), "", text.splitlines())


def _rows(
    node: yaml.MappingNode, values: dict[str, object], path: str, lines: list[str]
) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        name, found = f"{path}{key.value}", values[key.value]
        said = _comment(lines, key.start_mark.line, key.start_mark.column)
        if isinstance(found, dict) and found and not value.flow_style:
            if said:
                yield name, "", said
            yield from _rows(value, found, f"{name}.", lines)
        else:
            yield name, json.dumps(found), said


def _comment(lines: list[str], line: int, column: int) -> str:
    """What is said behind a key, else in the lines right above it at its own indentation."""
    _, mark, behind = lines[line].partition(" # ")
    if mark:
        return _cell([behind])
    above: list[str] = []
    start = " " * column + "#"
    while line > 0 and lines[line - 1].startswith(start):
        line -= 1
        above.insert(0, lines[line][len(start) :])
    return _cell(above)


def _cell(parts: list[str]) -> str:
    return " ".join(part.strip() for part in parts).replace("|", "\\|")
