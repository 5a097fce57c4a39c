"""Settings of the controller: the command line's options and the configuration file.

The file is YAML::

    sources:
      default: {url: http://prometheus:9090, podLabel: pod, timeout: 10s, bearerTokenFile: /etc/...,
                enforcedLabel: namespace}
    gitopsManagers: [argocd-controller, argocd-application-controller, kustomize-controller, helm-controller, helm]
    adapters:
      prefixes: [/adapters]
    modelServers:
    - {namespace: team-a, pool: mymodel-pool-v1, scheme: https, caFile: /etc/..., serverName: vllm, apiKeyFile: ...}
    pathProbe: {enabled: true, allow: [10.0.0.0/8]}
    capacity: {enabled: true, kinds: [Deployment, StatefulSet]}
    propagation: 2m
    parallelism: {pool: 1, namespace: 2, controller: 20}   # Rollouts in progress; left out or 0: no limit
    notifications: {...}   # notification_settings.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from rollouts.api.scalars import parse_duration
from rollouts.controller.adapters import AdapterSettings
from rollouts.controller.arrivals import PROPAGATION
from rollouts.controller.gateway_address import ProbeSettings
from rollouts.controller.model_server_settings import ModelServersWrong, model_servers
from rollouts.controller.notification_settings import (
    NotificationError,
    NotificationSettings,
    parse_notifications,
)
from rollouts.engine.turns import LimitScope
from rollouts.objects.gitops import GITOPS_MANAGERS
from rollouts.objects.workloads import BUILT_IN, WORKLOADS
from rollouts.runtime.modelservers import ModelServers
from rollouts.sources.budget import QUERIES_PER_MINUTE
from rollouts.sources.prometheus import PrometheusConfig

__all__ = ["RESERVED_SOURCES", "Settings", "SettingsError", "parse_config", "read_config", "source_option"]

RESERVED_SOURCES = frozenset({"pods", "picker"})
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,127}")
_FILE_LIMIT = 1024 * 1024

_SECTIONS = {
    "sources",
    "gitopsManagers",
    "adapters",
    "modelServers",
    "pathProbe",
    "capacity",
    "propagation",
    "parallelism",
    "notifications",
}
_FIELDS = {
    "url": "url",
    "timeout": "timeout",
    "caFile": "ca_file",
    "certFile": "cert_file",
    "keyFile": "key_file",
    "bearerTokenFile": "bearer_token_file",
    "usernameFile": "username_file",
    "passwordFile": "password_file",
    "podLabel": "pod_label",
    "enforcedLabel": "enforced_label",
    "namespaceLabel": "namespace_label",
}


class SettingsError(ValueError):
    """An option or the configuration file is wrong; the text says what and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the controller is told. No ``namespaces``: all are watched.

    ``cluster_templates`` False: no ClusterAnalysisTemplates, hence no right on any cluster-scoped object.
    """

    kubeconfig: str | None = None
    namespaces: tuple[str, ...] = ("default",)
    lease_namespace: str = "default"
    lease_name: str = ""
    """Empty: see ``lease_name`` in app.py."""
    sources: Mapping[str, PrometheusConfig] = field(default_factory=dict)
    gitops_managers: tuple[str, ...] = GITOPS_MANAGERS
    health_address: str = "127.0.0.1:8081"
    metrics_address: str = "127.0.0.1:8080"
    leader_elect: bool = True
    cluster_templates: bool = True
    freezes: bool = False
    """RolloutFreezes hold; False: they, and Namespaces, are not read."""
    unwatched: frozenset[str] = frozenset()
    """Options (``carriers.options``) that are off: the kinds of objects that they are for are not read."""
    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    model_servers: Mapping[tuple[str, str], ModelServers] = field(default_factory=dict)
    """How the pods of a namespace and pool are called; see ``ModelServerBook``."""
    path_probe: ProbeSettings = field(default_factory=ProbeSettings)
    capacity_kinds: tuple[str, ...] = ()
    """Kinds of workloads that may be scaled; without any, ``strategy.canary.capacity`` cannot be used."""
    workers: int = 8
    propagation: float = PROPAGATION
    """Seconds that the gateways may take to put a weight in force: then a canary without requests is an alarm."""
    notifications: NotificationSettings = field(default_factory=NotificationSettings)
    parallelism: Mapping[LimitScope, int] = field(default_factory=dict)
    """Rollouts in progress at a time; what is not there has no limit."""
    queries_per_minute: int = QUERIES_PER_MINUTE
    """Queries of one namespace to all configured servers; 0 is no limit."""


def source_option(text: str) -> tuple[str, PrometheusConfig]:
    """``NAME=URL``. Raises SettingsError."""
    name, separator, url = text.partition("=")
    if not separator:
        raise SettingsError(f"--source {text!r}: write NAME=URL, as in default=http://127.0.0.1:9090")
    return _checked(name, PrometheusConfig(url=url))


def _checked(name: str, config: PrometheusConfig) -> tuple[str, PrometheusConfig]:
    if name in RESERVED_SOURCES:
        raise SettingsError(f"source {name}: the name is built in, choose another")
    if not _NAME.match(name):
        raise SettingsError(f"source {name!r}: a name has lower-case letters, digits and dashes")
    parts = urlsplit(config.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"source {name}: the URL must be http:// or https:// with a host")
    if config.enforced_label and not _LABEL.fullmatch(config.enforced_label):
        raise SettingsError(f"source {name}: enforcedLabel must be the name of a label, as in namespace")
    if parts.username or parts.password:
        raise SettingsError(f"source {name}: no credentials in the URL: name files that hold them")
    return name, config


def read_config(path: str, settings: Settings) -> Settings:
    """Settings with what the file says. Options on the command line win. Raises SettingsError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {type(error).__name__}") from None
    return parse_config(text, path, settings)


