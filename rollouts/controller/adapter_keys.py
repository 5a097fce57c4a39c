"""Which key goes to which model server: by namespace and pool, and to nobody else.

Whoever runs a pod in a pool reads what is sent to it. So a key is bound to the namespace (and, unless it is for all of
its pools, to the pool) whose people own it. Without an entry no key is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ModelServerKey", "authorization"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelServerKey:
    """The file of one key. ``pool`` empty: all pools of the namespace."""

    namespace: str
    pool: str = ""
    file: str


def authorization(
    keys: Iterable[ModelServerKey], everywhere: str, namespace: str, pool: str
) -> dict[str, str]:
    """The Authorization header for a pod of a pool, read anew from its file; empty where it gets no key.

    The pool's own key comes before its namespace's, and both before ``everywhere``, the file of a controller that
    watches one namespace. Raises OSError when the file cannot be read.
    """
    found = {key.pool: key.file for key in keys if key.namespace == namespace and key.pool in ("", pool)}
    file = found.get(pool) or found.get("") or everywhere
    if not file:
        return {}
    return {"Authorization": f"Bearer {Path(file).read_text(encoding='utf-8').strip()}"}
