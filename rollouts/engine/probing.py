"""The probe of the path before the first weight: a few requests of ours through the gateway to the canary.

A rule of its own in the Managed route sends requests with a secret header value to the canary, which has no weight
yet; the shell sends them and says how they ended. The rule is in the desired traffic exactly while the record in the
status is open, so whatever ends the attempt or the probe (a crash included) takes it out with the next write.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rollouts.engine.actions import EventType
from rollouts.engine.attempt import Attempt, ProbeRecord, ProbeVerdict
from rollouts.engine.draft import Draft, Said
from rollouts.engine.observation import ProbeView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import (
    HeaderMatch,
    HeaderRouteStep,
    HttpRouteTraffic,
    PathProbe,
    TrafficMode,
)
from rollouts.engine.steps import weight_at
from rollouts.units import ZERO

__all__ = ["PATIENCE", "PROBE_HEADER", "PROBE_ROUTE", "probe_open", "probe_path", "probe_routes", "probing"]

PROBE_ROUTE = "inference-rollouts-probe"
PROBE_HEADER = "x-inference-rollouts-probe"

PATIENCE = timedelta(seconds=5)
"""How long a reported probe may hold the first weight back. Gateways take a rule over within 0.2 s (measured on two),
and the shell asks for less than three."""


def probe_open(attempt: Attempt) -> bool:
    """Whether the canary's first weight is held back by its probe."""
    return attempt.probe is not None and attempt.probe.verdict is None


def probe_routes(attempt: Attempt) -> tuple[HeaderRouteStep, ...]:
    """The probe's rule as a header route, while the probe is open."""
    if attempt.probe is None or not probe_open(attempt) or not attempt.probe.token:
        return ()
    match = HeaderMatch(name=PROBE_HEADER, value=attempt.probe.token)
    return (HeaderRouteStep(name=PROBE_ROUTE, match=(match,)),)


def probing(attempt: Attempt) -> Said:
    """Reason and words for a canary that waits for its probe."""
    said = attempt.probe.message if attempt.probe is not None else ""
    if said:
        return (
            Reason.PATH_PROBE_FAILED,
            f"the first weight waits for a probe of the path (pathProbe: Require): {said}",
        )
    return Reason.PROBING_PATH, "probing the path to the canary before its first weight"


def probe_path(draft: Draft) -> bool:
    """Open the probe before the first weight, take its answer, and close it.

    True: whom to ask is being found out, which takes milliseconds; no weight rises until then.
    """
    view, record = draft.obs.probe, draft.current.probe
    if record is not None and not probe_open(draft.current):
        return False
    if view is None or not _due(draft):
        if record is not None:  # the mode was changed, or nobody probes any more
            _close(draft, ProbeVerdict.NOT_JUDGED, "not probed any more")
        return False
    fresh = draft.now - (draft.current.step_started_at or draft.now) < PATIENCE
    if record is None and fresh and not view.offered and not view.impossible:
        draft.wake(timedelta(seconds=1))
        return True
    _carry_on(draft, view, record or ProbeRecord(since=draft.now))
    return False


def _carry_on(draft: Draft, view: ProbeView, record: ProbeRecord) -> None:
    required = draft.spec.canary.path_probe is PathProbe.REQUIRE
    late = not required and draft.now - record.since >= PATIENCE
    if not record.token and view.offered:
        draft.set_current(probe=replace(record, token=view.offered, since=draft.now, message=""))
        draft.wake(PATIENCE)
    elif not record.token and not required:
        _close(
            draft,
            ProbeVerdict.NOT_JUDGED,
            view.impossible or "the gateway's address was not found out in time",
        )
    elif record.token and view.token == record.token and view.verdict is not None:
        _take(draft, view, view.verdict, record, required=required)
    elif late:
        _close(draft, ProbeVerdict.NOT_JUDGED, f"no answer within {PATIENCE.seconds} s")
    else:
        # Without a token nobody knows yet whom to ask.
        draft.set_current(probe=record if record.token else replace(record, message=view.impossible))
        draft.wake(PATIENCE)


def _due(draft: Draft) -> bool:
    """Only before the first weight of a Managed route, and only where a weight is asked for now."""
    current, traffic, mode = draft.current, draft.spec.traffic, draft.spec.canary.path_probe
    managed = isinstance(traffic, HttpRouteTraffic) and traffic.mode is TrafficMode.MANAGED
    if not managed or mode is PathProbe.OFF or current.pulled or draft.status.weight.applied != ZERO:
        return False
    wanted = current.skip_gates or weight_at(draft.spec.canary.steps, current.current_step) > ZERO
    # What was stable a while ago, or is promoted by a person, is not reported on.
    return wanted and not (current.skip_gates and mode is PathProbe.REPORT)


def _take(
    draft: Draft, view: ProbeView, verdict: ProbeVerdict, record: ProbeRecord, *, required: bool
) -> None:
    if verdict is ProbeVerdict.PASSED or not required:
        _close(draft, verdict, view.message)
        return
    if record.message != view.message:
        draft.event(EventType.WARNING, Reason.PATH_PROBE_FAILED, view.message)
        draft.set_current(probe=replace(record, message=view.message))
    draft.wake(PATIENCE)


def _close(draft: Draft, verdict: ProbeVerdict, message: str) -> None:
    record = draft.current.probe or ProbeRecord(since=draft.now)
    draft.set_current(probe=replace(record, token="", verdict=verdict, message=message))
    if verdict is ProbeVerdict.FAILED:
        draft.event(EventType.WARNING, Reason.PATH_PROBE_FAILED, message)
