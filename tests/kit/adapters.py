"""Pods and their adapters as plain values: what ``AdapterWatch`` finds out over HTTP, without any."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from rollouts.controller.adapter_content import AdapterOnPod, Serving, same_path
from rollouts.controller.adapters import AdapterSettings
from rollouts.objects.pods import Pod
from rollouts.runtime.objects import ObjectKey

__all__ = ["FakeAdapters"]


class FakeAdapters:
    """Adapters by pod name. ``everywhere`` are on every pod; what is loaded is there at once, and works.

    As on vLLM the root of a name is the path that it was loaded from, a name that is loaded is not loaded again, and
    an unload cuts nobody off here, but is told of with the requests that it would meet.
    """

    def __init__(self, everywhere: Iterable[str] = (), *, prefixes: tuple[str, ...] = ("/adapters",)) -> None:
        self.settings = AdapterSettings(prefixes=prefixes)
        self.everywhere = set(everywhere)
        self.loaded: defaultdict[str, set[str]] = defaultdict(set)
        self.roots: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """By pod and adapter the path behind the name; what is not here was loaded from ``/adapters/<name>``."""
        self.rootless = False
        """Pods list names only, as other servers do."""
        self.absent: set[str] = set()
        """Paths where there is no adapter: a load answers 404."""
        self.in_flight: defaultdict[str, set[str]] = defaultdict(set)
        """Adapters by pod whose requests still run."""
        self.ineffective: set[str] = set()
        """Paths of adapters that answer as their base does."""
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
        self,
        follower: ObjectKey,
        endpoints: Iterable[Pod],
        port: int,
        prove: Iterable[str],
        drain: Iterable[str] = (),
    ) -> None:
        """See ``AdapterPods``."""
        self._followed[follower] = [endpoint.name for endpoint in endpoints]

    def drop(self, follower: ObjectKey) -> None:
        """See ``AdapterPods``."""
        self._followed.pop(follower, None)

    def serving(self, follower: ObjectKey, adapter: str) -> Serving:
        """See ``AdapterPods``."""
        return Serving(tuple(self._state(pod, adapter) for pod in self._followed.get(follower, [])))

    def load(self, follower: ObjectKey, adapter: str, path: str) -> None:
        """See ``AdapterPods``."""
        for state in self.serving(follower, adapter).states:
            if state.listed is False and path not in self.absent:
                self._note("load", state.pod, adapter)
                self.hold(state.pod, adapter, path)
                self.on_change(follower)

    def unload(self, follower: ObjectKey, adapter: str, pods: Iterable[str] | None = None) -> None:
        """See ``AdapterPods``."""
        chosen = None if pods is None else frozenset(pods)
        for state in self.serving(follower, adapter).states:
            if state.listed and (chosen is None or state.pod in chosen):
                self._note("unload", state.pod, adapter)
                self.loaded[state.pod].discard(adapter)
                self.lost[state.pod].add(adapter)
                self.on_change(follower)

    def hold(self, pod: str, adapter: str, path: str) -> None:
        """From now on the pod has this content under this name."""
        self.loaded[pod].add(adapter)
        self.roots[pod][adapter] = path
        self.lost[pod].discard(adapter)

    def root(self, pod: str, adapter: str) -> str:
        """The path behind a name on a pod."""
        return self.roots[pod].get(adapter, f"/adapters/{adapter}")

    def serves(self, pod: str, adapter: str, source: str = "") -> bool:
        """Whether the pod really answers requests for the adapter, from ``source`` where that matters."""
        right = not source or same_path(self.root(pod, adapter), source)
        return right and self._state(pod, adapter).proven

    def _note(self, what: str, pod: str, adapter: str) -> None:
        self.calls.append((what, pod, adapter))
        self.on_call(what, pod, adapter)

    def _state(self, pod: str, adapter: str) -> AdapterOnPod:
        if pod in self.silent:
            return AdapterOnPod(pod=pod, listed=None, proven=False, problem="/v1/models gives no answer")
        listed = (adapter in self.everywhere or adapter in self.loaded[pod]) and adapter not in self.lost[pod]
        root = self.root(pod, adapter)
        return AdapterOnPod(
            pod=pod,
            listed=listed,
            proven=listed and adapter not in self.broken,
            root="" if self.rootless or not listed else root,
            in_flight=adapter in self.in_flight[pod],
            differs=root not in self.ineffective if listed else None,
        )
