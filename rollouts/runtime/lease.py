"""Leader election on a Lease object: the pure part.

The record is that of ``coordination.k8s.io/v1`` and the protocol that of client-go's leaderelection, with
these rules that decide whether two leaders can ever write at the same time:

- time is monotonic; the wall clock is stamped into the record for people and read by nobody;
- our lease counts from the moment the winning request was *sent*: the server cannot have stored it earlier;
- another's lease counts from the moment *we* saw the record change, for the duration that the record names;
- we stop writing at ``renew_deadline``, the others wait for ``duration``: between the two lies the time that
  a request already sent may need to arrive;
- every request carries the resourceVersion it was decided on, so two candidates never both win;
- whatever goes wrong with a request is a renewal that failed;
- a missing Lease may be made again by its leader at once. Others make one that is held by nobody yet
  (``VACANT``) and wait for a whole duration, for the leader of a Lease that someone deleted does not know it
  yet and still writes. It is the record that waits, not the candidate: looking at absence from time to time
  would miss a leader whose Lease was made and deleted in between.

An identity belongs to one process: a restarted one must not mistake its predecessor's lease for its own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from rollouts.kube.client import Resource
from rollouts.runtime.clock import Monotonic
from rollouts.runtime.objects import Object, version_of

__all__ = [
    "LEASES",
    "VACANT",
    "LeaseAction",
    "LeaseConfig",
    "LeaseMachine",
    "LeaseRecord",
    "LeaseStep",
    "Role",
]

LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")

# Holder of a Lease that a candidate has made in place of a missing one. Its leader, if there is one, may take
# it back at once; everybody else when its duration is over.
VACANT = "(vacant)"

# A record that claims to hold for longer is not believed: it would lock every candidate out for good.
MAX_DURATION = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseConfig:
    """Name of the Lease and its times in seconds. All candidates should agree on ``duration``.

    ``duration``: a silent leader is replaced after it. ``renew_deadline``: without a renewal for so long the
    leader stops. ``renew_period``: between renewals that succeed; each is a write to etcd for as long as the
    controller lives, so it is as long as one hung renewal allows: after it, the request's timeout and the pause
    there is still time for another. ``retry_period``: twice the longest pause after an error. ``poll_period``:
    between a candidate's looks at the record, hence about how long a hand-over takes.
    """

    namespace: str
    name: str
    duration: int = 15
    renew_deadline: float = 10.0
    renew_period: float = 3.0
    retry_period: float = 2.0
    poll_period: float = 0.5
    request_timeout: float = 4.0
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Written with the record by whoever holds it."""

    def __post_init__(self) -> None:
        if not min(self.renew_period, self.retry_period, self.poll_period, self.request_timeout) > 0:
            raise ValueError("renew_period, retry_period, poll_period and request_timeout must be positive")
        if not self.renew_deadline < self.duration <= MAX_DURATION:
            raise ValueError(
                f"lease times must satisfy renew_deadline ({self.renew_deadline}) < duration "
                f"({self.duration}) <= {MAX_DURATION}"
            )
        if not self.renew_period + self.request_timeout + self.retry_period / 2 < self.renew_deadline:
            raise ValueError(
                f"one renewal that hangs must leave time for another: renew_period ({self.renew_period}) + "
                f"request_timeout ({self.request_timeout}) + half of retry_period ({self.retry_period}) must be "
                f"below renew_deadline ({self.renew_deadline})"
            )

    @property
    def settle(self) -> float:
        """Seconds between the end of our right to write and the end of the lease."""
        return self.duration - self.renew_deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """What counts of a Lease's spec. ``holder`` is empty when the lease is free."""

    holder: str
    duration: float
    acquired: str
    renewed: str
    transitions: int

    @staticmethod
    def parse(obj: Mapping[str, Any], *, default_duration: float) -> LeaseRecord:
        """Read a Lease of any content. What is no valid value is replaced by the cautious one."""
        spec = obj.get("spec")
        spec = spec if isinstance(spec, Mapping) else {}
        holder = spec.get("holderIdentity") or ""
        duration = spec.get("leaseDurationSeconds")
        transitions = spec.get("leaseTransitions")
        if type(duration) is not int or duration <= 0:
            duration = default_duration
        return LeaseRecord(
            holder=holder if isinstance(holder, str) else "(unreadable)",
            duration=min(float(duration), MAX_DURATION),
            acquired=str(spec.get("acquireTime") or ""),
            renewed=str(spec.get("renewTime") or ""),
            transitions=transitions if type(transitions) is int and transitions >= 0 else 0,
        )


class Role(Enum):
    """What this process is. LOST is final: a process leads at most once."""

    CANDIDATE = "candidate"
    LEADER = "leader"
    LOST = "lost"


class LeaseAction(Enum):
    """What the driver is to do."""

    WAIT = "wait"
    READ = "read"
    CREATE = "create"
    UPDATE = "update"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseStep:
    """The next thing to do. ``seconds``: how long to wait, or the time allowed for the request."""

    action: LeaseAction
    seconds: float = 0.0
    body: Object | None = None


