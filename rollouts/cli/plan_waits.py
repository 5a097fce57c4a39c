"""What an attempt would wait for beside its gates: freezes, windows, others that go first, limits, approvals; and when
it would be over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from rollouts.api.freezes import Freeze, freeze_view, read_freeze, selects
from rollouts.api.parsing import ParsedRollout
from rollouts.api.references import permits, serving_pools
from rollouts.api.schedule import window_view
from rollouts.api.status import read_status
from rollouts.cli.controllers import approvals_asked
from rollouts.controller.reporting import ControllerReport
from rollouts.engine.rollout_spec import Dependency, RolloutSpec, WeightStep
from rollouts.engine.rollout_status import Phase
from rollouts.engine.steps import format_seconds, weight_at
from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.units import ZERO

__all__ = ["Surroundings", "ends_at", "obstacles", "surroundings"]

Object = Mapping[str, Any]

_TURNS = 64
"""Freezes and windows in a row that are waited for: beyond that nobody can say."""
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is known around a Rollout. ``freezes``: those that select it, or may; ``live``: the cluster was asked."""

    namespace: str
    freezes: tuple[Freeze, ...] = ()
    rollouts: tuple[Object, ...] = ()
    reports: tuple[ControllerReport, ...] = ()
    objects: tuple[Object, ...] = ()
    """All of them: templates, strategies, pools and what makes their pods among them."""
    stored: Object = field(default_factory=dict)
    """The Rollout with the status that the file, or the cluster, has of it."""
    live: bool = False

    @property
    def obeyed(self) -> bool:
        """Whether freezes hold: unless every controller of the namespace says that it does not obey."""
        return not self.reports or any(one.freezes for one in self.reports)


def surroundings(
    rollout: Object,
    objects: Sequence[Object],
    reports: Sequence[ControllerReport],
    namespace: str,
    *,
    live: bool,
) -> Surroundings:
    """Of the objects of the files and, behind them, of the cluster. ``namespace``: that of a Rollout that says none."""
    meta = metadata_of(rollout)
    space, labels = text_of(meta.get("namespace")) or namespace, map_of(meta.get("labels"))
    # As the controller has it: a namespace that is not known may be meant.
    known = next(
        (map_of(metadata_of(one).get("labels")) for one in objects if _is(one, "Namespace", space)), None
    )
    freezes = [read_freeze(one) for one in objects if one.get("kind") == "RolloutFreeze"]
    return Surroundings(
        namespace=space,
        freezes=tuple(
            one
            for one in freezes
            if selects(one.rollouts, labels)
            and (one.namespaces is None or known is None or selects(one.namespaces, known))
        ),
        rollouts=tuple(_others(rollout, objects, space)),
        objects=tuple(one for one in objects if _may_be_in(one, space)),
        reports=tuple(one for one in reports if one.watches(space)),
        stored={**rollout, "status": _status(rollout, objects, space, live=live)},
        live=live,
    )


def _others(rollout: Object, objects: Sequence[Object], namespace: str) -> Iterator[Object]:
    """Each other Rollout once: as the cluster has it, where that is asked."""
    found = dict[tuple[str, str], Object]()
    for one in objects:
        if one.get("kind") == "Rollout" and not _is_same(one, rollout, namespace):
            meta = metadata_of(one)
            found[text_of(meta.get("namespace")) or namespace, text_of(meta.get("name"))] = one
    yield from found.values()


def _may_be_in(one: Object, namespace: str) -> bool:
    """Whether an object is of a namespace, or of none."""
    return not namespace or text_of(metadata_of(one).get("namespace")) in ("", namespace)


def _status(rollout: Object, objects: Sequence[Object], namespace: str, *, live: bool) -> Object:
    """The cluster's where that is asked; of files the first that a controller has written (it has a phase)."""
    there = tuple(reversed(objects)) if live else (rollout, *objects)
    same = [map_of(one.get("status")) for one in there if _is_same(one, rollout, namespace)]
    return next((status for status in same if status.get("phase")), {})


def _is_same(one: Object, rollout: Object, namespace: str) -> bool:
    """Whether it is the Rollout itself, of the file or of the cluster."""
    name, meta = metadata_of(rollout).get("name"), metadata_of(one)
    return _is(one, "Rollout", text_of(name)) and meta.get("namespace", namespace) == namespace


def _is(obj: Object, kind: str, name: str) -> bool:
    return obj.get("kind") == kind and metadata_of(obj).get("name") == name


def obstacles(parsed: ParsedRollout, around: Surroundings, start: datetime) -> Iterator[str]:
    """What stands in the way of an attempt that is asked for at ``start``, a sentence each."""
    assert parsed.spec is not None
    for one in parsed.spec.depends_on:
        yield _dependency(one, around)
    yield from _limits(parsed, around)
    yield from _freezes(around, start)
    yield from _windows(parsed.spec, start)
    yield from _approvals(parsed, around)


