"""Kubeconfig files as kubectl reads them, merged and resolved to one context, or a loud failure.

Rules (kubernetes.io, "Organizing Cluster Access Using kubeconfig Files", and client-go's ``clientcmd``):

- ``--kubeconfig`` is one file, which must exist. Else ``$KUBECONFIG`` is a list; files that are missing are skipped.
- Per name the first file wins, and of ``current-context`` the first file that sets it.
- Paths in a file are relative to that file.
- ``--context`` replaces the current context, ``--cluster`` and ``--user`` the context's.

Where kubectl goes on with an empty configuration (no file, no context, a context that no file defines), this says so:
a command in the wrong cluster or namespace is worse than none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from rollouts.kube.errors import NotConfigured

__all__ = ["ContextChoice", "ResolvedContext", "kubeconfig_paths", "resolve"]

_LIMIT = 4 << 20
"""Bytes of one file: the largest seen hold a few hundred clusters with their certificates, 1 MB."""

_KINDS = ("clusters", "users", "contexts")
_PATHS = {
    "clusters": ("certificate-authority",),
    "users": ("client-certificate", "client-key", "tokenFile"),
    "contexts": (),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextChoice:
    """What was asked for on the command line; None: what the files say."""

    context: str | None = None
    cluster: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedContext:
    """One context: ``config`` is a kubeconfig with it alone, all paths absolute."""

    config: dict[str, Any]
    context: str
    namespace: str


def _unusable(text: str) -> NotConfigured:
    return NotConfigured(f"{text}; or name other files with --kubeconfig or KUBECONFIG")


def kubeconfig_paths(kubeconfig: str | None) -> list[Path]:
    """The files to read, in the order of precedence."""
    if kubeconfig:
        return [Path(kubeconfig).expanduser()]
    listed = [part for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return [Path(part).expanduser() for part in listed] or [Path("~/.kube/config").expanduser()]


def resolve(kubeconfig: str | None, choice: ContextChoice) -> ResolvedContext:
    """The context to use. Raises NotConfigured, saying what is missing where."""
    paths = kubeconfig_paths(kubeconfig)
    found = [path for path in paths if path.exists()]
    told = os.pathsep.join(map(str, paths))
    if not found:
        raise _unusable(f"there is no kubeconfig {told}")
    current, named = _merge((path, _read(path)) for path in found)
    name = choice.context or current
    contexts = ", ".join(sorted(named["contexts"])) or "none"
    if not name:
        raise _unusable(f"{told}: no current-context is set: give --context (there are: {contexts})")
    context = named["contexts"].get(name)
    if context is None:
        raise _unusable(f"{told}: no context is called {name!r}: give --context (there are: {contexts})")
    chosen = {"cluster": choice.cluster, "user": choice.user}
    final = {**context, **{kind: value for kind, value in chosen.items() if value}}
    for kind in ("cluster", "user"):
        known = named[f"{kind}s"]
        if final.get(kind) not in known:
            names = ", ".join(sorted(known)) or "none"
            raise _unusable(
                f"{told}: context {name!r} has the {kind} {final.get(kind)!r}, which no file defines: "
                f"give --{kind} (there are: {names})"
            )
    _check_cluster(f"{told}: cluster {final['cluster']!r}", named["clusters"][final["cluster"]])
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": final["cluster"], "cluster": named["clusters"][final["cluster"]]}],
        "users": [{"name": final["user"], "user": named["users"][final["user"]]}],
        "contexts": [{"name": name, "context": final}],
        "current-context": name,
    }
    return ResolvedContext(config=config, context=name, namespace=str(final.get("namespace") or "default"))


def _check_cluster(where: str, cluster: Mapping[str, Any]) -> None:
    """Whether there is somewhere to go, and no text stands where truth is asked for. Raises NotConfigured."""
    server = str(cluster.get("server") or "")
    if not server:
        raise _unusable(f"{where} has no server: write server: https://HOST:PORT")
    if "://" not in server:
        raise _unusable(f"{where} has the server {server!r} without a scheme: write https://{server}")
    try:
        parts = urlsplit(server)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise _unusable(f"{where} has the server {server!r}: write https://HOST:PORT")
    unchecked = cluster.get("insecure-skip-tls-verify")
    if unchecked is not None and not isinstance(unchecked, bool):
        raise _unusable(
            f"{where}: insecure-skip-tls-verify is {unchecked!r}: write true or false, without quotes"
        )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _LIMIT:
            raise _unusable(f"{path}: larger than {_LIMIT} bytes")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise _unusable(f"{path}: no kubeconfig: {type(error).__name__}") from None
    if not isinstance(data, Mapping):
        raise _unusable(f"{path}: no kubeconfig: the file is {'empty' if data is None else 'no mapping'}")
    return data


def _merge(
    files: Iterable[tuple[Path, Mapping[str, Any]]],
) -> tuple[str, dict[str, dict[str, dict[str, Any]]]]:
    """(current context, kind -> name -> entry); the first file wins."""
    current, named = "", dict[str, dict[str, dict[str, Any]]]((kind, {}) for kind in _KINDS)
    for path, data in files:
        current = current or str(data.get("current-context") or "")
        for kind in _KINDS:
            entries = data.get(kind) or []
            if not isinstance(entries, list):
                raise _unusable(f"{path}: {kind} is no list")
            for entry in entries:
                if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
                    raise _unusable(f"{path}: an entry of {kind} has no name")
                value = entry.get(kind[:-1]) or {}
                if not isinstance(value, Mapping):
                    raise _unusable(f"{path}: {kind[:-1]} {entry['name']} is no mapping")
                named[kind].setdefault(entry["name"], _absolute(kind, value, path.parent))
    return current, named


def _absolute(kind: str, value: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The entry with its paths made absolute."""
    found = dict(value)
    for key in _PATHS[kind]:
        if isinstance(found.get(key), str) and found[key]:
            found[key] = os.path.abspath(folder / Path(found[key]).expanduser())
    plugin = found.get("exec") if kind == "users" else None
    if isinstance(plugin, Mapping) and os.sep in str(plugin.get("command", "")):
        found["exec"] = {**plugin, "command": os.path.abspath(folder / str(plugin["command"]))}
    return found
