"""Whose turn it is to begin an attempt: the line and the places, read from the cache of Rollouts (``engine/turns.py``).

One process decides, one Rollout at a time: between the look at the line and the claim of a place nothing else runs, and
a claim counts from then until its status is stored, or known not to be. A new process lists the Rollouts once more from
the API server before the first begins, since its watch may be behind what its predecessor stored last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

from rollouts.api.parsing import ParsedRollout
from rollouts.api.references import traffic_names
from rollouts.api.scalars import parse_time
from rollouts.carriers import TRAFFIC_KINDS, object_targets
from rollouts.carriers.base import POOL_REF
from rollouts.controller.caches import Caches
from rollouts.controller.gathered import Gathered
from rollouts.controller.indexes import BEGUN, IN_LINE, TURN
from rollouts.controller.refusals import WriteRefused
from rollouts.engine.actions import Plan
from rollouts.engine.observation import TurnView
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.turns import Contender, LimitPlace, LimitScope, concerned, turn_of
from rollouts.engine.versions import Identity
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import ApiUnavailable, Conflict, NotFound, RefusedError, TooManyRequests
from rollouts.objects import kinds
from rollouts.objects.fields import map_of, text_of
from rollouts.runtime.clock import Clock
from rollouts.runtime.fencing import NotLeading
from rollouts.runtime.objects import ObjectKey, key_of, uid_of, version_of

__all__ = ["Turns"]

Object = dict[str, Any]

_NOT_STORED = (RefusedError, Conflict, TooManyRequests, NotLeading, WriteRefused)
"""What says for certain that the status was not stored."""
_WEBHOOK_DOWN = "failed calling webhook"
"""What the API server answers, with 500, where an admission webhook cannot be asked; it asks before it stores."""
_PASSED_OVER = 60.0
"""Seconds for which one whose beginning was refused (a policy on its status, say) does not hold up those behind; and
the longest that the API server works on a request (its ``--request-timeout``)."""
_TRIES = 15.0
"""Seconds for which one goes on trying to begin after an answer was lost: most outages are over by then."""
_LAST = datetime.max.replace(tzinfo=UTC)
"""Of who was not in line yet."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A place of a Rollout whose status is being stored; ``version``: of an object that it may have become."""

    key: ObjectKey
    places: tuple[LimitPlace, ...]
    version: str = ""
    first: float = math.inf
    last: float = math.inf
    """When the answers to the first and to the last try were lost; none was yet while the first is under way."""


@dataclass(frozen=True, slots=True)
class _Line:
    """Who waits, first come first, and who is in progress and where, by UID."""

    passed_over: frozenset[str]
    waiting: tuple[Contender, ...]
    begun: Mapping[str, tuple[ObjectKey, tuple[LimitPlace, ...]]]


