"""The controllers that commands know of: by the word that they left on their Leases, or by Deployments in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.controller.reporting import ControllerReport, read_report, report_of
from rollouts.controller.settings import Settings, SettingsError, parse_config
from rollouts.engine.rollout_spec import ApproveStep, PauseStep
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import Forbidden, KindNotServed
from rollouts.kube.paging import list_all
from rollouts.objects.fields import dict_at, items_at, list_of, metadata_of, text_at, text_of
from rollouts.runtime.lease import LEASES

__all__ = ["approvals_asked", "fetch_reports", "file_reports"]

Object = Mapping[str, Any]

_NAME_LABEL = "app.kubernetes.io/name"
_OURS = "inference-rollouts"
_CONFIG = "config.yaml"


async def fetch_reports(client: KubeClient, namespaces: Iterable[str]) -> list[ControllerReport]:
    """What controllers say on their Leases: of the whole cluster, else of the namespaces, as far as may be read."""
    for space in (None, *dict.fromkeys(namespaces)):
        try:
            found = await list_all(client, LEASES, space)
        except (Forbidden, KindNotServed):
            continue
        reports = [report for report in map(read_report, found) if report is not None]
        if space is None or reports:
            return reports
    return []


def file_reports(objects: Sequence[Object]) -> Iterator[ControllerReport]:
    """What the controllers among the objects, as the chart renders them, are told by options and configuration."""
    texts = {
        text_of(metadata_of(obj).get("name")): text_at(obj, "data", _CONFIG)
        for obj in objects
        if obj.get("kind") == "ConfigMap"
    }
    for obj in objects:
        if obj.get("kind") != "Deployment" or not _is_ours(obj):
            continue
        pod = dict_at(obj, "spec", "template", "spec")
        for container in items_at(pod, "containers"):
            words = [text_of(word) for word in list_of(container.get("args"))]
            if words[:1] == ["controller"]:
                maps = [text_at(volume, "configMap", "name") for volume in items_at(pod, "volumes")]
                config = next((texts[name] for name in maps if texts.get(name)), "")
                yield _told(obj, words, config)


def _is_ours(obj: Object) -> bool:
    label = dict_at(obj, "metadata", "labels").get(_NAME_LABEL)
    return label == _OURS or any(
        _OURS in text_of(one.get("image")) for one in items_at(obj, "spec", "template", "spec", "containers")
    )


def _told(obj: Object, words: Sequence[str], config: str) -> ControllerReport:
    spaces = [word.partition("=")[2] for word in words if word.startswith("--namespace=")]
    settings = Settings(
        namespaces=() if "--all-namespaces" in words else tuple(spaces),
        freezes=next((word == "--freezes" for word in reversed(words) if word.endswith("freezes")), False),
    )
    try:
        settings = parse_config(config, _CONFIG, settings)
    except SettingsError:
        settings = replace(settings)  # its own start says so
    meta = metadata_of(obj)
    return report_of(settings, f"Deployment {text_of(meta.get('name'))}")


def approvals_asked(parsed: ParsedRollout) -> Iterator[tuple[int, str]]:
    """(step from 0, receiver) of each step that waits for an approval, or may be ended by one."""
    for index, step in enumerate(parsed.known_steps):
        name = step.webhook if isinstance(step, ApproveStep) else ""
        name = step.approve if isinstance(step, PauseStep) else name
        if name:
            yield index, name
