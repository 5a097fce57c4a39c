"""docs/reference.md: every field with its type, default and meaning, and the rules across fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rollouts.analysis.catalogue import CATALOGUE, PICKER, SERVERS, Row, margins_of
from rollouts.analysis.offers import parts_of
from rollouts.api.crds import all_crds

__all__ = ["reference"]

_EXAMPLES = {
    "Rollout": "examples/base-model/rollout.yaml",
    "AnalysisTemplate": "analysis/vllm-latency.yaml",
}


def reference() -> str:
    """The whole page."""
    lines = [
        "# Reference",
        "",
        "Generated from the models by `make generate`. API group `inferencerollouts.dev`, version `v1alpha1`.",
        "Argo Rollouts uses the plural `rollouts` too: where both are installed, say `kubectl get iro`.",
        "",
    ]
    for crd in all_crds():
        lines += _kind(crd)
    lines += _metrics()
    lines += ["Reasons of statuses, conditions and Events: [troubleshooting](troubleshooting.md)."]
    return "\n".join(lines) + "\n"


def _metrics() -> list[str]:
    """The catalogue: what each preset is, and whose pages have it."""
    columns = {**SERVERS, "endpoint picker": PICKER}
    head = ["preset", "unit", "`measure` gives", "`compare`: margin, tolerance", *columns]
    rows = [row for row in CATALOGUE.values() if row.presets]
    lines = [
        "## Metrics",
        "",
        "Generated from `rollouts/analysis/catalogue.py`. Model servers are read by the sources `pods` and Prometheus.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for row in rows:
        cells = [", ".join(f"`{name}`" for name in row.presets), row.unit, _measured(row), _compared(row)]
        parts = [row.name] if row.series is None else list(parts_of(row.series))
        cells += ["yes" if all(part in column for part in parts) else "" for column in columns.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _measured(row: Row) -> str:
    return row.stat.value if row.measured else ""


def _compared(row: Row) -> str:
    if row.series is None:
        return ""
    margin, tolerance = margins_of(row.series)
    return f"{margin:g}, {tolerance:g}{', informs only' if row.advisory else ''}"


def _kind(crd: Mapping[str, Any]) -> list[str]:
    names = crd["spec"]["names"]
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    lines = [f"## {names['kind']}", "", schema["description"], ""]
    lines += [f"Short name `{names['shortNames'][0]}`; {crd['spec']['scope'].lower()}.", ""]
    if names["kind"] in _EXAMPLES:
        lines += [f"A complete example: `{_EXAMPLES[names['kind']]}`.", ""]
    for part in ("spec", "status"):
        if part in schema["properties"]:
            lines += [
                f"### {names['kind']} {part}",
                "",
                "| field | type | default | meaning |",
                "|---|---|---|---|",
            ]
            lines += list(_rows(schema["properties"][part], part))
            lines.append("")
            lines += _rules(schema["properties"][part], part)
    return lines


_SAID = " Default: "


def _rows(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        default = field.get("default", "required" if name in required else "")
        about = " ".join(str(field.get("description", "")).split()).replace("|", "\\|")
        if _SAID in about:  # inside lists the schema has none, and the description says what absence means
            about, _, said = about.partition(_SAID)
            default = said.removesuffix(".")
        yield f"| `{where.partition('.')[2]}` | {_type(field)} | {_shown(default)} | {about} |"
        yield from _rows(field, where)
        if field.get("type") == "array":
            yield from _rows(field["items"], f"{where}[]")


def _shown(default: Any) -> str:
    if default in ("", "required"):
        return str(default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type(field: Mapping[str, Any]) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "number or text"
    if field.get("enum"):
        return ", ".join(f"`{value}`" for value in field["enum"] if value != "")
    kind = str(field.get("type", "any"))
    if kind == "array":
        most = f", at most {field['maxItems']}" if "maxItems" in field else ""
        return f"list of {_type(field['items'])}{most}"
    if field.get("x-kubernetes-preserve-unknown-fields"):
        return "any object"
    return {"integer": "whole number", "string": "text", "boolean": "true or false"}.get(kind, kind)


def _rules(schema: Mapping[str, Any], path: str) -> list[str]:
    found = dict.fromkeys(_messages(schema, path))
    if not found:
        return []
    return ["Rules across fields, enforced by the API server:", "", *(f"- {rule}" for rule in found), ""]


def _messages(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        yield f"`{path}`: {rule['message']}"
    for name, field in schema.get("properties", {}).items():
        yield from _messages(field, f"{path}.{name}")
        if field.get("type") == "array":
            yield from _messages(field["items"], f"{path}.{name}[]")
