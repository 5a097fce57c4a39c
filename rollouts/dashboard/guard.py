"""Who may ask the dashboard what: against pages of others in the reader's own browser. Pure.

Such a page can send requests to a loopback port, and by DNS rebinding (a name of its own that resolves to 127.0.0.1)
even read the answers. So the Host must be an address or a name that was allowed; a write must come from a page of
ours (its Origin) and bring what only such a page can know (OWASP, Cross-Site Request Forgery Prevention: signed double
submit cookie).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection

__all__ = ["COOKIE", "host_problem", "origin_problem", "token_of"]

COOKIE = "rollouts-session"


def _split(host: str) -> str:
    """The name or address of a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host.rpartition(":")[0] if ":" in host else host


def host_problem(host: str, allowed: Collection[str]) -> str:
    """Why a request with this Host is refused; empty when it is not. A name needs to be allowed: names can be rebound,
    addresses cannot."""
    name = _split(host).lower()
    if name == "localhost" or name in allowed:
        return ""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return f"this dashboard does not answer to the name {name[:100]!r}: start it with --host {name[:100]}"
    return ""


def origin_problem(origin: str | None, fetch_site: str | None, host: str) -> str:
    """Why a write from this Origin is refused; empty when it is not. Browsers send Origin with every POST."""
    if origin not in (f"http://{host}", f"https://{host}"):
        return "a command must come from a page of this dashboard (Origin)"
    if fetch_site not in (None, "same-origin"):
        return "a command must come from a page of this dashboard (Sec-Fetch-Site)"
    return ""


def token_of(secret: bytes, session: str) -> str:
    """What forms of that session carry."""
    return hmac.new(secret, session.encode(), hashlib.sha256).hexdigest()
