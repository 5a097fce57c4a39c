"""What must hold of workloads: GPUs, order, the drain, and where it ends. Judged by stored objects alone.

A scale by the controller is judged against what was stored at that moment, its own status included; nothing here shares
code with the engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from rollouts.objects import kinds
from rollouts.objects.pods import DRAINING_ANNOTATION
from rollouts.objects.workloads import AUTOSCALER
from tests.kit.faults.deployments import DEPLOYMENT
from tests.kit.faults.endstate import weights_of
from tests.kit.faults.history import History, Record
from tests.kit.faults.objects import PREFILL, PREFILL_RELEASES, RELEASES, ROUTE
from tests.kit.faults.replay import Replay, ready_pictures
from tests.kit.faults.simulation import Run

__all__ = [
    "ended_elsewhere",
    "podless_rises",
    "share_without_pods",
    "too_few_pods",
    "too_many_pods",
    "undrained",
    "unstored_scales",
    "wrong_workloads",
]

Object = dict[str, Any]

_ALL = RELEASES | PREFILL_RELEASES
_POOL_OF = {release: pool for pool, release in _ALL.items()}
_VERSION_OF = {prefill: pool for pool, prefill in PREFILL.items()} | {pool: pool for pool in RELEASES}
"""By pool: the one that requests are sent to, which for prefill is its decode."""


@dataclass(slots=True)
class _World:
    """What is stored at a moment."""

    rollout: Object = field(default_factory=dict)
    replicas: dict[str, int] = field(default_factory=dict)
    pods: dict[str, str] = field(default_factory=dict)
    """Release of each pod that is there, those that are being deleted included."""
    ending: set[str] = field(default_factory=set)
    """Those that are being deleted: what a rise makes comes beside them."""
    served: set[str] = field(default_factory=set)
    """Those that were Ready once: no other pod has requests."""
    autoscaled: dict[str, float] = field(default_factory=dict)
    """Since when a Deployment has an autoscaler."""
    theirs: set[str] = field(default_factory=set)
    """What somebody else scaled up last."""
    theirs_at: dict[str, float] = field(default_factory=dict)
    """When somebody else scaled it up last: what happens in the very moment of a write is heard of after it."""
    left: bool = False
    """Somebody was told that a version that lost keeps its pods."""
    shares: dict[str, int] = field(default_factory=dict)
    without_weight: dict[str, float] = field(default_factory=dict)
    """By pool: since when the route has given it none."""
    busy: dict[str, int | None] = field(default_factory=dict)
    draining: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By pool: to how many replicas it drains, and since when so far."""
    owed: dict[str, int] = field(default_factory=dict)
    """By release: what a stable that gave pods is to have again."""

    def take(self, record: Record) -> None:
        name, after = record.change.name, record.after
        if record.of(kinds.ROLLOUT) and name == "mymodel" and after:
            self.rollout = after
            self._follow_drains(record.seconds)
        elif record.of(DEPLOYMENT) and after:
            number = after["spec"].get("replicas", 1)
            if record.ours:
                self.theirs.discard(name)
            elif number > self.replicas.get(name, number):
                self.theirs.add(name)
                self.theirs_at[name] = record.seconds
            elif number < self.replicas.get(name, number) and not self.status.get("stableScale"):
                self.owed.pop(name, None)  # somebody took what it had again
            self.replicas[name] = number
        elif record.of(kinds.POD):
            release = (after.get("metadata", {}).get("labels") or {}).get("release")
            if release and not name.endswith("-epp-0"):
                self.pods[name] = release
            elif not after:
                self.pods.pop(name, None)
            self.ending.discard(name)
            conditions = (after.get("status") or {}).get("conditions") or []
            if any(one["type"] == "Ready" and one["status"] == "True" for one in conditions):
                self.served.add(name)
            if "deletionTimestamp" in after.get("metadata", {}):
                self.ending.add(name)
        elif record.of(AUTOSCALER):
            scaled = (after or record.before)["spec"]["scaleTargetRef"]["name"]
            self.autoscaled.pop(scaled, None)
            if after:
                self.autoscaled[scaled] = record.seconds
        elif record.of(kinds.EVENT):
            self.left = self.left or after.get("reason") == "ScaleDownLeft"
        elif record.of(kinds.HTTP_ROUTE) and name == ROUTE:
            self._weigh(record)

    def _weigh(self, record: Record) -> None:
        self.shares = {}
        for rule in weights_of(record.after):
            for pool, weight in rule:
                self.shares[pool] = max(weight, self.shares.get(pool, 0))
        for pool in RELEASES:
            if self.shares.get(pool):
                self.without_weight.pop(pool, None)
            else:
                self.without_weight.setdefault(pool, record.seconds)

    def _follow_drains(self, seconds: float) -> None:
        asked = {one["name"]: one["to"] for one in self.status.get("drains") or ()}
        for pool in set(self.draining) - set(asked):
            del self.draining[pool]
        for pool, to in asked.items():
            known, since = self.draining.get(pool, (to + 1, seconds))
            self.draining[pool] = (to, seconds if to < known else since)
        lent, stable = self.status.get("stableScale"), (self.status.get("stable") or {}).get("name")
        self.owed = {
            release: n for release, n in self.owed.items() if _VERSION_OF[_POOL_OF[release]] == stable
        }
        if lent:
            self.owed |= {_ALL[pool]: one["full"] for pool, one in self.lent.items()}

    def unserved(self, release: str) -> set[str]:
        """Pods of a release that were never Ready, and do not end yet."""
        return {name for name, of in self.pods.items() if of == release} - self.served - self.ending

    @property
    def status(self) -> Object:
        return self.rollout.get("status") or {}

    @property
    def lent(self) -> dict[str, Object]:
        """By pool, what the status has of a stable that gives pods: its own workload and its companions'."""
        lent = self.status.get("stableScale")
        return {one["name"]: one for one in (lent, *lent.get("companions", ()))} if lent else {}

    @property
    def capacity(self) -> Object:
        found: Object = self.rollout["spec"]["strategy"]["canary"].get("capacity") or {}
        return found

    def companion(self, pool: str) -> Object:
        """What the status has of prefill, where the pool is the canary's or stable's."""
        listed = (self.status.get("capacity") or {}).get("companions") or ()
        found = (one for one in listed if pool in (one["stable"]["name"], one["canary"]["name"]))
        return next(found, {})

    def answers(self, pool: str) -> bool:
        """Whether the pods of a version may work on something: decode for a client, or prefill for decode."""
        version = _VERSION_OF[pool]
        there = set(map(self.pods.get, self.pods))
        return any(self.busy.get(one, 0) != 0 and _ALL[one] in there for one in (version, PREFILL[version]))

    def taken(self, release: str) -> int:
        """GPUs that all versions take, or are about to, with pods of this kind, prefill or decode; not those that were
        left to an autoscaler with their pods, nor those that one has while the Rollout is deleted: stable gets N."""
        kind = RELEASES if _POOL_OF[release] in RELEASES else PREFILL_RELEASES
        arms = [
            self.status.get("stable"),
            None if self.status.get("aborted") else self.status.get("canary"),
            *(self.status.get("scaleDowns") or ()),
        ]
        names = {arm["name"] for arm in arms if arm}
        versions = {
            _ALL[name] for name in names | {PREFILL.get(name, name) for name in names} if name in _ALL
        }
        # What somebody scaled up, or was left with its pods, counts while it is a version of the Rollout.
        counted = versions if self.left else set(self.replicas) - (self.theirs - versions)
        if self.rollout.get("metadata", {}).get("deletionTimestamp"):
            # Nobody may take these, and nobody comes back for stable's.
            counted -= self.autoscaled.keys() - {release}
        return sum(
            max(number, sum(one == release for one in self.pods.values()))
            for release, number in self.replicas.items()
            if release in counted and _POOL_OF[release] in kind
        )

    def most(self, release: str) -> float:
        """N + maxSurge by the stored status and spec, of prefill by its own N; without maxSurge there is no limit."""
        surge, lent = self.capacity.get("maxSurge"), self.status.get("stableScale") or {}
        if _POOL_OF[release] in PREFILL_RELEASES and lent.get("returning"):
            role = [one for pool, one in self.lent.items() if pool in PREFILL_RELEASES]
            return (role[0]["most"] if role and self.capacity else 0) or math.inf
        if _POOL_OF[release] in PREFILL_RELEASES:
            stable = self.companion(_POOL_OF[release]).get("stableAtStart", 0)
            return math.inf if surge is None else stable + _pods(surge, stable)
        if lent.get("returning"):
            return (
                lent["most"] if self.capacity else 0
            ) or math.inf  # taken out: nobody sets a limit any more
        stable = (self.status.get("capacity") or {}).get("stableAtStart", 0)
        return math.inf if surge is None else stable + _pods(surge, stable)