class Turns:
    """Answers from the cache. ``on_change`` is called with each Rollout that a change of the line concerns."""

    def __init__(
        self,
        client: KubeClient,
        caches: Caches,
        clock: Clock,
        limits: Mapping[LimitScope, int],
    ) -> None:
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._client = client
        self._caches = caches
        self._limits = limits
        self._clock = clock
        self._claims: dict[str, _Claim] = {}
        self._refused: dict[str, float] = {}
        self._looked = False
        self._read: _Line | None = None
        self._known: tuple[frozenset[ObjectKey], frozenset[ObjectKey]] = (frozenset(), frozenset())
        if limits:
            caches.rollouts.subscribe_index(TURN, self._changed)
            for store in caches.traffic.values():
                store.subscribe(self._forget)  # it may name the pools

    def view(self, parsed: ParsedRollout, rollout: Object, target: Identity | None) -> TurnView | None:
        """What keeps an attempt at the target, which has not begun, from beginning; None where nothing does."""
        if not self._limits:
            return None
        current, since = parsed.status.current, None
        asked = parsed.spec.target.revision if parsed.spec is not None else ""
        if current is not None and current.aborted is None and current.is_at(target, asked):
            since = current.queued_at
        me = self._contender(rollout, since or _LAST)
        return turn_of(me, self._line(), self._taken(me.uid), self._limits)

    def _line(self) -> Sequence[Contender]:
        return self._known_line().waiting

    def _known_line(self) -> _Line:
        """The line, read anew when something of it changed: each look of each that waits asks for it."""
        now = self._clock.monotonic()
        self._refused = {uid: at for uid, at in self._refused.items() if now < at + _PASSED_OVER}
        passed_over = frozenset(self._refused) | self._caches.doomed
        if self._read is None or self._read.passed_over != passed_over:
            store = self._caches.rollouts
            waiting = [self._contender(obj, _queued_at(obj)) for obj in store.by_index(TURN, IN_LINE)]
            begun = {uid_of(obj): (key_of(obj), self._places(obj)) for obj in store.by_index(TURN, BEGUN)}
            line = sorted(one for one in waiting if one.uid not in passed_over)
            self._read = _Line(passed_over, tuple(line), begun)
        return self._read

    def _forget(self, _: object) -> None:
        self._read = None

    def _taken(self, uid: str = "") -> dict[LimitPlace, list[str]]:
        """Who has which place, but for the Rollout of ``uid``."""
        taken: dict[LimitPlace, list[str]] = {}
        found = dict(self._known_line().begun)
        for one, claim in list(self._claims.items()):
            if self._is_settled(one, claim):
                del self._claims[one]
            else:
                found.setdefault(one, (claim.key, claim.places))
        for one, (key, places) in found.items():
            for place in places if one != uid and one not in self._caches.doomed else ():
                taken.setdefault(place, []).append(f"{key.namespace}/{key.name}")
        return taken

    def _is_settled(self, uid: str, claim: _Claim) -> bool:
        """Whether the cache has what became of a write whose answer was lost."""
        present = self._caches.rollouts.get(claim.key)
        if present is None or uid_of(present) != uid:
            return True
        return bool(claim.version) and version_of(present) != claim.version

    # --- claims ---

    def must_look(self, gathered: Gathered, decided: Plan) -> bool:
        """Whether the API server has to be asked what it stored before this plan may be carried out."""
        begins = self._begins(gathered, decided)
        waits = begins or gathered.observation.turn is not None
        return (begins and not self._looked) or (waits and bool(self._doubtful()))

    def holds_off(self, gathered: Gathered, decided: Plan) -> float:
        """Seconds until another try to begin may be made, after the answers to some were lost; 0 for at once.

        While nothing is tried, what is under way arrives or never will: only then the place can be given to others.
        """
        claim, now = self._claims.get(gathered.parsed.uid), self._clock.monotonic()
        if claim is None or not self._begins(gathered, decided) or now < claim.first + _TRIES:
            return 0.0
        return max(0.0, claim.last + _PASSED_OVER - now)

    def _doubtful(self) -> list[tuple[str, _Claim]]:
        """Claims of which nothing was heard for so long that no request can be under way any more."""
        now = self._clock.monotonic()
        return [(uid, one) for uid, one in self._claims.items() if now >= one.last + _PASSED_OVER]

    async def look(self) -> None:
        """Bring the cache up to what the API server has stored by now. Raises KubeError."""
        if not self._looked:
            await self._list()
        for uid, claim in self._doubtful():
            try:
                present = await self._client.get(kinds.ROLLOUT, claim.key.namespace, claim.key.name)
            except NotFound:
                present = {}
            if present:
                self._caches.rollouts.record_write(present)
            if self._claims.get(uid) is claim:
                del self._claims[uid]
                self._refused[uid] = self._clock.monotonic()
        self._tell()

    async def _list(self) -> None:
        for namespace in self._caches.namespaces or (None,):
            token = ""
            while True:
                page = await self._client.list_page(kinds.ROLLOUT, namespace, continue_token=token)
                for obj in page.items:
                    self._caches.rollouts.record_write(obj)
                token = page.continue_token
                if not token:
                    break
        self._looked = True

    @contextmanager
    def claiming(self, gathered: Gathered, decided: Plan) -> Iterator[None]:
        """Around carrying out a plan: a place that it takes is taken for everybody else from now on."""
        if not self._begins(gathered, decided):
            yield
            return
        uid, key = gathered.parsed.uid, key_of(gathered.rollout)
        before = self._claims.get(uid)
        self._claims[uid] = _Claim(key, self._places(gathered.rollout))
        try:
            yield
        except _NOT_STORED as error:
            self._unclaim(uid, before, refused=isinstance(error, RefusedError | WriteRefused))
            raise
        except ApiUnavailable as error:
            if _WEBHOOK_DOWN not in str(error):
                self._doubt(uid, before, gathered)
            else:
                self._unclaim(uid, before, refused=True)
            raise
        except BaseException:
            self._doubt(uid, before, gathered)
            raise
        self._claims.pop(uid, None)

    def _unclaim(self, uid: str, before: _Claim | None, *, refused: bool) -> None:
        """The status was not stored. An earlier try (``before``) may still have been."""
        if before is not None:
            self._claims[uid] = before
        else:
            del self._claims[uid]
        if refused:
            self._refused[uid] = self._clock.monotonic()
            self._tell()

    def _doubt(self, uid: str, before: _Claim | None, gathered: Gathered) -> None:
        """Whether the status was stored is not known."""
        now, version = self._clock.monotonic(), str(gathered.rollout["metadata"].get("resourceVersion", ""))
        key, places = key_of(gathered.rollout), self._places(gathered.rollout)
        self._claims[uid] = replace(before, last=now) if before else _Claim(key, places, version, now, now)

    def _begins(self, gathered: Gathered, decided: Plan) -> bool:
        before, after = gathered.parsed.status, decided.status
        return (
            bool(self._limits)
            and _in_progress(after)
            and (not _in_progress(before) or after.attempt != before.attempt)
        )

    # --- the line ---

    def _changed(self, _value: object) -> None:
        """Somebody began, ended, came into the line or left it: whose turn it is by now looks again."""
        self._forget(_value)
        store = self._caches.rollouts
        known = store.keys_by_index(TURN, BEGUN), store.keys_by_index(TURN, IN_LINE)
        if known == self._known:
            return
        self._known = known
        self._tell()

    def _tell(self) -> None:
        for one in concerned(self._line(), self._taken(), self._limits):
            namespace, _, name = one.name.partition("/")
            self.on_change(ObjectKey(namespace, name))

    def _contender(self, obj: Object, since: datetime) -> Contender:
        key = key_of(obj)
        return Contender(since, uid_of(obj), f"{key.namespace}/{key.name}", self._places(obj))

    def _places(self, obj: Object) -> tuple[LimitPlace, ...]:
        """Where the Rollout is counted, narrowest first, as far as there are limits."""
        namespace, found = key_of(obj).namespace, []
        if LimitScope.POOL in self._limits:
            found += [LimitPlace(LimitScope.POOL, f"{namespace}/{pool}") for pool in sorted(self._pools(obj))]
        if LimitScope.NAMESPACE in self._limits:
            found.append(LimitPlace(LimitScope.NAMESPACE, namespace))
        if LimitScope.CONTROLLER in self._limits:
            found.append(LimitPlace(LimitScope.CONTROLLER))
        return tuple(found)

    def _pools(self, obj: Object) -> frozenset[str]:
        """Names of the pools between which, or on which, the Rollout moves requests."""
        spec, status = map_of(obj.get("spec")), map_of(obj.get("status"))
        arms = [map_of(status.get("stable")), map_of(status.get("canary"))]
        target, own = map_of(spec.get("target")), object_targets()
        named = [map_of(target.get(kind.field)) for kind in own]
        named += [arm for arm in arms if arm.get("kind") in {kind.kind for kind in own}]
        found = {text_of(one.get("name")) for one in named} | set(self._split_pools(obj))
        return frozenset(found - {""})

    def _split_pools(self, obj: Object) -> Iterator[str]:
        """Pools of the adapters that the Rollout's model object splits, by the spec and by the object."""
        named, namespace = set(traffic_names(obj)), key_of(obj).namespace
        for kind in TRAFFIC_KINDS:
            if POOL_REF not in kind.indexes:
                continue
            yield from kind.pools(map_of(map_of(obj.get("spec")).get("traffic")))
            keys = [ObjectKey(namespace, name) for split, name in named if split == kind.kind]
            for resource in kind.resources:
                for traffic in filter(None, map(self._caches.traffic[resource].get, keys)):
                    places = cast("list[tuple[str, str]]", kind.indexes[POOL_REF](traffic))
                    yield from (pool for _, pool in places)


def _queued_at(obj: Object) -> datetime:
    """By the stored status; one that cannot be read comes last."""
    try:
        return parse_time(map_of(obj.get("status")).get("queuedAt"))
    except (ValueError, TypeError, AttributeError):
        return _LAST


def _in_progress(status: RolloutStatus) -> bool:
    return status.running is not None