class LeaseMachine:
    """One candidacy, from the first look at the record to the loss of the lease."""

    def __init__(self, config: LeaseConfig, identity: str, rng: random.Random) -> None:
        if not identity:
            raise ValueError("an empty identity means that the lease is free; give each process its own")
        self.role = Role.CANDIDATE
        self.epoch = -1
        self.lost_because = ""
        self._config = config
        self._identity = identity
        self._rng = rng
        self._record: LeaseRecord | None = None
        self._version = ""
        self._observed_at = Monotonic(0.0)
        self._known_duration = float(config.duration)
        self._renewed_at = Monotonic(0.0)
        self._next_at = Monotonic(0.0)
        self._intent = LeaseAction.READ
        self._acquired = ""

    def write_until(self) -> Monotonic:
        """When our right to write ends, unless the lease is renewed. Meaningful for a leader only."""
        return Monotonic(self._renewed_at + self._config.renew_deadline)

    def held_until(self) -> Monotonic:
        """When the others may take the lease. Meaningful for a (former) leader only."""
        return Monotonic(self._renewed_at + self._config.duration)

    def next(self, now: Monotonic, wall: datetime) -> LeaseStep:
        """What to do now; ``wall`` is stamped into records."""
        if self.role is Role.LEADER and now >= self.write_until():
            self._lose(f"not renewed for {self._config.renew_deadline} seconds")
        if self.role is Role.LOST:
            return LeaseStep(action=LeaseAction.STOP)
        if now < self._next_at:
            return LeaseStep(action=LeaseAction.WAIT, seconds=self._next_at - now)
        allowed = self._config.request_timeout
        if self.role is Role.LEADER:
            allowed = min(allowed, self.write_until() - now)
        if self._intent is LeaseAction.READ:
            return LeaseStep(action=LeaseAction.READ, seconds=allowed)
        body = self._body(wall, metadata=self._precondition())
        return LeaseStep(action=self._intent, seconds=allowed, body=body)

    def on_read(self, obj: Object, now: Monotonic) -> None:
        """The Lease as it is."""
        self._version = version_of(obj)
        record = LeaseRecord.parse(obj, default_duration=self._config.duration)
        if record != self._record:
            self._record = record
            self._observed_at = now
            self._known_duration = max(float(self._config.duration), record.duration)
        if self.role is Role.LEADER:
            if record.holder not in (self._identity, VACANT):
                self._lose(f"the lease is held by {record.holder or 'nobody'!r:.200}")
            self._intent = LeaseAction.UPDATE
        elif self._may_take(record, now):
            self._intent = LeaseAction.UPDATE
        else:
            self._poll_at(now)

    def on_missing(self, now: Monotonic) -> None:
        """There is no Lease of that name: answer to a read or an update. Make one."""
        self._intent = LeaseAction.CREATE
        self._next_at = now

    def on_written(self, obj: Object, sent: Monotonic, now: Monotonic) -> None:
        """Our create or update, sent at ``sent``, was stored as ``obj``."""
        record = LeaseRecord.parse(obj, default_duration=self._config.duration)
        if record.holder != self._identity:
            self.on_read(obj, now)
            return
        self._record, self._observed_at, self._version = record, now, version_of(obj)
        self._renewed_at = self._effective_from(sent, now)
        if self.role is Role.CANDIDATE and now < self.write_until():
            self.role = Role.LEADER
            self.epoch = record.transitions
        self._intent = LeaseAction.UPDATE
        self._next_at = Monotonic(sent + self._config.renew_period)

    def on_conflict(self, now: Monotonic) -> None:
        """Somebody else wrote first: look again."""
        self._intent = LeaseAction.READ
        self._next_at = now

    def on_failure(self, now: Monotonic, *, at_least: float = 0.0) -> None:
        """The request failed, or nobody knows: look again after a pause."""
        self._intent = LeaseAction.READ
        pause = max(at_least, self._config.retry_period * (0.25 + 0.25 * self._rng.random()))
        self._next_at = Monotonic(now + pause)
        if self.role is Role.LEADER:
            self._next_at = min(self._next_at, self.write_until())

    def is_ours(self, obj: Object) -> bool:
        """Whether the Lease names us as its holder."""
        record = LeaseRecord.parse(obj, default_duration=self._config.duration)
        return record.holder == self._identity

    def release_body(self, wall: datetime, version: str = "") -> Object:
        """The update that frees the lease: no holder, and a duration that keeps nobody waiting.

        ``version`` is that of a Lease just read, by default the last one known here.
        """
        body = self._body(wall, metadata={"resourceVersion": version or self._version})
        body["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        return body

    def _effective_from(self, sent: Monotonic, now: Monotonic) -> Monotonic:
        """From when our lease counts: from sending, since the record may have been seen right after that."""
        return sent

    def _may_take(self, record: LeaseRecord, now: Monotonic) -> bool:
        if record.holder in ("", self._identity):
            return True
        return now >= self._observed_at + record.duration

    def _makes_vacant(self) -> bool:
        return self._intent is LeaseAction.CREATE and self.role is Role.CANDIDATE

    def _poll_at(self, now: Monotonic) -> None:
        self._intent = LeaseAction.READ
        self._next_at = Monotonic(now + self._config.poll_period * (0.8 + 0.2 * self._rng.random()))

    def _lose(self, reason: str) -> None:
        self.role = Role.LOST
        self.lost_because = reason

    def _precondition(self) -> dict[str, str]:
        if self._intent is LeaseAction.CREATE:
            return {"name": self._config.name, "namespace": self._config.namespace}
        return {"resourceVersion": self._version}

    def _body(self, wall: datetime, *, metadata: dict[str, str]) -> Object:
        stamp = wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if self.role is Role.LEADER:
            transitions = self.epoch
        else:
            transitions = self._record.transitions + 1 if self._record else 0
            self._acquired = stamp
        vacant = self._makes_vacant()
        said = (
            {"annotations": dict(self._config.annotations)} if self._config.annotations and not vacant else {}
        )
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {**metadata, **said},
            "spec": {
                "holderIdentity": VACANT if vacant else self._identity,
                "leaseDurationSeconds": int(self._known_duration) if vacant else self._config.duration,
                "acquireTime": self._acquired,
                "renewTime": stamp,
                "leaseTransitions": transitions,
            },
        }
