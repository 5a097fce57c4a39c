"""Pods of which one knows what they answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rollouts.objects.pools import Pool

__all__ = ["KnownLoads"]


class KnownLoads:
    """Requests ``by_pod``; ``silent`` ones do not say once they are to go. ``why``: pods cannot be drained."""

    def __init__(self, by_pod: Mapping[str, int] | None = None) -> None:
        self.by_pod = dict(by_pod or {})
        self.silent: set[str] = set()
        self.why = ""
        self.unlisted_why = ""

    def requests(self, pool: Pool) -> int | None:
        """See ``InFlight``."""
        return sum(self.by_pod.values())

    def loads(self, pool: Pool) -> Mapping[str, int]:
        """See ``InFlight``."""
        return self.by_pod

    def uncontrollable(self, pool: Pool) -> str:
        """See ``InFlight``."""
        return self.why

    def unlisted(self, pool: Pool) -> str:
        """See ``InFlight``."""
        return self.unlisted_why

    def leaving(self, pool: Pool, names: Collection[str], *, hidden: float = 0.0) -> Mapping[str, int | None]:
        """See ``InFlight``."""
        return {name: None if name in self.silent else self.by_pod.get(name) for name in names}
