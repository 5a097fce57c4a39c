"""Settings of the controller: the command line's options and the configuration file.

The file is YAML::

    sources:
      default: {url: http://prometheus:9090, podLabel: pod, timeout: 10s, bearerTokenFile: /etc/...}
    gitopsManagers: [argocd-controller, kustomize-controller, helm-controller]
    adapters: {prefixes: [/adapters], apiKeyFile: /etc/...}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from rollouts.analysis.sources.budget import QUERIES_PER_MINUTE
from rollouts.analysis.sources.prometheus import PrometheusConfig
from rollouts.api.scalars import parse_duration
from rollouts.controller.adapters import AdapterSettings
from rollouts.controller.observing import DEFAULT_GITOPS_MANAGERS

__all__ = ["RESERVED_SOURCES", "Settings", "SettingsError", "read_config", "source_option"]

RESERVED_SOURCES = frozenset({"pods", "picker"})
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_FILE_LIMIT = 1024 * 1024

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
    "namespaceLabel": "namespace_label",
}


class SettingsError(ValueError):
    """An option or the configuration file is wrong; the text says what and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the controller is told. ``namespace`` None watches all namespaces.

    ``cluster_templates`` False: no ClusterAnalysisTemplates, hence no right on any cluster-scoped object.
    """

    kubeconfig: str | None = None
    namespace: str | None = "default"
    lease_namespace: str = "default"
    sources: Mapping[str, PrometheusConfig] = field(default_factory=dict)
    gitops_managers: tuple[str, ...] = DEFAULT_GITOPS_MANAGERS
    health_address: str = "127.0.0.1:8081"
    metrics_address: str = "127.0.0.1:8080"
    leader_elect: bool = True
    cluster_templates: bool = True
    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    workers: int = 8
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
    if parts.username or parts.password:
        raise SettingsError(f"source {name}: no credentials in the URL: name files that hold them")
    return name, config


def read_config(path: str, settings: Settings) -> Settings:
    """Settings with what the file says. Options on the command line win. Raises SettingsError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if len(text) > _FILE_LIMIT:
            raise SettingsError(f"{path}: larger than {_FILE_LIMIT} bytes")
        data = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: cannot be read: {type(error).__name__}") from None
    if not isinstance(data, Mapping):
        raise SettingsError(f"{path}: must be a mapping with sources and gitopsManagers")
    unknown = set(data) - {"sources", "gitopsManagers", "adapters"}
    if unknown:
        raise SettingsError(f"{path}: unknown: {', '.join(sorted(map(str, unknown)))}")
    sources = dict(_sources(path, data.get("sources") or {}))
    managers = data.get("gitopsManagers", list(settings.gitops_managers))
    if not isinstance(managers, list) or not all(isinstance(item, str) for item in managers):
        raise SettingsError(f"{path}: gitopsManagers must be a list of field managers")
    return replace(
        settings,
        sources={**sources, **settings.sources},
        gitops_managers=tuple(managers),
        adapters=_adapters(path, data.get("adapters") or {}),
    )


def _adapters(path: str, data: Any) -> AdapterSettings:
    """``adapters``: prefixes are absolute folders of the model servers' file systems."""
    if not isinstance(data, Mapping) or set(data) - {"prefixes", "apiKeyFile"}:
        raise SettingsError(f"{path}: adapters must be a mapping with prefixes and apiKeyFile")
    prefixes, key_file = data.get("prefixes") or [], data.get("apiKeyFile") or ""
    if not isinstance(prefixes, list) or not all(
        isinstance(item, str) and item.startswith("/") and item.strip("/") for item in prefixes
    ):
        raise SettingsError(f"{path}: adapters.prefixes must be a list of absolute folders, not /")
    if not isinstance(key_file, str):
        raise SettingsError(f"{path}: adapters.apiKeyFile must be a path")
    return AdapterSettings(prefixes=tuple(prefixes), api_key_file=key_file)


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