def _scales(history: History) -> Iterator[tuple[_World, Record, int, int]]:
    """Each scale by the controller: the world just before it, the record, the replicas before and after."""
    world, busy = _World(), list(history.busy)
    for number, record in enumerate(history.records):
        while busy and busy[0][0] <= number:
            _, pool, requests = busy.pop(0)
            world.busy[pool] = requests
        if record.ours and record.of(DEPLOYMENT):
            yield world, record, world.replicas[record.change.name], record.after["spec"]["replicas"]
        world.take(record)


def too_many_pods(run: Run) -> Iterator[str]:
    """GPUs beyond the budget by the controller's doing."""
    for world, record, before, after in _scales(run.history):
        release = record.change.name
        if after <= before:
            continue
        live = sum(one == release for one in world.pods.values())
        ending = sum(world.pods.get(name) == release for name in world.ending)
        taken, most = (
            world.taken(release) - max(before, live) + max(after + ending, live),
            world.most(release),
        )
        if taken > most:
            yield f"{release} scaled to {after} at {record.seconds:g} s: {taken} pods, {most} may be"


def wrong_workloads(run: Run) -> Iterator[str]:
    """Scales of what is not the controller's to scale: stable, and what an autoscaler has."""
    for world, record, before, after in _scales(run.history):
        release, stable = record.change.name, (world.status.get("stable") or {}).get("name")
        if _VERSION_OF[_POOL_OF[release]] == stable and _POOL_OF[release] not in world.lent:
            yield f"stable's {release} scaled from {before} to {after} at {record.seconds:g} s"
        # What appears in the very moment of a write is heard of after it.
        heard = record.seconds - run.history.staleness > world.autoscaled.get(release, math.inf)
        if heard and not run.plan.delivery.dropped:
            yield f"{release}, which an autoscaler has, scaled from {before} to {after} at {record.seconds:g} s"


