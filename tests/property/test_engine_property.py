"""The engine against a world that does what it likes.

Two properties. A state machine moves pools, gates, routes, specs, commands and time at will, with a crash between
the actions and the status now and then, and looks at every single plan. And from any status whatever, at a fixed
time, planning and applying comes to rest within a bounded number of rounds.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as HypothesisPhase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from rollouts.api.status import read_status, write_status
from rollouts.engine import commanding, converging, planning, transitions, wayback
from rollouts.engine.actions import EmitEvent, Plan, ReturnTraffic, WriteTraffic
from rollouts.engine.attempt import AbortRecord, ArmCrashes, Attempt, GateSummary, PathStatus
from rollouts.engine.observation import (
    Blocker,
    Claim,
    CrashView,
    GateOutcome,
    GateView,
    JobOutcome,
    PathView,
    Problem,
    Refused,
    RiseView,
    ShareView,
)
from rollouts.engine.planning import plan
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_spec import HeaderMatch, HeaderRouteStep, OnDeadline, OnDelete, TrafficMode
from rollouts.engine.rollout_status import (
    CommandRecord,
    CommandResult,
    EntryRef,
    HistoryEntry,
    HoldReason,
    Outcome,
    Phase,
    RolloutStatus,
    SettledBy,
    TargetWait,
    WaitingFor,
    WayBack,
    WeightStatus,
)
from rollouts.engine.steps import required_endpoints
from rollouts.units import FULL, ZERO, Weight
from tests.kit.world import (
    GROUP,
    START,
    Honest,
    World,
    analysis,
    background,
    changed,
    job,
    pause,
    pool,
    spec,
    weight,
)

MORE = int(os.environ.get("ENGINE_EXAMPLES", "150"))
"""Examples of the slow runs; a nightly run sets more."""

ROUNDS = 40
QUICK = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
FULL_RUN = settings(QUICK, max_examples=MORE, stateful_step_count=50)
OFTEN_ENOUGH = settings(FULL_RUN, max_examples=2 * MORE // 3)
VERY_OFTEN = settings(FULL_RUN, max_examples=3 * MORE)

POOLS = [pool(name) for name in ("v1", "v2", "v3")]
PROBLEM = (Problem(reason="TemplateMissing", message="AnalysisTemplate x does not exist: create it"),)
BLOCKER = (Blocker(reason="MissingModels", message="v2 serves no model m: add it"),)

# --- values ----------------------------------------------------------------------------------------

weights = st.sampled_from([0, 1, 50, 100, 1000, 3333, 5000, 9999, 10_000]).map(Weight)
moments = st.integers(-7200, 7200).map(lambda seconds: START + timedelta(seconds=seconds))
headers = HeaderRouteStep(name="testers", match=(HeaderMatch(name="x-test", value="yes"),))
steps = st.lists(
    st.one_of(
        st.sampled_from([1, 5, 10, 50, 100]).map(weight),
        st.sampled_from([pause(), pause(30)]),
        st.sampled_from([analysis("a"), analysis("b"), job()]),
        st.just(headers),
    ),
    min_size=1,
    max_size=6,
)


# Named once and not made anew in each draw: Hypothesis looks at every new strategy before it draws from it, which took
# longer than what is tested.
specs = st.builds(
    lambda steps, **fields: spec(*steps, **fields),
    steps,
    target=st.sampled_from(["v1", "v2", "v3"]),
    mode=st.sampled_from(TrafficMode),
    revision=st.sampled_from(["", "again"]),
    analysis=st.sampled_from([None, background(), background(2)]),
    bake=st.sampled_from([timedelta(0), timedelta(minutes=1)]),
    on_deadline=st.sampled_from(OnDeadline),
    on_delete=st.sampled_from(OnDelete),
    paused=st.sampled_from([False, False, True]),
    add_backend=st.booleans(),
    stable_hint=st.sampled_from(["", "v1", "v3"]),
    rollback_window=st.sampled_from([timedelta(0), timedelta(hours=1)]),
    progress_deadline=st.just(timedelta(minutes=5)),
    target_deadline=st.sampled_from([None, timedelta(minutes=10)]),
    allow_no_traffic=st.sampled_from([False, False, True]),
)


revisions = st.builds(revision_of, st.sampled_from(POOLS), st.sampled_from(["", "again"]))
aborts = st.builds(
    AbortRecord,
    hash=revisions.map(lambda revision: revision.hash),
    step=st.integers(0, 6),
    at=moments,
    reason=st.just("GateFailed"),
    message=st.just("p95 4.1 s > 2 s"),
)
entries = st.builds(
    HistoryEntry,
    revision=revisions,
    attempt=st.integers(0, 3),
    outcome=st.sampled_from(Outcome),
    at=moments,
    stable_until=st.none() | moments,
)
records = st.builds(
    CommandRecord,
    raw=st.just("{}"),
    action=st.just("pause"),
    result=st.sampled_from(CommandResult),
    message=st.just("x"),
    at=moments,
)


ways = st.builds(
    lambda arms, spared: WayBack(
        kind="HTTPRoute",
        group="gateway.networking.k8s.io",
        name="route",
        mode=TrafficMode.ADOPTED,
        stable=EntryRef(kind="InferencePool", group=GROUP, name=arms[0].name, port=8000),
        canary=EntryRef(kind="InferencePool", group=GROUP, name=arms[1].name),
        spared=spared,
    ),
    st.permutations(POOLS),
    st.sampled_from([(), ("0123abcd",)]),
)
paths = st.builds(
    PathView,
    problems=st.sampled_from([(), (Blocker(reason="PickerNotReady", message="no pod is Ready"),)]),
    picker_down=st.booleans(),
)
lives = st.builds(CrashView, pods=st.integers(0, 4), restarts=st.integers(0, 9), refusing=st.booleans())
crashes = st.builds(ArmCrashes, count=st.integers(0, 9), restarts=st.integers(0, 9), at=st.none() | moments)

attempts = st.builds(
    Attempt,
    canary=revisions,
    current_step=st.integers(0, 8),
    steps_hash=st.sampled_from(["", "0123456789abcdef"]),
    step_started_at=st.none() | moments,
    started_at=st.none() | moments,
    bake_started_at=st.none() | moments,
    weight_cap=st.none() | weights,
    path=st.builds(
        PathStatus,
        ceiling=st.none() | weights,
        undone_at=st.none() | moments,
        requests_before=st.sampled_from([0, 12_000]),
        undone=st.booleans(),
        refuted=st.booleans(),
    ),
    stable_endpoints_at_start=st.integers(0, 5),
    unready_since=st.none() | moments,
    pulled=st.booleans(),
    pulls=st.integers(0, 9),
    ready_since=st.none() | moments,
    canary_crashes=crashes,
    stable_crashes=crashes,
    overrides=st.sampled_from([(), ("demo-x-1",)]),
    skip_gates=st.booleans(),
    adopted_split=st.booleans(),
    restores=st.lists(moments, max_size=5).map(tuple),
    analysis=st.sampled_from([(), (GateSummary(run="r", metric="m", verdict="Running"),)]),
    aborted=st.none() | aborts,
)
"""Any attempt, whether or not the engine could have written it."""

statuses = st.builds(
    RolloutStatus,
    phase=st.sampled_from(Phase),
    reason=st.sampled_from(["", "Promoted", "StablePoolMissing", "PausedBySpec", "Analysing"]),
    message=st.just("as it was"),
    waiting_for=st.none() | st.sampled_from(WaitingFor),
    settled_by=st.none() | st.sampled_from(SettledBy),
    observed_generation=st.integers(0, 3),
    stable=st.none() | revisions,
    current=st.none() | attempts,
    attempt=st.integers(0, 3),
    step_count=st.integers(0, 8),
    weight=st.builds(
        WeightStatus,
        desired=st.none() | weights,
        applied=st.none() | weights,
        observed=st.none() | weights,
        written=st.none() | weights,
    ),
    target_wait=st.none() | st.builds(TargetWait, target=st.sampled_from(["", "abc"]), since=moments),
    standing_since=st.none() | moments,
    hold=st.none() | st.sampled_from(HoldReason),
    hold_message=st.sampled_from(["", "held"]),
    way_back=st.lists(ways, max_size=3, unique=True).map(tuple),
    traffic_uid=st.sampled_from(["", "uid-1", "another"]),
    last_command=st.none() | records,
    history=st.lists(entries, max_size=10).map(tuple),
)
"""Any status, whether or not the engine could have written it."""

rises = st.builds(
    RiseView,
    weight_before=weights,
    before=st.sampled_from([0, 100, 2000]),
    canary_before=st.sampled_from([0, 20]),
    before_seconds=st.sampled_from([0.0, 60.0, 600.0]),
    recent=st.sampled_from([5, 90]),
    canary_recent=st.sampled_from([0, 2]),
    recent_seconds=st.sampled_from([5.0, 120.0]),
)
rules_of_a_route = st.none() | st.lists(
    st.dictionaries(st.sampled_from(POOLS), st.sampled_from([0, 1, 10, 90, 100]), min_size=1),
    min_size=0,
    max_size=2,
)
ready_counts = st.dictionaries(st.sampled_from(POOLS), st.sampled_from([0, 1, 4]))


def commands(world: World, action: str, *, fitting: bool, step: int | None) -> str:
    current = world.status.canary or world.status.stable
    revision = current.hash if current is not None and fitting else "f" * 64
    at = f',"step":{step}' if step is not None else ""
    at += f',"attempt":{world.status.attempt if fitting else 99}'
    return f'{{"action":"{action}","revision":"{revision}"{at},"at":"{world.said}"}}'


# --- what every plan keeps -------------------------------------------------------------------------


def judge(world: World, decided: Plan) -> None:
    """Rules that hold for every plan, from whatever state it was made."""
    before, after, obs = world.status, decided.status, world.observe()
    assert decided.requeue_after is None or decided.requeue_after >= timedelta(seconds=1)
    assert after.attempt >= before.attempt
    if not world.deleting:
        assert after.observed_generation == world.generation
    assert len(after.history) >= min(len(before.history), 9)  # re-promoting a version moves its entry
    assert read_status(write_status(after)) == (after, ())
    for number, action in enumerate(decided.actions):
        assert action not in decided.actions[:number], "a request to the API server for nothing"
        if isinstance(action, WriteTraffic):
            judge_write(world, action, after)
        if isinstance(action, ReturnTraffic):
            stable = after.stable or before.stable
            assert stable is not None
            assert obs.ready(stable.identity) > 0, "given to a stable version that cannot serve"
            assert obs.ways[action.record].claim is not Claim.OTHER, (
                "written although it names another Rollout"
            )
    if obs.problems and not world.deleting and after.phase is not Phase.ABORTED:
        assert after.phase is Phase.INVALID


def judge_words(world: World, decided: Plan) -> None:
    """No printed reason is state: with any other text in its place the same is decided."""
    obs = world.observe()
    conditions = tuple(replace(item, reason="Garbled") for item in obs.status.conditions)
    garbled = replace(obs.status, reason="Garbled", conditions=conditions)
    other = plan(replace(obs, status=garbled), world.now)

    assert deeds(other) == deeds(decided)
    assert other.status.reason in (decided.status.reason, "Garbled")


def deeds(decided: Plan) -> tuple[Any, ...]:
    """A plan without what it prints: an Event is told again when what is said has changed."""
    actions = tuple(action for action in decided.actions if not isinstance(action, EmitEvent))
    return actions, decided.requeue_after, replace(decided.status, reason="", conditions=())


def judge_write(world: World, write: WriteTraffic, after: RolloutStatus) -> None:
    desired, obs = write.desired, world.observe()
    assert ZERO <= desired.weight <= FULL
    assert desired.canary != desired.stable
    assert desired.canary is not None or desired.weight == ZERO
    if after.current is not None and after.current.aborted is not None:
        assert desired.weight == ZERO, "an aborted revision gets no traffic"
    if world.rules is None or desired.canary is None or desired.weight == ZERO:
        return
    ceiling = world.current.path.ceiling if world.status.current is not None else None
    frozen = after.hold in (HoldReason.MANUAL_OVERRIDE, HoldReason.CONTENDED)
    if ceiling is not None and not frozen and world.status.canary == after.canary:
        assert desired.weight <= ceiling, "above what was counted, before that is stored"
    needed = required_endpoints(desired.weight, after.current.stable_endpoints_at_start, ratio_of(world))
    if any(share_in(rule, write) < Fraction(desired.weight, FULL) for rule in world.rules):
        assert obs.ready(desired.canary) >= needed, "raised without the endpoints that the weight needs"
        assert not obs.pools[desired.canary].path.problems, "raised towards a picker that is not there"


def judge_truth(world: World, before: RolloutStatus) -> None:
    """After a plan was carried out, the status says what the stored traffic object says."""
    status = world.status
    if status.canary is None and before.way_back and not status.way_back and status.stable is not None:
        assert status.weight.applied == FULL, (
            "nothing is left with a canary, and the status says something is"
        )
    if (
        world.deleting
        or status.canary is None
        or status.stable is None
        or not world.rules
        or not world.served
    ):
        return
    stable, canary = status.stable.identity, status.canary.identity
    shares = []
    for entries in world.rules:
        joint = entries.get(stable, 0) + entries.get(canary, 0)
        if joint:
            shares.append(Weight(round(Fraction(entries.get(canary, 0), joint) * FULL)))
    if shares and status.weight.applied is not None and len(set(shares)) == 1 and canary_alone(world):
        said, live = status.weight.applied, shares[0]
        assert abs(said - live) <= 1, f"the status says {said}, the route {live}"
    last = status.last_command
    if last is not None and last != before.last_command and last.action == "abort":
        assert not (any(shares) and last.result is CommandResult.DONE), "done, and the canary has traffic"


def canary_alone(world: World) -> bool:
    """Whether only the two present arms have weight: retired ones count into the share that steps set."""
    present = {arm.identity for arm in (world.status.stable, world.status.canary) if arm is not None}
    return all(
        weight == 0 for rule in world.rules or [] for arm, weight in rule.items() if arm not in present
    )


def ratio_of(world: World) -> float:
    return world.spec.canary.endpoint_ratio if world.spec is not None else 0.5


def share_in(rule: dict[Any, int], write: WriteTraffic) -> Fraction:
    """The canary's share among our arms; foreign entries are none of our business."""
    desired = write.desired
    joint = sum(rule.get(arm, 0) for arm in {desired.stable, desired.canary, *desired.keep, *desired.drop})
    return Fraction(rule.get(desired.canary, 0), joint or 1)


