"""``modelServers`` of the configuration file: how the pods of each namespace and pool are called.

``adapters.apiKeys`` and ``adapters.apiKeyFile`` are older spellings of entries that hold a key alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rollouts.runtime.modelservers import SETTINGS, ModelServers

__all__ = ["ModelServersWrong", "model_servers"]

_TEXTS = ("namespace", "pool", "scheme", "caFile", "serverName", "apiKeyFile")
_OLDER = ("apiKeys", "apiKeyFile")


class ModelServersWrong(ValueError):
    """An entry cannot be used; the text names the field."""


def model_servers(
    entries: Any, adapters: Mapping[str, Any], *, everywhere: bool
) -> dict[tuple[str, str], ModelServers]:
    """By (namespace, pool), as ``ModelServerBook`` takes it. ``everywhere``: all namespaces are watched.

    Raises ModelServersWrong.
    """
    older = [name for name in _OLDER if adapters.get(name)]
    if entries and older:
        raise ModelServersWrong(
            f"adapters.{older[0]}: write the key into the entry of modelServers, as apiKeyFile"
        )
    found = _listed("modelServers", entries or [], _entry)
    found |= _listed("adapters.apiKeys", adapters.get("apiKeys") or [], _key)
    file = adapters.get("apiKeyFile") or ""
    if not isinstance(file, str):
        raise ModelServersWrong("adapters.apiKeyFile must be a path")
    if file and everywhere:
        raise ModelServersWrong(
            "adapters.apiKeyFile would go to the pods of every namespace: with several namespaces list modelServers, "
            "each with its namespace"
        )
    if file:
        found["", ""] = ModelServers(api_key_file=Path(file))
    return found


def _listed(where: str, data: Any, read: Any) -> dict[tuple[str, str], ModelServers]:
    if not isinstance(data, list):
        raise ModelServersWrong(f"{where} must be a list of entries, each with its namespace")
    found: dict[tuple[str, str], ModelServers] = {}
    for entry in data:
        try:
            if not isinstance(entry, Mapping):
                raise ModelServersWrong("an entry is a mapping")
            place, servers = read(entry)
            if place in found:
                raise ModelServersWrong(
                    f"namespace {place[0]} has two entries for {place[1] or 'all its pools'}"
                )
        except ValueError as error:
            raise ModelServersWrong(f"{where}: {error}") from None
        found[place] = servers
    return found


def _entry(entry: Mapping[str, Any]) -> tuple[tuple[str, str], ModelServers]:
    unknown = set(entry) - {*_TEXTS, "insecureSkipVerify"}
    if unknown:
        raise ModelServersWrong(f"unknown: {', '.join(sorted(map(str, unknown)))}")
    texts = {name: entry.get(name) or "" for name in _TEXTS}
    wrong = [name for name, value in texts.items() if not isinstance(value, str)]
    skip = entry.get("insecureSkipVerify", False)
    if wrong or not isinstance(skip, bool):
        raise ModelServersWrong(f"{wrong[0] if wrong else 'insecureSkipVerify'} is of the wrong type")
    if not texts["namespace"]:
        raise ModelServersWrong(
            "an entry needs a namespace: what it holds goes to the pods there and to no others"
        )
    servers = ModelServers(
        scheme=texts["scheme"] or "http",
        ca=Path(texts["caFile"]) if texts["caFile"] else None,
        server_name=texts["serverName"],
        verify=not skip,
        api_key_file=Path(texts["apiKeyFile"]) if texts["apiKeyFile"] else None,
    )
    servers.check(SETTINGS)
    return (texts["namespace"], texts["pool"]), servers


def _key(entry: Mapping[str, Any]) -> tuple[tuple[str, str], ModelServers]:
    if set(entry) - {"namespace", "pool", "file"}:
        raise ModelServersWrong("an entry has namespace, pool (else all of the namespace) and file")
    if not entry.get("namespace") or not entry.get("file"):
        raise ModelServersWrong("an entry needs a namespace and a file")
    named = {name: entry[name] for name in ("namespace", "pool") if name in entry}
    return _entry({**named, "apiKeyFile": entry["file"]})