def unstored_scales(run: Run) -> Iterator[str]:
    """Scales to a number that the stored status did not ask for."""
    for world, record, before, after in _scales(run.history):
        pool = _POOL_OF[record.change.name]
        decided = [one["name"] for one in world.status.get("scaleDowns") or () if one.get("decided")]
        wanted = (world.status.get("capacity") or {}).get("wanted", 0)
        is_canary = (world.status.get("canary") or {}).get("name") == pool
        beside = world.companion(pool)
        may_rise = is_canary and after <= wanted
        may_rise |= (beside.get("canary") or {}).get("name") == pool and after <= beside.get("wanted", 0)
        may_rise |= after <= world.lent.get(pool, {}).get("wanted", -1)
        may_fall = pool in decided or (pool in world.draining and world.draining[pool][0] <= after)
        if (after > before and not may_rise) or (after < before and not may_fall):
            yield f"{pool} scaled from {before} to {after} at {record.seconds:g} s, which is not stored"


def undrained(run: Run) -> Iterator[str]:
    """Pods taken away that have weight, or work before the timeout."""
    for world, record, before, after in _scales(run.history):
        pool = _POOL_OF[record.change.name]
        version = _VERSION_OF[pool]
        if after >= before:
            continue
        lent = world.status.get("stableScale") or {}
        owed = [one["name"] for one in world.status.get("scaleDowns") or ()]
        decided = not (pool in world.draining and world.draining[pool][0] <= after)
        heard = record.seconds > world.theirs_at.get(RELEASES[version], -1.0)
        if pool != version and decided and heard and version in owed and world.replicas[RELEASES[version]]:
            yield f"{pool} scaled down at {record.seconds:g} s, before the pods of {version} that it works for"
        timeout = _seconds(world.capacity.get("drainTimeout", "30m"))
        if lent.get("returning"):
            timeout = lent.get("drainSeconds", 1800)  # no edit makes a return longer
        if pool in world.draining and world.draining[pool][0] <= after:
            asked = record.seconds - world.draining[pool][1]
            # Deletion costs make those go first that never had a request.
            works = before - after > len(world.unserved(record.change.name)) and world.busy.get(pool, 0) != 0
            if works and asked < timeout - 1:  # statuses have whole seconds
                yield f"{pool} scaled down at {record.seconds:g} s, {asked:g} s after it was to drain, while it answers"
            continue
        if world.shares.get(version):
            yield f"{pool} scaled down at {record.seconds:g} s with weight {world.shares[version]}"
            continue
        idle = record.seconds - world.without_weight.get(version, 0.0)
        if world.answers(pool) and idle < timeout:
            yield f"{pool} scaled down at {record.seconds:g} s, {idle:g} s after its weight, while it answers"


