"""Running one fault plan: the cluster, one controller process after the other, and a script of what people do."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rollouts.carriers import TRAFFIC_KINDS
from rollouts.engine.attempt import ProbeVerdict
from rollouts.lab.memoryapi.history import Change
from rollouts.objects import kinds
from rollouts.objects.fields import map_of
from rollouts.objects.workloads import AUTOSCALER
from tests.kit.adapters import FakeAdapters
from tests.kit.clock import VirtualClock, virtual_time
from tests.kit.faults.cluster import CONTROLLER, Cluster
from tests.kit.faults.deployments import DEPLOYMENT
from tests.kit.faults.endstate import CARRIERS, end_state, is_carrier, route_weights, weights_of
from tests.kit.faults.groups import PARTS, Groups
from tests.kit.faults.history import AdapterCall, History, Record
from tests.kit.faults.hostile import open_schema, plant
from tests.kit.faults.objects import Carrier
from tests.kit.faults.process import Assembler, Process
from tests.kit.faults.replicas import Mood
from tests.kit.faults.source import Answer, ScriptedSource
from tests.kit.faults.transport import Crash, Delivery, FaultyClient, Feed, WriteFault

__all__ = [
    "Act",
    "Condition",
    "Disturbance",
    "FaultPlan",
    "Move",
    "Refusal",
    "Run",
    "Scenario",
    "Simulation",
    "simulate",
]

Object = dict[str, Any]
Act = Callable[["Simulation"], None]
Condition = Callable[["Simulation"], bool]

HORIZON = 7200.0
"""Virtual seconds after which a run that is not at rest has not converged."""
RESYNC = 300.0
QUIET_RESYNCS = 3
LINGER = 45.0
"""Seconds that the goal must have held before the run counts as at rest: longer than any recheck."""
STILL = 700.0
"""Seconds without a write to Rollouts and routes after which a disturbed run rests short of its goal: longer than
every deadline and patience of the scenarios."""
RESTART = 2.0
"""Seconds from a crash to the next process: a lease that was handed over."""
MAX_RECONCILES = 4000
_MODELS = (kinds.INFERENCE_MODEL.plural, kinds.REWRITE_X.plural)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One thing that happens once ``when`` holds, ``after`` seconds later; moves follow one another."""

    when: Condition
    act: Act
    after: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A workload: objects at the start, what people do, and when it has reached its end."""

    name: str
    setup: Callable[[Cluster], None]
    moves: tuple[Move, ...]
    goal: Condition
    core: bool = False
    """Meets every class of faults; the others meet the classes that depend on their own writes."""
    measured: bool = False
    """Has analysis from the start."""
    adapters: bool = False
    """Rolls adapters on the pods of one pool, not pools."""
    variants: bool = False
    """Rolls variants of the pods of one pool."""
    services: bool = False
    """Rolls objects that are parts of one traffic object, as LLMInferenceServices of a group of KServe."""
    carrier: Carrier = Carrier.MODEL
    """What carries the adapters' weights."""
    counted: bool = False
    """Turns on what one process counted before a rise: meets no faults, since a crash ends elsewhere, rightly."""
    edited: bool = False
    """Meets the class of edits, and that one alone."""
    answer_seconds: float = 0.0
    """What the metric source takes for an answer."""
    reshape: Callable[[Object], Object] | None = None
    """What is changed of every CRD before it is installed."""
    capacity: bool = False
    """Deployments make the pods, and the controller may scale them."""
    stride: int = 1
    """Enumerators meet each ``stride``-th write and event. Crashes before and after each second write still meet
    every gap between two writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """Something from outside, right after the controller's ``after_write``-th write."""

    after_write: int
    act: Act
    undo: Act | None = None
    seconds: float = 0.0
    """When ``undo`` happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """From write ``start`` on, for ``seconds``, every request but each ``spare``-th fails."""

    start: int
    fault: WriteFault
    seconds: float
    spare: int = 10
    reads: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """From the controller's ``start``-th request on that would change a traffic object, all of those are refused.

    ``seconds``: for how long; 0 refuses the one request, infinity all of them. ``only``: those of one object's name.
    """

    fault: WriteFault
    start: int
    seconds: float
    only: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """One way to disturb a scenario."""

    name: str
    writes: Mapping[int, WriteFault] = field(default_factory=dict)
    storm: Storm | None = None
    refusal: Refusal | None = None
    lag: int = 0
    """Watch events by which the cache of a restarted process lags behind, for ``catch_up`` seconds."""
    catch_up: float = 3.0
    delivery: Delivery = field(default_factory=Delivery)
    disturbances: tuple[Disturbance, ...] = ()
    hostile: tuple[str, ...] = ()
    """Objects of ``hostile.HOSTILE`` that are stored beside the scenario's own."""
    moves: tuple[Move, ...] = ()
    """What happens in place of the scenario's own moves; the goal is then to be at rest."""
    blocked: str = ""
    """The one reason for which the way back may stay open, in the words of the status; empty for none."""
    exact: bool = True
    """Whether the end state and the weights written must equal those of the clean run."""