def parse_config(text: str, path: str, settings: Settings) -> Settings:
    """The same of a text; ``path`` is what errors call it. Raises SettingsError."""
    if len(text) > _FILE_LIMIT:
        raise SettingsError(f"{path}: larger than {_FILE_LIMIT} bytes")
    try:
        data = yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise SettingsError(f"{path}: cannot be read: {type(error).__name__}") from None
    if not isinstance(data, Mapping):
        raise SettingsError(f"{path}: must be a mapping with sources and gitopsManagers")
    unknown = set(data) - _SECTIONS
    if unknown:
        raise SettingsError(f"{path}: unknown: {', '.join(sorted(map(str, unknown)))}")
    sources = dict(_sources(path, data.get("sources") or {}))
    managers = data.get("gitopsManagers")
    managers = list(settings.gitops_managers) if managers is None else managers
    if not isinstance(managers, list) or not all(isinstance(item, str) for item in managers):
        raise SettingsError(f"{path}: gitopsManagers must be a list of field managers")
    adapters = data.get("adapters") or {}
    prefixes = _adapters(path, adapters)
    try:
        called = model_servers(data.get("modelServers"), adapters, everywhere=len(settings.namespaces) != 1)
    except ModelServersWrong as error:
        raise SettingsError(f"{path}: {error}") from None
    return replace(
        settings,
        sources={**sources, **settings.sources},
        gitops_managers=tuple(managers),
        path_probe=_path_probe(path, data.get("pathProbe") or {}),
        capacity_kinds=_capacity(path, data.get("capacity") or {}),
        propagation=_propagation(path, data.get("propagation")),
        parallelism=_parallelism(path, data.get("parallelism") or {}),
        adapters=prefixes,
        model_servers=called,
        notifications=_notifications(path, data.get("notifications") or {}),
    )


def _notifications(path: str, data: Any) -> NotificationSettings:
    try:
        return parse_notifications(data)
    except NotificationError as error:
        raise SettingsError(f"{path}: {error}") from None


def _propagation(path: str, value: Any) -> float:
    if value is None:
        return PROPAGATION
    try:
        return parse_duration(value).total_seconds()
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{path}: propagation: {error}") from None


