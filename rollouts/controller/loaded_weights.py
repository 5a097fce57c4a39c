"""Which weights each replica of an endpoint picker goes by: asked of their own metrics pages, in the background."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from rollouts.engine.observation import PickersView, RuleView
from rollouts.engine.rollout_spec import PickerTraffic, VariantTraffic
from rollouts.objects.picker_pages import CONFIGURED_WEIGHT
from rollouts.objects.pods import PickerPod
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.scraper import PodHistory, PodScraper

__all__ = [
    "LoadedWeights",
    "Loads",
    "ScrapedWeights",
    "TrustedWeights",
    "differ",
    "in_words",
    "stored_loads",
]

_HEARD = 1.0
"""Seconds that a replica may take to hear of a change: it watches, and gathers changes for 20 ms."""
_PATIENCE = 10.0
"""Seconds for which a replica that does not answer is waited for."""
_HURRY, _PACE = 10.0, 1.0
"""For how many seconds one look asks for samples, and every how many, while a replica has not said what is stored."""
_GRAIN = 1.5e-4
"""Weights are hundredths of a percent; one of them is rounding."""

Loads = Mapping[str, float]
"""Part of the requests by name of the target or variant, as fractions of one."""


class LoadedWeights(Protocol):
    """Who asks replicas which weights they go by."""

    def view(
        self, key: ObjectKey, spec: PickerTraffic, pods: Sequence[PickerPod], stored: Loads
    ) -> PickersView:
        """What Ready pods behind the picker's Service say, against what the object of a Rollout (``key``) says."""
        ...

    def forget(self, key: ObjectKey) -> None:
        """The Rollout is gone."""
        ...


class TrustedWeights:
    """Asks nobody: every replica goes by what is stored."""

    def view(
        self, key: ObjectKey, spec: PickerTraffic, pods: Sequence[PickerPod], stored: Loads
    ) -> PickersView:
        """See ``LoadedWeights``."""
        return PickersView()

    def forget(self, key: ObjectKey) -> None:
        """See ``LoadedWeights``."""


def stored_loads(rules: Sequence[RuleView]) -> Loads | None:
    """What a traffic object says, if all of its rules say the same and it gives somebody weight."""
    found = []
    for rule in rules:
        whole, loads = sum(rule.entries.values()), dict[str, float]()
        for arm, weight in rule.entries.items():
            if weight > 0:
                loads[arm.name] = loads.get(arm.name, 0.0) + float(Fraction(weight, whole))
        found.append(loads)
    return found[0] if found and found[0] and all(loads == found[0] for loads in found) else None


def differ(one: Loads, other: Loads) -> bool:
    """Whether they are more than rounding apart."""
    return any(abs(one.get(name, 0.0) - other.get(name, 0.0)) > _GRAIN for name in {*one, *other})


def in_words(loads: Loads) -> str:
    """``v1 90%, v2 10%``."""
    return ", ".join(f"{name} {round(share * 100, 2):g}%" for name, share in sorted(loads.items()) if share)


@dataclass(slots=True)
class _Stored:
    """What an object says, and when it was first seen to."""

    loads: Loads
    since: Monotonic


class ScrapedWeights:
    """Reads the gauge ``CONFIGURED_WEIGHT`` of all pods of a picker that are ours."""

    def __init__(self, scraper: PodScraper, clock: Clock) -> None:
        self._scraper = scraper
        self._clock = clock
        self._stored: dict[ObjectKey, _Stored] = {}

    def forget(self, key: ObjectKey) -> None:
        """See ``LoadedWeights``."""
        self._stored.pop(key, None)

    def view(
        self, key: ObjectKey, spec: PickerTraffic, pods: Sequence[PickerPod], stored: Loads
    ) -> PickersView:
        """See ``LoadedWeights``."""
        now = self._clock.monotonic()
        known = self._stored.get(key)
        if known is None or differ(known.loads, stored):
            known = self._stored[key] = _Stored(stored, now)
        targets = [
            ScrapeTarget(pod=pod.name, ip=pod.ip, port=pod.metrics_port, namespace=key.namespace)
            for pod in pods
            if pod.metrics_port is not None
        ]
        behind, asked, silent = list[tuple[str, str]](), list[str](), list[str]()
        for history in self._scraper.follow(targets, {CONFIGURED_WEIGHT}, 0.0):
            loads = _loads(history, spec, stored)
            if loads is not None and not differ(loads, stored):
                continue
            name, at = history.endpoint.pod, history.latest[0] if history.latest is not None else None
            if loads is not None and at is not None and at >= known.since + _HEARD:
                behind.append((name, f"goes by {in_words(loads)}" if loads else "has loaded no weights"))
            elif history.error and now - known.since >= _PATIENCE:
                silent.append(name)
            else:
                asked.append(name)
        if behind or asked or silent:
            self._scraper.follow(targets, {CONFIGURED_WEIGHT}, 0.0, hurry=_HURRY, pace=_PACE)
        return PickersView(
            replicas=tuple(target.pod for target in targets),
            behind=tuple(behind),
            asked=tuple(asked),
            silent=tuple(silent),
            stored=in_words(stored),
        )


def _loads(history: PodHistory, spec: PickerTraffic, stored: Loads) -> Loads | None:
    """What the newest sample says; None without one.

    A rule without a list of targets has no series: the name that clients ask for is sent, to whom it belongs.
    """
    if history.latest is None:
        return None
    series = history.latest[1].series.get(CONFIGURED_WEIGHT, ())
    if isinstance(spec, VariantTraffic):
        mine = {"pool": spec.pool_name, "split": spec.name, "model": spec.model_name or "*"}
        return _by_label(series, mine, "variant")
    for model in (spec.model_name, "*"):
        loads = _by_label(series, {"model": model, "variant": ""}, "target_model")
        if loads:
            return loads
    return {} if len(stored) > 1 else stored


def _by_label(series: Iterable[tuple[dict[str, str], float]], mine: Mapping[str, str], name: str) -> Loads:
    return {
        labels[name]: value
        for labels, value in series
        if labels.get(name) and all(labels.get(key, "") == value for key, value in mine.items())
    }