@dataclass(slots=True)
class Run:
    """What a run leaves behind."""

    scenario: Scenario
    plan: FaultPlan
    history: History
    converged: bool
    end: Mapping[str, Any]
    weights: tuple[Any, ...]
    """Route weights in the order of the controller's writes."""
    writes: int
    events: int


CLEAN = FaultPlan(name="clean")


def _named(status: Any) -> set[str]:
    """The arms that a Rollout's status names; whoever scribbles on it may leave anything there."""
    arms = [status.get(role) for role in ("stable", "canary")] if isinstance(status, dict) else []
    return {str(arm["name"]) for arm in arms if isinstance(arm, dict) and "name" in arm}


def _decides(change: Change) -> bool:
    """Whether the write says more than what is being measured."""
    if change.plural in (kinds.ANALYSIS_RUN.plural, kinds.EVENT.plural):
        return False
    if change.plural != kinds.ROLLOUT.plural or change.previous is None:
        return True
    return _less_measured(change.obj) != _less_measured(change.previous)


def _less_measured(rollout: Object) -> Object:
    meta, kept = rollout["metadata"], rollout.get("status")
    if isinstance(kept, dict):
        kept = {key: value for key, value in kept.items() if key != "analysis"}
        kept["weight"] = {
            key: value for key, value in map_of(kept.get("weight")).items() if key != "observed"
        }
    return {"spec": rollout.get("spec"), "status": kept, "finalizers": meta.get("finalizers")}


@functools.cache
def _shape(
    carrier: Carrier, reshape: Callable[[Object], Object] | None, hostile: bool
) -> Callable[[Object], Object]:
    """What is changed of every CRD; the same function for the same changes, for clusters are kept by it."""

    def shaped(crd: Object) -> Object:
        crd = carrier.reshape(crd)
        if reshape is not None:
            crd = reshape(crd)
        return open_schema(crd) if hostile else crd

    return shaped


