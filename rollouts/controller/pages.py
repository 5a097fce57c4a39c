"""The metrics pages of pods: one per port of their pool, each a process with counters of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rollouts.api.scalars import parse_time
from rollouts.objects.pods import Pod
from rollouts.sources.base import ScrapeTarget as Page

__all__ = ["metrics_pages"]


def metrics_pages(pods: Iterable[Pod], ports: Sequence[int], namespace: str) -> list[Page]:
    """Every page of the pods, in their order. Whoever reads pages has them from here: a page has one name."""
    several = len(ports) > 1
    return [
        Page(
            pod=f"{found.name}:{port}" if several else found.name,
            ip=found.ip,
            port=port,
            started=_seconds(found.started),
            namespace=namespace,
            pool=found.pool,
            warmed=_seconds(found.warmed.partition(" ")[0]),
            of=found.name if several else "",
        )
        for found in pods
        for port in ports
    ]


def _seconds(text: str) -> float | None:
    """A time as the API server writes it, in seconds since 1970; None where there is none."""
    try:
        return parse_time(text).timestamp() if text else None
    except ValueError:
        return None
