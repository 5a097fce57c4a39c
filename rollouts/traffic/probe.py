"""The request that a probe of the path sends: what the first open rule of a Managed route's template would match.

The author of a template decides nothing of it but a path prefix and a host name: ``GET <prefix>/v1/models`` costs no
tokens, every OpenAI-compatible server answers it, and no header of theirs goes where they like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.objects.fields import list_of, map_of, text_of
from rollouts.traffic.backends import rules_of

__all__ = ["MODELS_PATH", "ProbeRequest", "probe_request"]

MODELS_PATH = "/v1/models"

_MAX_RULES = 16
"""Of an HTTPRoute (gateway.networking.k8s.io/v1); the probe's is one more."""
_PREFIX = re.compile(r"^(/[A-Za-z0-9._~-]{1,63}){0,8}/?$")
_HOST = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRequest:
    """``host`` is empty where the route names none."""

    path: str
    host: str = ""


def probe_request(template: Mapping[str, Any]) -> ProbeRequest | str:
    """The request, or why none can be made."""
    rules = [map_of(rule) for rule in rules_of(template)]
    if len(rules) >= _MAX_RULES:
        return f"the template has {_MAX_RULES} rules, and an HTTPRoute has room for no more"
    rule = next((rule for rule in rules if not rule.get("backendRefs")), {})
    match = map_of(next(iter(list_of(rule.get("matches"))), {}))
    if match.get("headers") or match.get("queryParams") or match.get("method") not in (None, "GET"):
        return "the rule's first match asks for more than a path"
    path = map_of(match.get("path"))
    kind, value = path.get("type") or "PathPrefix", path.get("value") or "/"
    if kind == "Exact" and value == MODELS_PATH:
        return ProbeRequest(path=MODELS_PATH, host=_host(template))
    if kind != "PathPrefix" or not isinstance(value, str) or not _PREFIX.match(value) or "/.." in value:
        return f"the rule's first match does not let GET {MODELS_PATH} through"
    return ProbeRequest(path=_under(value), host=_host(template))


def _under(prefix: str) -> str:
    """``/v1/models`` where the prefix has it, else below the prefix, as for a rule that rewrites it."""
    short = prefix.rstrip("/")
    return MODELS_PATH if short == MODELS_PATH or MODELS_PATH.startswith(f"{short}/") else short + MODELS_PATH


def _host(template: Mapping[str, Any]) -> str:
    host = text_of(next(iter(list_of(template.get("hostnames"))), "")).replace("*", "probe", 1)
    return host if _HOST.match(host) else ""