class Simulation:
    """The parts of one run; scenario moves and disturbances act on it."""

    def __init__(self, scenario: Scenario, plan: FaultPlan, assembler: Assembler) -> None:
        self.scenario = scenario
        self.plan = plan
        self.clock = VirtualClock()
        reshape = _shape(scenario.carrier, scenario.reshape, bool(plan.hostile))
        self.cluster = Cluster(self.clock, reshape=reshape)
        self.history = History(staleness=plan.delivery.staleness + (plan.catch_up if plan.lag else 0.0))
        self.client = FaultyClient(self.cluster.api, self.clock, self.history)
        self.client.choose = self._choose
        self.client.choose_event = self._choose_event
        self.client.choose_read = self._choose_read
        self.source = ScriptedSource(self.clock, takes=scenario.answer_seconds)
        self.feed = Feed(self.cluster.api, self.clock, plan.delivery)
        self.epoch = 0
        self.process: Process | None = None
        self.move = 0
        self._assembler = assembler
        self.clients = assembler.clients
        self.clients.replicas.on_change = self._note_astray
        assembler.adapters.on_call = self._called
        self._start_at: float = 0.0
        self._move_due: float | None = None
        self._next_resync = RESYNC
        self._storm_since: float | None = None
        self._refused_since: float | None = None
        self._traffic_writes = 0
        self._requests = 0
        self._last_decision = 0.0
        self._moves = plan.moves or scenario.moves
        self._open = list(plan.disturbances)
        self._groups = Groups()
        self._undo: list[tuple[float, Callable[[Simulation], None]]] = []

    # --- what moves and goals look at ---

    @property
    def status(self) -> Object:
        """Status of the Rollout ``mymodel``; empty when it is gone."""
        rollout = self.cluster.get(kinds.ROLLOUT, "mymodel")
        found: Object = (rollout or {}).get("status") or {}
        return found

    def set_busy(self, pool: str, requests: int | None) -> None:
        """From now on the pool's pods say that they answer so many requests; None: they do not say."""
        self._assembler.in_flight.counts[pool] = requests
        self.history.busy.append((len(self.history.records), pool, requests))

    @property
    def adapters(self) -> FakeAdapters:
        """What the pods serve; scenarios change it."""
        return self._assembler.adapters

    def answer_probes(self, verdict: ProbeVerdict | None) -> None:
        """From now on probes of the path come to this; whoever waits for one looks again."""
        self._assembler.probes.verdict = verdict
        if self.process is not None:
            self.process.enqueue_all()

    def note_adapters(self) -> None:
        """The pods' adapters changed: followers look again."""
        for key in self.adapters.followers:
            self.adapters.on_change(key)

    def say(self, answer: Answer) -> None:
        """From now on the metric source says this; the history knows since when it says nothing useful."""
        self.source.answer = answer
        self.history.answers.append((len(self.history.records), answer, self.source.healthy))

    # --- the run ---

    async def run(self) -> Run:
        """Run to rest or to the horizon, then watch that nothing is written any more."""
        self.cluster.api.observers.append(self._record)
        self.feed.watch(self.watched())
        self.scenario.setup(self.cluster)
        for number, name in enumerate(self.plan.hostile):
            plant(self.cluster, name, number)
        self.cluster.react()
        self.feed.begin()
        self._boot(0, 0.0)
        converged = await self._until_rest()
        if converged:
            await self._stay_quiet()
        return Run(
            scenario=self.scenario,
            plan=self.plan,
            history=self.history,
            converged=converged,
            end=end_state(self.cluster) | self._loaded(),
            weights=route_weights(self.history),
            writes=self.client.writes,
            events=self.feed.events,
        )

    def _loaded(self) -> dict[str, list[str]]:
        """Adapters loaded at run time, by pod."""
        return {f"pod {pod}": sorted(names) for pod, names in self.adapters.loaded.items() if names}

    def _held(self) -> bool:
        return self.status.get("phase") == "Paused"

    @staticmethod
    def watched() -> dict[Any, Any]:
        """The kinds of which a process is told."""
        watched = (
            kinds.ROLLOUT,
            kinds.ANALYSIS_RUN,
            kinds.ANALYSIS_TEMPLATE,
            kinds.CLUSTER_ANALYSIS_TEMPLATE,
            kinds.ROLLOUT_STRATEGY,
            kinds.CLUSTER_ROLLOUT_STRATEGY,
            kinds.ROLLOUT_FREEZE,
            kinds.HTTP_ROUTE,
            *kinds.POOLS,
            kinds.POD,
            kinds.SERVICE,
            kinds.JOB,
            kinds.INFERENCE_MODEL,
            *kinds.REWRITES,
            kinds.POOL_SPLIT,
            DEPLOYMENT,
            AUTOSCALER,
        )
        return dict.fromkeys((*watched, *(one for kind in TRAFFIC_KINDS for one in kind.resources)))

    def _record(self, change: Change) -> None:
        seconds = self.clock.monotonic() if self.epoch else 0.0
        change = self._groups.take(change)
        record = Record(
            change=change,
            epoch=self.epoch,
            seconds=seconds,
            now=self.clock.now(),
            contents=self._contents(change),
            served=self.clients.served(seconds),
        )
        self.history.records.append(record)
        if is_carrier(record):
            self.clients.take(record)
            self._note_astray()
        decides = _decides(change)
        if decides:
            self._last_decision = seconds
        # While a person is waited for, runs go on measuring; everything else is still.
        late = self.history.quiet_from is not None and change.manager == CONTROLLER
        if late and (decides or not self._held()):
            self.history.problems.append(f"written at rest: {change.plural} {change.name}")

    def befall(self, pod: str, mood: Mood | None) -> None:
        """A replica of the picker does otherwise, joins, or leaves (None); whoever asks replicas looks again."""
        self.clients.befall(self.clock.monotonic(), pod, mood)
        if self.process is not None:
            self.process.enqueue_all()

    def _note_astray(self) -> None:
        astray, known = self.clients.replicas.astray(), self.history.astray
        if astray != (known[-1][2] if known else {}):
            known.append((len(self.history.records), self.clock.monotonic(), astray))

    def _contents(self, change: Change) -> dict[str, dict[str, str]]:
        """By adapter that a model object or a Rollout's status names, what pods have under that name."""
        if change.plural in _MODELS:
            names = {name for rule in weights_of(change.obj) for name, _ in rule}
        elif change.plural == kinds.ROLLOUT.plural and self.scenario.adapters:
            names = _named(change.obj.get("status"))
        else:
            return {}
        pods = [pod["metadata"]["name"] for pod in self.cluster.all(kinds.POD)]
        return {
            name: {pod: self.adapters.root(pod, name) for pod in pods if self.adapters.serves(pod, name)}
            for name in names
        }

    def _called(self, what: str, pod: str, adapter: str) -> None:
        call = AdapterCall(
            what=what,
            pod=pod,
            adapter=adapter,
            root=self.adapters.root(pod, adapter),
            in_flight=adapter in self.adapters.in_flight[pod],
            records=len(self.history.records),
            seconds=self.clock.monotonic(),
            now=self.clock.now(),
        )
        self.history.calls.append(call)

    def _boot(self, lag: int, catch_up: float) -> None:
        self.epoch += 1
        self.process = Process(
            self.client,
            self.clock,
            self.feed,
            self.source,
            self.history,
            self._assembler,
            lag=lag,
            catch_up=catch_up,
            capacity_kinds=(DEPLOYMENT.kind,) if self.scenario.capacity else (),
        )

    async def _until_rest(self) -> bool:
        rested_since: float | None = None
        reconciles = 0
        while self.clock.monotonic() < HORIZON and reconciles < MAX_RECONCILES:
            if await self._round():
                reconciles += 1
                continue
            if self._at_rest_elsewhere():
                return True
            if self._finished():
                if rested_since is None:
                    rested_since = self.clock.monotonic()
                if self.clock.monotonic() - rested_since >= self._linger():
                    return True
            else:
                rested_since = None
            await self._pass_time(LINGER)
        if reconciles >= MAX_RECONCILES:
            self.history.problems.append(f"busy loop: {reconciles} reconciles")
        return False

    def _finished(self) -> bool:
        idle = not self._undo and self.move == len(self._moves) and self._storm_over()
        return idle and not self.plan.moves and self.scenario.goal(self)

    def _linger(self) -> float:
        """What was never delivered is only healed by the next list."""
        return RESYNC + LINGER if self.plan.delivery.dropped else LINGER

    def _at_rest_elsewhere(self) -> bool:
        """Disturbed, a run may end elsewhere (aborted, held for a person); but it must end."""
        still = self.clock.monotonic() - self._last_decision >= STILL
        return not self.plan.exact and still and not self._undo and self._storm_over()

    async def _stay_quiet(self) -> None:
        self.history.quiet_from = self.clock.monotonic()
        end = self._next_resync + QUIET_RESYNCS * RESYNC
        reconciles = 0
        while self.clock.monotonic() < end and reconciles < MAX_RECONCILES:
            if await self._round():
                reconciles += 1
            else:
                await self._pass_time(end - self.clock.monotonic())

    async def _round(self) -> bool:
        """Whatever can happen now; True when a key was reconciled or something moved."""
        if self.process is None and self.clock.monotonic() >= self._start_at:
            self._boot(self.plan.lag, self.plan.catch_up)
        self.cluster.react()
        self.feed.deliver()
        self._disturb()
        if self._advance_script():
            return True
        if self.clock.monotonic() >= self._next_resync:
            self._next_resync += RESYNC
            self.feed.relist()
            if self.process is not None:
                self.process.enqueue_all()
        if self.process is None:
            return False
        try:
            return await self.process.reconcile_one()
        except Crash:
            self.crash()
            return True

    def crash(self) -> None:
        """The process is gone; another one starts two seconds later, with nothing in memory."""
        self.process = None
        self.feed.disconnect()
        self._start_at = self.clock.monotonic() + RESTART

    async def _pass_time(self, most: float) -> None:
        now = self.clock.monotonic()
        moments = [now + most, self._next_resync]
        if self.process is not None:
            moments.append(self.process.next_due())
        else:
            moments.append(self._start_at)
        moments += [due for due in (self.feed.next_due(), self._move_due) if due is not None]
        moments += [due for due, _ in self._undo]
        if self.cluster.deployments is not None:
            moments += [due for due in (self.cluster.deployments.next_due(),) if due is not None]
        # Statuses hold whole seconds: the fraction of a moment never decides anything but an order.
        wait = max(min(moments) - now, 0.001)
        await self.clock.sleep(math.ceil(wait * 1000) / 1000)

    def _advance_script(self) -> bool:
        moves = self._moves
        if self.move >= len(moves):
            return False
        move, now = moves[self.move], self.clock.monotonic()
        if self._move_due is None:
            if not move.when(self):
                return False
            self._move_due = now + move.after
        if now < self._move_due:
            return False
        self._move_due = None
        self.move += 1
        move.act(self)
        return True

    # --- faults ---

    def _disturb(self) -> None:
        now = self.clock.monotonic()
        for item in list(self._open):
            if self.client.writes > item.after_write:
                self._open.remove(item)
                item.act(self)
                if item.undo is not None:
                    self._undo.append((now + item.seconds, item.undo))
        for due, undo in list(self._undo):
            if now >= due:
                self._undo.remove((due, undo))
                self._last_decision = now  # what was held by it goes on from here
                undo(self)

    def _choose(self, number: int, seconds: float, resource: Any) -> WriteFault | None:
        found = self.plan.writes.get(number) or self._refusal(seconds, resource)
        return found if found is not None else self._storm(seconds)

    def _refusal(self, seconds: float, resource: Any) -> WriteFault | None:
        refusal = self.plan.refusal
        # A probe of the rewrite's dialect is a write of another name.
        name = self.history.requests[-1].name
        part = any(resource == one for one, _ in PARTS)
        if refusal is None or not (part or (resource, name) in CARRIERS):
            return None
        number, self._traffic_writes = self._traffic_writes, self._traffic_writes + 1
        if number < refusal.start or (refusal.only and name != refusal.only):
            return None
        if self._refused_since is None:
            self._refused_since = seconds
        elif seconds - self._refused_since >= refusal.seconds:
            return None
        return refusal.fault

    def _choose_event(self, number: int, seconds: float, resource: Any) -> WriteFault | None:
        return self._storm(seconds)

    def _choose_read(self, number: int, seconds: float, resource: Any) -> WriteFault | None:
        storm = self.plan.storm
        fault = self._storm(seconds) if storm is not None and storm.reads else None
        return None if fault is WriteFault.CONFLICT else fault

    def _storm(self, seconds: float) -> WriteFault | None:
        storm = self.plan.storm
        if storm is None or self.client.writes < storm.start:
            return None
        if self._storm_since is None:
            self._storm_since = seconds
        if seconds - self._storm_since >= storm.seconds:
            return None
        self._requests += 1
        return None if self._requests % storm.spare == 0 else storm.fault

    def _storm_over(self) -> bool:
        refusal = self.plan.refusal
        if refusal is not None and self._refused_since is not None:
            for_ever = math.isinf(refusal.seconds)
            return for_ever or self.clock.monotonic() - self._refused_since >= refusal.seconds
        storm = self.plan.storm
        if storm is None or self._storm_since is None:
            return True
        return self.clock.monotonic() - self._storm_since >= storm.seconds


def simulate(scenario: Scenario, plan: FaultPlan = CLEAN, assembler: Assembler | None = None) -> Run:
    """Run one plan in virtual time."""
    with virtual_time() as loop:

        async def whole() -> Run:
            return await Simulation(scenario, plan, assembler or Assembler()).run()

        return loop.run_until_complete(whole())