class Machine(RuleBasedStateMachine):
    """Anything may happen between two plans."""

    world: World

    @initialize(first=specs, split=st.sampled_from([(100, 0), (90, 10), (50, 50), (0, 100)]))
    def begin(self, first: Any, split: tuple[int, int]) -> None:
        managed = first.traffic.mode is TrafficMode.MANAGED
        self.mode, self.readable = first.traffic.mode, first
        self.world = World(
            spec=first,
            rules=None if managed else [{POOLS[0]: split[0], POOLS[1]: split[1]}],
            pools=dict.fromkeys(POOLS, 4),
            claim=Claim.OURS if managed else Claim.CONSENTED,
            verdict=lambda name: GateOutcome.RUNNING,
        )

    @invariant()
    def every_plan_keeps_the_rules(self) -> None:
        if hasattr(self, "world"):
            self.look()

    def look(self, *, crash: bool = False) -> None:
        decided = plan(self.world.observe(), self.world.now)
        judge(self.world, decided)
        judge_words(self.world, decided)
        before = self.world.status
        self.world.step()
        judge_truth(self.world, before)
        if crash:
            self.world.status = before

    @rule(seconds=st.sampled_from([1, 5, 11, 31, 301, 4000]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    @rule()
    def crash_before_the_status_is_stored(self) -> None:
        self.look(crash=True)

    @rule()
    def comes_to_rest(self) -> None:
        if not self.world.deleting:
            self.world.settle(ROUNDS)

    @rule(seconds=st.sampled_from([1, 31]), rounds=st.integers(1, 6))
    def goes_well_for_a_while(self, seconds: int, rounds: int) -> None:
        """Everything is repaired, so that deep steps are reached at all."""
        world = self.world
        if world.deleting:
            return
        world.pools, world.problems, world.blockers = dict.fromkeys(POOLS, 4), (), ()
        world.paths, world.crashes = {}, {}
        world.programmed, world.share, world.mirrored = True, Honest.SPLIT, frozenset()
        world.by_others = frozenset()
        world.refuses = None
        world.spec = world.spec or self.readable
        world.claim = Claim.OURS if self.mode is TrafficMode.MANAGED else Claim.CONSENTED
        self.route_comes_back()
        self.gates_are_judged(GateOutcome.PASSED)
        self.jobs_end(JobOutcome.SUCCEEDED)
        for _ in range(rounds):
            self.look()
            world.now += timedelta(seconds=seconds)

    @rule(count=st.sampled_from([0, 0, 1]))
    def canary_loses_endpoints(self, count: int) -> None:
        if self.world.status.canary is not None:
            self.world.pools[self.world.status.canary.identity] = count

    @rule(which=st.sampled_from(POOLS), path=paths)
    def path_changes(self, which: Any, path: PathView) -> None:
        self.world.paths[which] = path

    @rule(which=st.sampled_from(POOLS), life=lives)
    def pods_crash(self, which: Any, life: CrashView) -> None:
        self.world.crashes[which] = life

    @rule(new=specs)
    def spec_edited(self, new: Any) -> None:
        traffic = replace(new.traffic, mode=self.mode)  # immutable: a CEL rule sees to it
        self.world.spec = replace(new, traffic=traffic)
        self.world.generation += 1

    @rule(
        action=st.sampled_from(["promote", "promoteFull", "abort", "retry", "pause", "resume"]),
        fitting=st.sampled_from([True, True, True, False]),
        step=st.none() | st.integers(0, 3),
    )
    def command(self, action: str, fitting: bool, step: int | None) -> None:
        self.world.said += 1
        self.world.command = commands(self.world, action, fitting=fitting, step=step)

    @rule(raw=st.sampled_from(["", "{", "[]", '{"action":"dance"}', '{"action":"abort","revision":7}']))
    def malformed_command(self, raw: str) -> None:
        self.world.command = raw

    @rule(which=st.sampled_from(POOLS), count=st.none() | st.sampled_from([0, 1, 4]))
    def pool_changes(self, which: Any, count: int | None) -> None:
        if count is None:
            self.world.pools.pop(which, None)
        else:
            self.world.pools[which] = count

    @rule(share=st.sampled_from([0, 3, 50, 97, 100]), gitops=st.booleans())
    def foreign_write(self, share: int, gitops: bool) -> None:
        if self.world.rules is not None:
            revision = self.world.status.canary
            canary = revision.identity if revision is not None else POOLS[1]
            stable = next(item for item in POOLS if item != canary)
            self.world.overwrite({stable: 100 - share, canary: share}, gitops=gitops)

    @rule()
    def route_deleted(self) -> None:
        self.world.rules = None

    @rule()
    def route_comes_back(self) -> None:
        if self.world.rules is None and self.mode is TrafficMode.ADOPTED:
            self.world.uid += "x"
            self.world.overwrite({POOLS[0]: 100, POOLS[1]: 0, POOLS[2]: 0})

    @rule(outcome=st.sampled_from(GateOutcome))
    def gates_are_judged(self, outcome: GateOutcome) -> None:
        for name, gate in self.world.gates.items():
            if gate.outcome is GateOutcome.RUNNING:
                self.world.gates[name] = replace(gate, outcome=outcome, message="p95 4.1 s > 2 s")

    @rule(outcome=st.sampled_from(JobOutcome))
    def jobs_end(self, outcome: JobOutcome) -> None:
        self.world.jobs = dict.fromkeys(self.world.jobs, outcome)

    @rule(may=st.booleans())
    def background_earns_its_pass(self, may: bool) -> None:
        self.world.gates = {name: replace(gate, may_pass=may) for name, gate in self.world.gates.items()}

    @rule(wrong=st.booleans())
    def spec_problem(self, wrong: bool) -> None:
        self.world.problems = PROBLEM if wrong else ()

    @rule(refused=st.sampled_from([False, False, True]))
    def writes_are_refused(self, refused: bool) -> None:
        said = Refused(reason="TrafficRefused", message="admission webhook denied the request")
        self.world.refuses = said if refused else None

    @rule(readable=st.sampled_from([True, True, False]))
    def spec_becomes_unreadable(self, readable: bool) -> None:
        if self.world.spec is not None:
            self.readable = self.world.spec
        self.world.spec = self.readable if readable else None
        self.world.problems = () if readable else PROBLEM
        self.world.generation += 1

    @rule(refused=st.booleans(), well=st.booleans(), readable=st.booleans())
    def abort_while_nothing_helps(self, refused: bool, well: bool, readable: bool) -> None:
        """Whatever is wrong with spec, template and claim: stable is Ready, so an abort is done or says why not."""
        for _ in range(10 if well else 0):
            self.goes_well_for_a_while(seconds=31, rounds=1)
            if (self.world.status.weight.applied or ZERO) > ZERO and self.world.status.canary is not None:
                break
        if not readable:
            self.spec_becomes_unreadable(readable=False)
        world, canary, stable = self.world, self.world.status.canary, self.world.status.stable
        if canary is None or stable is None or world.deleting or not world.rules or not world.served:
            return
        if world.claim is Claim.OTHER or world.status.hold is HoldReason.SPLIT_AT_START:
            return
        world.pools[stable.identity] = 4
        world.refuses = Refused(reason="TrafficRefused", message="frozen") if refused else None
        world.said += 1
        world.command = commands(world, "abort", fitting=True, step=None)
        self.look()
        self.look()
        status = world.status
        promoted = status.stable is not None and status.stable.identity == canary.identity
        if not refused and not promoted:
            held = any(entries.get(canary.identity, 0) for entries in world.rules)
            assert not held, "an abort is held up by what a user can edit"

    @rule(blocked=st.booleans())
    def blocked(self, blocked: bool) -> None:
        self.world.blockers = BLOCKER if blocked else ()

    @rule(programmed=st.booleans())
    def gateway_reports(self, programmed: bool) -> None:
        self.world.programmed = programmed

    @rule(canary=st.sampled_from([0, 10, 500]), stable=st.sampled_from([0, 100, 900]), counted=st.booleans())
    def requests_counted(self, canary: int, stable: int, counted: bool) -> None:
        self.world.share = ShareView(canary=canary, stable=stable, seconds=60.0) if counted else None

    @rule(path=rises, seconds=st.sampled_from([10.0, 130.0]), complete=st.booleans())
    def requests_stop(self, path: RiseView, seconds: float, complete: bool) -> None:
        self.world.share = ShareView(
            canary=path.canary_recent,
            stable=path.recent - path.canary_recent,
            seconds=seconds,
            complete=complete,
            path=path,
        )

    @rule(mirrored=st.booleans(), sessions=st.booleans(), others=st.booleans())
    def requests_are_copied_or_sticky(self, mirrored: bool, sessions: bool, others: bool) -> None:
        self.world.by_others = frozenset(POOLS[:2]) if others else frozenset()
        self.world.mirrored = frozenset(POOLS[1:2]) if mirrored else frozenset()
        self.world.sessions = sessions

    @rule(claim=st.sampled_from([Claim.OURS, Claim.CONSENTED, Claim.OTHER, Claim.UNCLAIMED]))
    def claim_changes(self, claim: Claim) -> None:
        self.world.claim, self.world.claimed_by = claim, "another" if claim is Claim.OTHER else ""

    @rule()
    def template_changes(self) -> None:
        self.world.structure_current = self.mode is TrafficMode.ADOPTED

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.settle(ROUNDS)
        self.world.refuses = None
        self.world.deleting = True
        for _ in range(6):
            self.look()
        assert self.world.finalizer is False, "a deleted Rollout is let go"


TestMachine = Machine.TestCase
TestMachine.settings = QUICK


@pytest.mark.slow
@pytest.mark.timeout(280)
class TestMachineAtLength(Machine.TestCase):  # type: ignore[misc, name-defined]
    settings = OFTEN_ENOUGH


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(1800)
class TestMachineAtFullLength(Machine.TestCase):  # type: ignore[misc, name-defined]
    settings = VERY_OFTEN


# --- from any state --------------------------------------------------------------------------------


surroundings = st.fixed_dictionaries(
    {
        "spec": st.none() | specs,
        "rules": rules_of_a_route,
        "pools": ready_counts,
        "claim": st.sampled_from(Claim),
        "problems": st.sampled_from([(), (), PROBLEM]),
        "blockers": st.sampled_from([(), (), BLOCKER]),
        "programmed": st.booleans(),
        "finalizer": st.booleans(),
        "served": st.sampled_from([True, True, True, False]),
        "writer": st.sampled_from(["inference-rollouts", "kubectl-edit", ""]),
        "gitops": st.booleans(),
        "structure_current": st.booleans(),
        "paths": st.dictionaries(st.sampled_from(POOLS), paths),
        "crashes": st.dictionaries(st.sampled_from(POOLS), lives),
    }
)
"""Fields of a world, whatever the status."""


def world_of(
    status: RolloutStatus,
    around: dict[str, Any],
    gate: GateOutcome | None,
    said: int,
    action: str | None,
    fitting: bool,
) -> World:
    status, _ = read_status(write_status(status))  # what the API server can hold
    name = f"demo-{(status.canary or status.stable).short}-{status.attempt}" if status.stable else "demo"
    gates = {} if gate is None else {name: GateView(name=name, outcome=gate)}
    world = World(status=status, gates=gates, **around)
    world.now = START
    world.said = said
    if action is not None:
        world.command = commands(world, action, fitting=fitting, step=None)
    if world.spec is None:
        world.problems = PROBLEM
    return world


worlds = st.builds(
    world_of,
    statuses,
    surroundings,
    gate=st.none() | st.sampled_from(GateOutcome),
    said=st.integers(0, 5),
    action=st.none() | st.sampled_from(["promote", "promoteFull", "abort", "retry", "pause", "resume"]),
    fitting=st.booleans(),
)


def comes_to_rest(world: World) -> None:
    for _ in range(ROUNDS):
        judge(world, plan(world.observe(), world.now))
        before = world.status
        decided = world.step()
        if not decided.actions and world.status == before:
            return
    raise AssertionError(f"no rest after {ROUNDS} rounds: {world.status.phase} {world.status.message}")


@settings(QUICK, max_examples=200)
@given(worlds)
def test_from_any_status_planning_comes_to_rest(world: World) -> None:
    judge_words(world, plan(world.observe(), world.now))
    comes_to_rest(world)


@pytest.mark.slow
@pytest.mark.timeout(280)
@settings(QUICK, max_examples=12 * MORE)
@given(worlds)
def test_from_any_status_planning_comes_to_rest_at_length(world: World) -> None:
    comes_to_rest(world)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(1800)
@settings(QUICK, max_examples=48 * MORE)
@given(worlds)
def test_from_any_status_planning_comes_to_rest_at_full_length(world: World) -> None:
    comes_to_rest(world)


# --- the properties catch planted bugs -------------------------------------------------------------


def _abort_keeps_weight(patch: pytest.MonkeyPatch) -> None:
    real = converging.step_weight
    patch.setattr(converging, "step_weight", lambda status, spec: real(changed(status, aborted=None), spec))
    patch.setattr(wayback, "_is_due", lambda draft, record: draft.current.aborted is None)


def _abort_waits_for_a_spec(patch: pytest.MonkeyPatch) -> None:
    """As it was before there was a record: what cannot be read comes first."""
    stages = [stage for stage in planning._STAGES if stage is not planning._unreadable]
    patch.setattr(planning, "_STAGES", (planning._unreadable, *stages))


def _refusal_is_not_said(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planning, "show_live", lambda draft: None)


def _done_when_decided(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commanding, "is_back", lambda draft: True)


def _endpoints_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(converging, "required_endpoints", lambda *_: 0)


def _never_settled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(converging, "_settled", lambda *_, **__: False)


def _row_missing(patch: pytest.MonkeyPatch) -> None:
    rows = [row for row in transitions.TRANSITIONS if row.to is not Phase.ABORTED]
    patch.setattr(transitions, "TRANSITIONS", tuple(rows))


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("plant", "error"),
    [
        (_abort_keeps_weight, AssertionError),
        (_abort_waits_for_a_spec, AssertionError),
        (_refusal_is_not_said, AssertionError),
        (_done_when_decided, AssertionError),
        # Rare to come by: up to five minutes on a busy machine. Unit tests of the engine see it at once.
        pytest.param(_endpoints_unseen, AssertionError, marks=pytest.mark.full),
        (_never_settled, AssertionError),
        (_row_missing, transitions.IllegalTransition),
    ],
)
def test_the_machine_catches_a_planted_bug(
    plant: Any, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    # Hypothesis draws from the constants of whatever modules are loaded, so one run's examples are not another's: a
    # multiple of what finds the bug mostly. It ends at the first that does.
    once = settings(
        FULL_RUN,
        max_examples=8 * MORE,
        phases=[HypothesisPhase.generate],
        print_blob=False,
        report_multiple_bugs=False,
    )

    with pytest.raises(error):
        run_state_machine_as_test(Machine, settings=once)
