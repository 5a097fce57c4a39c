"""Pods and their adapters as plain values: what ``AdapterWatch`` finds out over HTTP, without any."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from rollouts.controller.adapters import AdapterSettings, PodState, Serving
from rollouts.controller.pools import Endpoint
from rollouts.runtime.objects import ObjectKey

__all__ = ["FakeAdapters"]


class FakeAdapters:
    """Adapters by pod name. ``everywhere`` are on every pod; what is loaded is there at once, and works."""

    def __init__(self, everywhere: Iterable[str] = (), *, prefixes: tuple[str, ...] = ("/adapters",)) -> None:
        self.settings = AdapterSettings(prefixes=prefixes)
        self.everywhere = set(everywhere)
        self.loaded: defaultdict[str, set[str]] = defaultdict(set)
        self.lost: defaultdict[str, set[str]] = defaultdict(set)
        """Adapters that a pod lacks although they are everywhere else."""
        self.silent: set[str] = set()
        """Pods that do not answer."""
        self.broken: set[str] = set()
        """Adapters that are listed and answer no request."""
        self.calls: list[tuple[str, str, str]] = []
        """(what, pod, adapter) of every load and unload."""
        self.on_call: Callable[[str, str, str], None] = lambda what, pod, adapter: None
        """Told of every entry of ``calls``, before it takes effect."""
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._followed: dict[ObjectKey, list[str]] = {}

    @property
    def followers(self) -> list[ObjectKey]:
        """Who follows pods at the moment."""
        return list(self._followed)

    def follow(
        self, follower: ObjectKey, endpoints: Iterable[Endpoint], port: int, prove: Iterable[str]
    ) -> None:
        """See ``AdapterPods``."""
        self._followed[follower] = [endpoint.pod for endpoint in endpoints]

    def drop(self, follower: ObjectKey) -> None:
        """See ``AdapterPods``."""
        self._followed.pop(follower, None)

    def serving(self, follower: ObjectKey, adapter: str) -> Serving:
        """See ``AdapterPods``."""
        return Serving(tuple(self._state(pod, adapter) for pod in self._followed.get(follower, [])))

    def load(self, follower: ObjectKey, adapter: str, path: str) -> None:
        """See ``AdapterPods``."""
        for state in self.serving(follower, adapter).states:
            if state.listed is False:
                self._note("load", state.pod, adapter)
                self.loaded[state.pod].add(adapter)
                self.lost[state.pod].discard(adapter)
                self.on_change(follower)

    def unload(self, follower: ObjectKey, adapter: str) -> None:
        """See ``AdapterPods``."""
        for state in self.serving(follower, adapter).states:
            if state.listed:
                self._note("unload", state.pod, adapter)
                self.loaded[state.pod].discard(adapter)
                self.lost[state.pod].add(adapter)
                self.on_change(follower)

    def serves(self, pod: str, adapter: str) -> bool:
        """Whether the pod really answers requests for the adapter."""
        return self._state(pod, adapter).proven

    def _note(self, what: str, pod: str, adapter: str) -> None:
        self.calls.append((what, pod, adapter))
        self.on_call(what, pod, adapter)

    def _state(self, pod: str, adapter: str) -> PodState:
        if pod in self.silent:
            return PodState(pod=pod, listed=None, proven=False, problem="/v1/models gives no answer")
        listed = (adapter in self.everywhere or adapter in self.loaded[pod]) and adapter not in self.lost[pod]
        return PodState(pod=pod, listed=listed, proven=listed and adapter not in self.broken)