def too_few_pods(run: Run) -> Iterator[str]:
    """Pods taken from a version that its share needs, or that minStable keeps."""
    for world, record, before, after in _scales(run.history):
        pool, stable = _POOL_OF[record.change.name], (world.status.get("stableScale") or {}).get("name")
        kind = RELEASES if pool in RELEASES else PREFILL_RELEASES
        lent = next((one for name, one in world.lent.items() if name in kind), None)
        if after >= before or not lent:
            continue
        n, headroom = lent["full"], Fraction(world.capacity.get("headroom", 1)).limit_denominator(1000)
        total = sum(world.shares.values()) or 1
        part, needed = Fraction(world.shares.get(_VERSION_OF[pool], 0), total) - _GRAIN, 0
        if _VERSION_OF[pool] != stable:
            headroom = min(headroom, Fraction(1))  # it may have been edited meanwhile
        else:
            canary = (world.status.get("canary") or {}).get("name", "")
            part = 1 - Fraction(world.shares.get(canary, 0), total) - _GRAIN
            needed, headroom = (
                min(n, _pods(world.capacity.get("minStable", "100%"), n)),
                max(headroom, Fraction(1)),
            )
        needed = max(needed, min(n, math.ceil(part * n * headroom)))
        if after < needed:
            yield f"{pool} scaled from {before} to {after} at {record.seconds:g} s, and {needed} of {n} are to stay"


_GRAIN = Fraction(1, 10_000)
"""Weights are whole hundredths of a percent."""


def _pods(count: int | str, n: int) -> int:
    return math.ceil(Fraction(count.rstrip("%")) * n / 100) if isinstance(count, str) else count