def _dependency(wanted: Dependency, around: Surroundings) -> str:
    space = wanted.namespace or around.namespace
    name = wanted.name if space == around.namespace else f"{space}/{wanted.name}"
    soak = f" for {format_seconds(wanted.soak)}" if wanted.soak else ""
    after = f"Order: {name} has to be Healthy{soak} first"
    found = next((one for one in around.rollouts if _of(one, around) == (space, wanted.name)), None)
    if found is None:
        return (
            f"{after}; {'it does not exist' if around.live else 'its state is not known here (--live asks)'}."
        )
    if not permits({"metadata": {"namespace": space, **metadata_of(found)}}, around.namespace):
        return f"{after}, and it does not consent."
    status, _ = read_status(found.get("status"))
    if status.phase is Phase.NEW:
        return f"{after}."
    return f"{after}; now it is {status.phase.value}."


def _of(obj: Object, around: Surroundings) -> tuple[str, str]:
    meta = metadata_of(obj)
    return text_of(meta.get("namespace")) or around.namespace, text_of(meta.get("name"))


def _limits(parsed: ParsedRollout, around: Surroundings) -> Iterator[str]:
    """How many may be in progress beside it, and who is, as far as the controller says."""
    assert parsed.spec is not None
    if not around.reports:
        return
    begun = [one for one in around.rollouts if read_status(one.get("status"))[0].running is not None]
    here = [one for one in begun if _of(one, around)[0] == around.namespace]
    mine = {parsed.spec.target.name, *(arm.identity.name for arm in parsed.status.arms)}
    sharing = [one for one in here if serving_pools(one) & mine]
    for report in around.reports:
        for scope, where, present in (
            ("pool", f"on pool {parsed.spec.target.name}", sharing),
            ("namespace", f"in namespace {around.namespace}", here),
            ("controller", f"of the controller of {report.source}", begun),
        ):
            limit = report.parallelism.get(scope, 0)
            if limit and around.live:
                names = ", ".join("/".join(_of(one, around)) for one in present[:_SHOWN])
                full = ", so that it would wait in line" if len(present) >= limit else ""
                others = f" ({names})" if names else ""
                yield f"Limit: {len(present)} of {limit} in progress {where}{others}{full}."
            elif limit:
                yield f"Limit: {limit} in progress at a time {where}."


def _freezes(around: Surroundings, start: datetime) -> Iterator[str]:
    for freeze in around.freezes:
        view = freeze_view(freeze, start)
        if view is None:
            continue
        since = f" from {_moment(view.since)}" if view.since is not None else ""
        until = f" until {_moment(view.until)}" if view.until is not None else " until somebody ends it"
        unheeded = "" if around.obeyed else " (the controller runs without --freezes, and does not obey)"
        yield f"Freeze: {view.name}{since}{until}: {view.reason}{unheeded}."


def _windows(spec: RolloutSpec, start: datetime) -> Iterator[str]:
    view = window_view(spec.canary.windows, start)
    if view is None:
        return
    if view.opens_at <= start:
        yield f"Windows: weight rises only while one is open; one is until {_moment(view.closes_at)}."
    else:
        local = f" ({view.local})" if view.local else ""
        yield f"Windows: weight rises only while one is open; the next one opens at {_moment(view.opens_at)}{local}."


def _approvals(parsed: ParsedRollout, around: Surroundings) -> Iterator[str]:
    known = {name for one in around.reports for name in one.answering(around.namespace)}
    for index, name in approvals_asked(parsed):
        unknown = (
            f"; there are {', '.join(sorted(known)) or 'none'}"
            if around.reports and name not in known
            else ""
        )
        wrong = f", and the controller has no such receiver{unknown}" if unknown else ""
        yield f"Approval: step {index + 1} asks {name}{wrong}."


def ends_at(
    spec: RolloutSpec, minutes: Sequence[float], around: Surroundings, start: datetime
) -> datetime | None:
    """When an attempt of the steps, which take so long each (the last entry: after them), would be over.

    Weight rises only in windows and outside of freezes, as the engine has it. None: nobody can say when.
    """
    now, weight = _opens(spec, around, start), ZERO
    for index, taken in enumerate(minutes):
        asked = weight_at(spec.canary.steps, index)
        if now is not None and asked > weight and (index == len(minutes) - 1 or _rises(spec, index)):
            now = _opens(spec, around, now)
        if now is None or taken == float("inf"):
            return None
        now, weight = now + timedelta(minutes=taken), asked
    return now


def _rises(spec: RolloutSpec, index: int) -> bool:
    return isinstance(spec.canary.steps[index], WeightStep)


def _opens(spec: RolloutSpec, around: Surroundings, now: datetime) -> datetime | None:
    """The first moment from ``now`` on at which weight may rise."""
    for _ in range(_TURNS):
        held = [freeze_view(one, now) for one in around.freezes if around.obeyed]
        holding = [one for one in held if one is not None and one.since is None]
        if any(one.until is None for one in holding):
            return None
        later = max((one.until for one in holding if one.until is not None), default=now)
        if later > now:
            now = later
            continue
        view = window_view(spec.canary.windows, now)
        if view is None:
            return None if spec.canary.windows else now
        if view.opens_at <= now:
            return now
        now = view.opens_at
    return None


def _moment(at: datetime | None) -> str:
    return "-" if at is None else f"{at:%a %Y-%m-%d %H:%MZ}"