def _parallelism(path: str, data: Any) -> dict[LimitScope, int]:
    """``parallelism``: the word of Argo Workflows, where 0 is no limit, too."""
    names = [scope.value for scope in LimitScope]
    if not isinstance(data, Mapping) or set(data) - set(names):
        raise SettingsError(f"{path}: parallelism must be a mapping with {', '.join(names)}")
    for name, value in data.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise SettingsError(
                f"{path}: parallelism.{name} must be a number of Rollouts in progress, 1 or more; 0 is no limit"
            )
    return {scope: data[scope.value] for scope in LimitScope if data.get(scope.value)}


def _path_probe(path: str, data: Any) -> ProbeSettings:
    """``pathProbe``: whether, and to which networks, the controller may connect for probes of the path."""
    if not isinstance(data, Mapping) or set(data) - {"enabled", "allow"}:
        raise SettingsError(f"{path}: pathProbe must be a mapping with enabled and allow")
    enabled, allow = data.get("enabled", True), data.get("allow") or []
    if not isinstance(enabled, bool):
        raise SettingsError(f"{path}: pathProbe.enabled must be true or false")
    try:
        networks = tuple(ip_network(item) for item in allow) if isinstance(allow, list) else None
    except (ValueError, TypeError):
        networks = None
    if networks is None:
        raise SettingsError(f"{path}: pathProbe.allow must be a list of networks, as in 10.0.0.0/8")
    return ProbeSettings(enabled=enabled, allow=networks)


def _capacity(path: str, data: Any) -> tuple[str, ...]:
    """``capacity``: whether workloads are scaled, and of which kinds; where none is named those of every cluster."""
    if not isinstance(data, Mapping) or set(data) - {"enabled", "kinds"}:
        raise SettingsError(f"{path}: capacity must be a mapping with enabled and kinds")
    enabled, named = data.get("enabled", False), data.get("kinds")
    named = list(BUILT_IN) if named is None else named
    if not isinstance(enabled, bool):
        raise SettingsError(f"{path}: capacity.enabled must be true or false")
    if not isinstance(named, list) or not named or not all(kind in WORKLOADS for kind in named):
        raise SettingsError(f"{path}: capacity.kinds must be a list of {' and '.join(WORKLOADS)}")
    return tuple(named) if enabled else ()


def _adapters(path: str, data: Any) -> AdapterSettings:
    """``adapters``: prefixes are absolute folders of the model servers' file systems."""
    if not isinstance(data, Mapping) or set(data) - {"prefixes", "apiKeyFile", "apiKeys"}:
        raise SettingsError(f"{path}: adapters must be a mapping with prefixes, apiKeys and apiKeyFile")
    prefixes = data.get("prefixes") or []
    if not isinstance(prefixes, list) or not all(
        isinstance(item, str) and item.startswith("/") and item.strip("/") for item in prefixes
    ):
        raise SettingsError(f"{path}: adapters.prefixes must be a list of absolute folders, not /")
    return AdapterSettings(prefixes=tuple(prefixes))


def _sources(path: str, data: Any) -> list[tuple[str, PrometheusConfig]]:
    if not isinstance(data, Mapping):
        raise SettingsError(f"{path}: sources must map names to servers")
    found = []
    for name, fields in data.items():
        if not isinstance(fields, Mapping) or not isinstance(fields.get("url"), str):
            raise SettingsError(f"{path}: source {name}: needs a url")
        values: dict[str, Any] = {}
        for key, value in fields.items():
            if key not in _FIELDS or not isinstance(value, str | int):
                raise SettingsError(f"{path}: source {name}: unknown or wrong: {key}")
            values[_FIELDS[key]] = value
        if "timeout" in values:
            try:
                values["timeout"] = parse_duration(values["timeout"]).total_seconds()
            except ValueError as error:
                raise SettingsError(f"{path}: source {name}: timeout: {error}") from None
        found.append(_checked(str(name), PrometheusConfig(**values)))
    return found