def share_without_pods(run: Run, replay: Replay, seconds: float) -> Fraction:
    """What an aborted canary may keep for now: the share that a stable which gave pods has no Ready ones for."""
    lent = replay.status.get("stableScale") or {}
    if not lent or lent.get("immediate"):
        return Fraction(0)
    shares = [Fraction(1)]
    for one in (lent, *lent.get("companions", ())):
        fewest = min(map(len, ready_pictures(run.history, replay, seconds, one["name"])))
        shares.append(Fraction(10_000 * fewest // one["full"], 10_000))
    return 1 - min(shares)


def _seconds(duration: str) -> float:
    return float(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def podless_rises(run: Run, rises: Iterable[tuple[Replay, Record, Fraction | None]]) -> Iterator[str]:
    """Weight that rises before its pods are Ready."""
    if not run.scenario.capacity:
        return
    for replay, record, raised in rises:
        capacity = replay.canary_field("capacity", None)
        if raised is None or capacity is None:
            continue
        stable = (replay.status.get("capacity") or {}).get("stableAtStart", 0)
        headroom = _headroom(replay.status, capacity)
        needed = max(capacity.get("minReplicas", 1), math.ceil(raised * stable * headroom))
        warm = bool(capacity.get("warmUp")) and not replay.status.get("skipGates")
        most = max(map(len, ready_pictures(run.history, replay, record.seconds, warm=warm)))
        if most < needed:
            yield f"raised to {float(raised):.2%} at {record.seconds:g} s with {most} of {needed} pods"
        for one in (replay.status.get("capacity") or {}).get("companions") or ():
            there, beside = one.get("stableAtStart", 0), 0
            if stable:
                beside = math.ceil(Fraction(needed * there, stable))
            if "minStable" in capacity:  # a walk in moves goes by what each kind carries
                beside = min(beside, math.ceil(raised * there * headroom))
            pool = one["canary"]["name"]
            there = max(map(len, ready_pictures(run.history, replay, record.seconds, pool)))
            if there < beside:
                yield f"raised to {float(raised):.2%} at {record.seconds:g} s with {there} of {beside} pods of {pool}"


def _headroom(status: Object, capacity: Object) -> Fraction:
    """Pods of the canary for each of stable's: on a way back as many as both versions had, whatever the spec says by
    now; where that is more, and no more may be there beside stable's, the spec's own number is enough."""
    own = Fraction(capacity.get("headroom", 1))
    pods = {
        one["name"]: one.get("pods", 0) for one in status.get("history", ()) if one["outcome"] == "Promoted"
    }
    back, now = (pods.get((status.get(arm) or {}).get("name"), 0) for arm in ("canary", "stable"))
    if not (status.get("skipGates") and back and now):
        return own
    return min(own, Fraction(back, now)) if "maxSurge" in capacity else Fraction(back, now)


def _kept_from_requests(history: History) -> Iterator[str]:
    """Pods that are still marked as being warmed up at the end."""
    marked: dict[str, str] = {}
    for record in history.records:
        if record.of(kinds.POD):
            annotations = (record.after.get("metadata") or {}).get("annotations") or {}
            marked[record.change.name] = annotations.get(DRAINING_ANNOTATION, "")
    yield from (f"{name} ends as {mark!r}" for name, mark in marked.items() if mark.endswith("warms it up"))


def _ended_without_prefill(world: _World, stable: str) -> Iterator[str]:
    """A stable version whose prefill went, and losers that keep theirs without decode."""
    for release, number in world.replicas.items():
        pool = _POOL_OF[release]
        decode = RELEASES[_VERSION_OF[pool]]
        if pool in RELEASES or (world.autoscaled or world.left or world.theirs or not world.capacity):
            continue
        if decode == stable and not number:
            yield f"stable's {release} ends with no replicas"
        if decode != stable and number and not world.replicas.get(decode) and not world.capacity.get("to"):
            yield f"{release} ends with {number} replicas, and its decode with none"


def ended_elsewhere(run: Run) -> Iterator[str]:
    """A run that ended, with workloads that are not where they should be then."""
    if run.scenario.capacity and run.converged:
        yield from _kept_from_requests(run.history)
    refused = run.plan.refusal is not None and math.isinf(run.plan.refusal.seconds)
    if not run.scenario.capacity or not run.converged or refused:  # what keeps its weight keeps its pods
        return
    world = _World()
    for record in run.history.records:
        world.take(record)
    status = world.status
    gone = "rollout mymodel" not in run.end
    if status.get("phase") not in ("Healthy", "Aborted") and not gone:
        return
    if (status.get("stableScale") or {}).get("pending"):
        return  # it waits for nodes, and says so
    owed = [] if gone else status.get("scaleDowns") or []
    if owed:
        yield f"still to be scaled down at the end: {owed}"
    stable = RELEASES.get((status.get("stable") or {}).get("name", ""), "")
    if not gone and status.get("stableScale"):
        yield f"stable still to get pods back at the end: {status['stableScale']}"
    if not world.left and world.replicas.get(stable, 0) < world.owed.get(stable, 0):
        yield f"stable's {stable} ends with {world.replicas.get(stable)} of {world.owed[stable]} replicas"
    if not world.replicas.get(stable):
        yield f"stable's {stable} ends with no replicas"
    for release in PREFILL_RELEASES.values():
        if not world.left and world.replicas.get(release, 0) < world.owed.get(release, 0):
            yield f"stable's {release} ends with {world.replicas.get(release)} of {world.owed[release]} replicas"
    yield from _ended_without_prefill(world, stable)
    asked = {RELEASES[one["name"]] for one in status.get("history") or () if one["name"] in RELEASES}
    if world.autoscaled or world.left or not world.capacity:
        return
    for release in sorted(asked - {stable} - world.theirs):
        if world.replicas.get(release, 0) > (world.capacity.get("scaleDown") or {}).get("to", 0):
            yield f"{release} lost, and ends with {world.replicas[release]} replicas"
