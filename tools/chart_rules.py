"""The chart's rights on traffic objects, from the kinds that carry weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rollouts.carriers import TRAFFIC_KINDS, options

__all__ = ["chart_rules"]

_PATH = (
    Path(__file__).resolve().parent.parent
    / "charts"
    / "inference-rollouts"
    / "templates"
    / "_trafficrules.tpl"
)


def chart_rules() -> Iterator[tuple[Path, str]]:
    """The template that the role includes, and the controller's arguments for kinds that are not always watched."""
    lines = ["{{- /* Generated from rollouts/carriers by `make generate`. */}}"]
    lines.append('{{- define "inference-rollouts.trafficRules" -}}')
    for kind in TRAFFIC_KINDS:
        if kind.option is not None:
            lines.append(f"{{{{- if .Values.{kind.option.name} }}}}")
        groups = sorted(resource.group for resource in kind.resources)
        lines.append(f"- apiGroups: [{', '.join(groups)}]")
        lines.append(f"  resources: [{kind.resources[0].plural}]")
        lines.append(f"  verbs: [{', '.join(kind.verbs)}]")
        if kind.option is not None:
            lines.append("{{- end }}")
    lines += ["{{- end -}}", '{{- define "inference-rollouts.watchOptions" -}}']
    for one in options():
        lines.append(f"- --{{{{ if not .Values.{one.name} }}}}no-{{{{ end }}}}{one.name}")
    yield _PATH, "\n".join(lines) + "\n{{- end -}}\n"
