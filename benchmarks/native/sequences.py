"""Sequences of requests through both data paths: ``python -m benchmarks.native.sequences --processes 2``.

A made-up cluster with rules, generic ones too, splits among variants, sticky keys, pins and gates changes now and then;
its pods report loads, and go and come. Between two changes requests come in all shapes that Envoy gives them, several
streams at once, at given times. Both paths get the same bytes at the same time, and must give the same bytes, end
streams at the same place, hold as many bytes, and tell their observers the same; after each change of the cluster
their counts and the pages of their metrics must agree.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import click
import inference_rollouts_native
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from benchmarks.native.blocks import dealt
from rollouts.picker.core.encoding import encode
from rollouts.picker.core.measure import ObservedResponse
from rollouts.picker.core.objects import PoolName, read_snapshot
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.protocol import Exchange, ProtocolError
from rollouts.picker.core.routing import Decision, Refusal, Router, Unready
from rollouts.picker.core.schedule import Load, Scheduler
from rollouts.picker.core.wire import WireError, decode
from rollouts.picker.metrics import PickerMetrics
from rollouts.picker.native import NativeMetrics
from tests.kit.twins import Router as NativeRouter

__all__ = ["PER_PAST", "Both", "Difference", "Stream", "past", "run"]

T = TypeVar("T")
_POOLS = (PoolName("default", "pool"), PoolName("default", "other"))
_MODELS = ("m", "n", "travelhelper", "v1", "v2", "", "stranger", "lora-a", "it's", "é")
_VERSIONS = ("v1", "v2", "v3", "lora-a", "é")
_WEIGHTS = (0, 1, 1, 3, 10, 50, 90, 99, 100, 997)
_PER_WORLD = 100
"""Requests between two changes of the cluster."""
PER_PAST = 8 * _PER_WORLD
"""Requests in the life of one picker."""
_TOGETHER = 4
"""Streams that are open at once."""
_ROOMS: tuple[Mapping[str, int], ...] = (
    {},
    {},
    {},
    {"body_limit": 300, "total_limit": 4_000},
    {"body_limit": 9_000, "total_limit": 9_000},
)
"""What a picker may hold: enough, or so little that some requests are refused for it."""


class Difference(AssertionError):
    """The two paths disagree."""


def _differ(what: str, python: object, native: object) -> NoReturn:
    raise Difference(f"{what}:\n  python {python!r}\n  native {native!r}")


# --- the cluster -----------------------------------------------------------------------------------------------


def _pod(rng: random.Random, pool: str, number: int) -> dict[str, Any]:
    labels = {"app": pool, "release": rng.choice(("v1", "v1", "v2", "v2", "v3", "none"))}
    since = rng.choice(("2026-01-01T00:00:00Z", "2026-01-01T00:16:20Z"))
    ip = f"10.{_POOLS[1].name == pool:d}.0.{number}" if rng.random() < 0.9 else f"fd00::{number}"
    metadata: dict[str, Any] = {"name": f"{pool}-{number}", "labels": labels}
    if rng.random() < 0.1:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    ready = "True" if rng.random() < 0.9 else "False"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "status": {
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}],
        },
    }


def _weights(rng: random.Random, names: tuple[str, ...]) -> dict[str, int]:
    chosen = rng.sample(names, rng.randrange(1, min(4, len(names)) + 1))
    return {name: rng.choice(_WEIGHTS) for name in chosen}


def _objects(rng: random.Random) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for pool in _POOLS[: rng.choice((1, 1, 2))]:
        spec = {"selector": {"app": pool.name}, "targetPortNumber": 8000}
        found.append(_object("inference.networking.x-k8s.io/v1alpha2", "InferencePool", pool.name, spec))
        found += [
            _pod(rng, pool.name, number)
            for number in range(1, rng.choices((0, 1, 2, 4, 8), (1, 4, 6, 6, 4))[0] + 1)
        ]
    for model in rng.sample(("m", "travelhelper", "it's"), rng.randrange(3)):
        targets = [
            {"name": name, "weight": weight} for name, weight in _weights(rng, _VERSIONS).items()
        ] * rng.randrange(2)
        spec = {
            "modelName": model,
            "poolRef": {"name": "pool"},
            "targetModels": targets,
            "criticality": rng.choice(("Critical", "Sheddable")),
        }
        found.append(
            _object("inference.networking.x-k8s.io/v1alpha2", "InferenceModel", f"model-{model}", spec)
        )
    if rng.random() < 0.3:
        rewritten = [{"modelRewrite": name, "weight": w} for name, w in _weights(rng, _VERSIONS).items()]
        rule: dict[str, Any] = {"targets": rewritten}
        if rng.random() < 0.5:
            rule["matches"] = [{"model": {"value": rng.choice(("n", "m"))}}]
        spec = {"poolRef": {"name": "pool"}, "rules": [rule]}
        found.append(
            _object("inference.networking.x-k8s.io/v1alpha2", "InferenceModelRewrite", "rewrite", spec)
        )
    for name in rng.sample(("s1", "s2"), rng.choice((0, 1, 1, 2))):
        variants = [
            {
                "name": version,
                "labels": {"release": version},
                "weight": weight,
                "model": rng.choice(("", f"m-{version}")),
            }
            for version, weight in _weights(rng, ("v1", "v2", "v3")).items()
        ]
        spec = {"poolRef": {"name": rng.choice(("pool", "other"))}, "variants": variants}
        if rng.random() < 0.4:
            spec["modelName"] = rng.choice(("m", "n"))
        found.append(_object("inferencerollouts.dev/v1alpha1", "PoolSplit", name, spec))
    splits = [obj["spec"] for obj in found if obj["kind"] == "PoolSplit"]
    return [*found, *(_rollout(rng, name, splits) for name in rng.sample(("r1", "r2"), rng.randrange(3)))]


def _changed(rng: random.Random, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same objects with other weights, and pods that became ready or not."""
    found = copy.deepcopy(objects)
    for obj in found:
        if obj["kind"] == "Pod" and rng.random() < 0.2:
            obj["status"]["conditions"][0]["status"] = rng.choice(("True", "True", "False"))
        rules = obj.get("spec", {}).get("rules", [{}])
        for entry in (
            *_members(obj, "targetModels"),
            *_members(obj, "variants"),
            *rules[0].get("targets", ()),
        ):
            if rng.random() < 0.5:
                entry["weight"] = rng.choice(_WEIGHTS)
    return found


def _members(obj: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = obj.get("spec", {}).get(name, [])
    return found


def _rollout(rng: random.Random, name: str, splits: list[dict[str, Any]]) -> dict[str, Any]:
    sticky = rng.choice(
        ({}, {"header": "X-Session"}, {"header": "X-Session"}, {"cookie": "sid"}, {"bodyField": "user"})
    )
    canary: dict[str, Any] = {"sticky": {**sticky, "pinHeader": rng.random() < 0.5}}
    if rng.random() < 0.7:
        canary["analysis"] = {"metrics": [{"source": "picker"}]}
    status = {"phase": "Progressing", "stable": {"name": "v1"}, "canary": {"name": "v2"}}
    asked = rng.choice(("adapter", "variant", "variant" if splits else "pool"))
    if asked == "adapter":
        target = {"adapter": {"name": "v2"}}
        traffic = {"inferenceModel": {"name": "model-m", "modelName": rng.choice(("m", "travelhelper"))}}
    elif asked == "variant":
        target = {"variant": {"name": "v2", "labels": {"release": "v2"}}}
        place = rng.choice(splits) if splits else {"poolRef": {"name": "pool"}}
        named = {"name": place["poolRef"]["name"], "modelName": place.get("modelName", "")}
        traffic = {"inferencePool": named}
    else:
        target, traffic = {"pool": {"name": "pool"}}, {}
    spec = {"target": target, "traffic": traffic, "strategy": {"canary": canary}}
    return {**_object("inferencerollouts.dev/v1alpha1", "Rollout", name, spec), "status": status}


def _object(version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _load(rng: random.Random, lists: dict[int, tuple[Any, Any]], key: int) -> Load:
    """What a pod says; the list of its models stays the same object until it is read anew."""
    if rng.random() < 0.3 or key not in lists:
        names = frozenset(rng.sample((*_VERSIONS, "m", "n", "m-v1", "m-v2"), rng.randrange(7)))
        adapters = frozenset(name for name in names if name.startswith(("lora", "v1")))
        lists[key] = (None, frozenset()) if rng.random() < 0.3 else (names, adapters)
    models, adapters = lists[key]
    return Load(
        running=rng.randrange(20),
        waiting=rng.choice((0, 0, 1, 7)),
        kv_usage=rng.choice((0.0, 0.25, 0.9, rng.random())),
        active_adapters=frozenset(rng.sample(_VERSIONS, rng.randrange(3))),
        max_adapters=rng.choice((0, 2, 4)),
        models=models,
        adapters=adapters,
    )


# --- the requests ----------------------------------------------------------------------------------------------


def _headers(rng: random.Random) -> dict[str, bytes]:
    found = {":method": b"POST", ":path": b"/v1/chat/completions"}
    some = {
        "x-request-id": b"%d" % rng.getrandbits(64),
        "x-session": b"s%d" % rng.randrange(50),
        "cookie": b"a=1; sid=c%d ;x" % rng.randrange(50),
        "x-rollout-pin": rng.choice((b"v1", b"v2", b"v3", b"no", b"\xff", "é".encode())),
        "x-gateway-destination-endpoint-subset": b"10.0.0.1",
        "content-length": rng.choice((b"12", b"12", b"9" * 19, b"9" * 20, b"9" * 5000)),
    }
    for name, value in some.items():
        if rng.random() < 0.5:
            found[name] = value
    if rng.random() < 0.1:
        found["x-large"] = b"x" * rng.choice((500, 2_000, 4_000))
    if rng.random() < 0.1:
        found["content-type"] = rng.choice((b"application/json", b"text/plain", b"application/grpc", b"a/b"))
    if rng.random() < 0.02:
        found |= {"connection": b"Upgrade", "upgrade": b"websocket"}
    if rng.random() < 0.02:
        del found[":method"]
    return found


def _body(rng: random.Random, prompts: list[str]) -> bytes:
    if rng.random() < 0.05:
        return rng.choice((b"", b"{", b"[]", b"\xff", b'{"model":1}', b"no json"))
    found: dict[str, Any] = {}
    if rng.random() < 0.93:
        found["model"] = rng.choice(_MODELS)
    if rng.random() < 0.5:
        found["user"] = f"u{rng.randrange(40)}"
    if rng.random() < 0.8:
        found[rng.choice(("prompt", "input"))] = rng.choice(prompts) + "x" * rng.randrange(50)
    members = list(found.items())
    rng.shuffle(members)
    return json.dumps(dict(members), ensure_ascii=rng.random() < 0.5).encode()


def _subset(rng: random.Random, message: Any) -> None:
    if rng.random() > 0.12:
        return
    hints = (
        ["10.0.0.1:8000", "10.0.0.2:8000,10.0.0.3"],
        "10.0.0.1, 10.1.0.1:8000",
        ["FD00::1", "[fd00::2]:8000", " 10.0.0.4 "],
        [f"10.0.0.{number}:8000" for number in range(40)],
        [],
        "",
        True,
        7.0,
        ["nonsense", 5.0, None],
    )
    metadata = base_pb2.Metadata()
    key = "x-gateway-destination-endpoint-subset"
    metadata.filter_metadata["envoy.lb.subset_hint"].update({key: rng.choice(hints)})
    message.metadata_context.CopyFrom(metadata)


def _event(rng: random.Random) -> bytes:
    events: tuple[dict[str, Any], ...] = (
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"content": rng.choice(("a", " word", " of it", "\n", "é"))}}]},
        {"model": rng.choice(_VERSIONS), "choices": [{"delta": {"content": " b"}}]},
        {"error": {"message": "x"}},
        {"usage": {"prompt_tokens": rng.randrange(99), "completion_tokens": rng.randrange(99)}},
    )
    chosen = rng.choices(events, (2, 10, 3, 0.2, 2))[0]
    return b"data: " + json.dumps(chosen).encode() + b"\n\n"


def _request(rng: random.Random, prompts: list[str]) -> Iterator[bytes]:
    """The messages of one stream, in an order that Envoy produces, or nearly so."""
    modes = rng.choices(range(6), (1, 1, 4, 1, 20, 1))[0], rng.choices(range(6), (3, 1, 2, 1, 20, 1))[0]
    if rng.random() < 0.98:
        yield from _asked(rng, prompts, modes)
    if rng.random() < 0.9:
        yield from _answered(rng, modes)
    if rng.random() < 0.03:
        yield rng.choice((b"", b"\xff", b"\x12\x05ab"))


def _asked(rng: random.Random, prompts: list[str], modes: tuple[int, int]) -> Iterator[bytes]:
    body = _body(rng, prompts) if rng.random() < 0.93 else None
    head = ext_proc.ProcessingRequest()
    for name, value in _headers(rng).items():
        head.request_headers.headers.headers.add(key=name, raw_value=value)
    head.request_headers.end_of_stream = body is None
    head.protocol_config.request_body_mode, head.protocol_config.response_body_mode = modes
    _subset(rng, head)
    yield head.SerializeToString()
    size = rng.choice((1 << 20, 700, 64, 7 if len(body or b"") < 200 else 999))
    if modes[0] in (2, 3) and rng.random() < 0.9:
        size = 1 << 20  # buffered bodies come in one piece, but for one that is too large
    parts = [] if body is None else [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    trailers = rng.random() < 0.1
    for index, part in enumerate(parts):
        message = ext_proc.ProcessingRequest()
        message.request_body.body = part
        message.request_body.end_of_stream = index == len(parts) - 1 and not trailers
        _subset(rng, message)
        yield message.SerializeToString()
    if trailers:
        message = ext_proc.ProcessingRequest()
        message.request_trailers.SetInParent()
        yield message.SerializeToString()


def _answered(rng: random.Random, modes: tuple[int, int]) -> Iterator[bytes]:
    head = ext_proc.ProcessingRequest()
    sse = rng.random() < 0.7
    said = {
        ":status": rng.choices((b"200", b"404", b"500", b"429", b"x"), (20, 1, 1, 1, 1))[0],
        "content-type": b"text/event-stream" if sse else b"application/json",
    }
    for name, value in said.items():
        head.response_headers.headers.headers.add(key=name, raw_value=value)
    head.response_headers.end_of_stream = rng.random() < 0.05
    head.protocol_config.request_body_mode, head.protocol_config.response_body_mode = modes
    yield head.SerializeToString()
    plain = {"model": rng.choice(_VERSIONS), "usage": {"prompt_tokens": 3, "completion_tokens": 9}}
    events = [_event(rng) for _ in range(rng.randrange(6))] if sse else [json.dumps(plain).encode()]
    trailers, whole = rng.random() < 0.1, b"".join(events)
    size = rng.choice((1 << 20, 40, 13))
    parts = [whole[at : at + size] for at in range(0, len(whole), size)] or [b""]
    for index, part in enumerate(parts):
        message = ext_proc.ProcessingRequest()
        message.response_body.body = part
        message.response_body.end_of_stream = index == len(parts) - 1 and not trailers
        yield message.SerializeToString()
    if trailers:
        message = ext_proc.ProcessingRequest()
        message.response_trailers.SetInParent()
        yield message.SerializeToString()


# --- both paths ------------------------------------------------------------------------------------------------


def _decided(decision: Decision) -> tuple[Any, ...]:
    return (*decision[:2], decision.endpoint.address, *decision[3:])


class _Heard:
    """An observer that tells the metrics, and notes what it was told in the words of the extension."""

    def __init__(self, metrics: PickerMetrics) -> None:
        self._metrics = metrics
        self.told: list[tuple[Any, ...]] = []

    def refused(self, refusal: Refusal) -> None:
        """See ``Observer``."""
        self._metrics.refused(refusal)
        self.told.append(("refused", tuple(refusal)))

    def dispatched(self, decision: Decision) -> None:
        """See ``Observer``."""
        self._metrics.dispatched(decision)
        self.told.append(("dispatched", _decided(decision)))

    def measured(self, decision: Decision, measurement: ObservedResponse) -> None:
        """See ``Observer``."""
        self._metrics.measured(decision, measurement)
        one = measurement
        figures = (one.status, one.e2e, one.ttft, one.time_per_output_token)
        counts = (one.prompt_tokens, one.completion_tokens)
        self.told.append(("measured", _decided(decision), (one.ending.name, *figures, *counts)))


class Both:
    """One picker on each path, with the same past."""

    def __init__(self, room: Mapping[str, int] = _ROOMS[0], **how: Any) -> None:
        self.python, self.native = Router(Scheduler(), **how), NativeRouter(Scheduler(), **how)
        self.pages = PickerMetrics(self.python), NativeMetrics(self.native, self.native.native, lambda: True)
        self.budget, self.held = BufferBudget(**room), inference_rollouts_native.Budget(**room)
        self.outcomes: Counter[str] = Counter()

    def update(self, objects: list[Any], now: float, wall: float, pools: Sequence[PoolName] = _POOLS) -> None:
        """A new state of the cluster."""
        snapshot = read_snapshot(pools, objects)
        for router in (self.python, self.native):
            router.update(snapshot, now, wall)

    def observe(self, address: str, load: Load, now: float, before: int | None) -> None:
        """What a pod says."""
        for router in (self.python, self.native):
            router.scheduler.observe(address, load, now, before=before)

    def compare(self) -> None:
        """Everything that is counted and shown."""
        for what, look in _LOOKS.items():
            ours, theirs = look(self.python), look(self.native)
            if ours != theirs:
                _differ(what, ours, theirs)
        ours, theirs = ([*_samples(page)] for page in self.pages)
        if ours != theirs:
            _differ("pages", set(ours) - set(theirs), set(theirs) - set(ours))


_LOOKS = {
    "shares": lambda router: {model: dict(counts) for model, counts in router.shares().items()},
    "variants": lambda router: {
        key: {name: count for name, count in split.counts.items() if count}
        for key, split in router.counted().by_key.items()
    },
    "dispatched": lambda router: {pod.endpoint.address: pod.dispatched for pod in router.scheduler.pods()},
    "to draining": lambda router: dict(+Counter(router.scheduler.to_draining)),
}


def _samples(page: PickerMetrics | NativeMetrics) -> Iterator[str]:
    text = page.expose("")[0].decode()
    return iter(sorted(line for line in text.splitlines() if line[:1] != "#"))


class Stream:
    """One stream on each path."""

    def __init__(self, both: Both, *, keep: bool, variant_header: bytes) -> None:
        self._heard = _Heard(both.pages[0])
        self._budgets = both.budget, both.held
        self._outcomes = both.outcomes
        how: dict[str, Any] = {"keep": keep, "variant_header": variant_header}
        self._python = Exchange(both.python, self._heard, both.budget, **how)
        self._native = inference_rollouts_native.Exchange(both.native.native, both.held, **how)

    @property
    def closing(self) -> bool:
        """Whether the picker ends it."""
        return self._python.closing

    def receive(self, message: bytes, now: float) -> list[bytes] | str:
        """The replies to a message, or what is wrong with it. Raises Difference."""
        ours: list[bytes] | str
        theirs: list[bytes] | str
        try:
            incoming = decode(message)
            replies = [] if incoming is None else self._python.receive(incoming, now)
            ours = [encode(reply) for reply in replies]
        except (WireError, ProtocolError) as error:
            ours = str(error)[:300]
        try:
            theirs = self._native.receive(message, now)
        except ValueError as error:
            theirs = str(error)
        self._agree(f"replies to {message!r}", ours, theirs, now)
        said = any(b"x-variant" in reply for reply in ours if isinstance(reply, bytes))
        self._outcomes["responses that say the variant"] += said
        return ours

    def half_closed(self, now: float) -> list[bytes]:
        """The last reply to a peer that half-closed, or none. Raises Difference."""
        ours = [encode(reply) for reply in self._python.half_closed(now)]
        return self._agree("last reply", ours, self._native.half_closed(now), now)

    def expire(self, seconds: float, now: float) -> None:
        """The request took too long. Raises Difference."""
        ours = [encode(reply) for reply in self._python.expire(seconds)]
        self._agree("last reply", ours, self._native.expire(seconds), now)

    def disconnect(self, now: float) -> None:
        """It is over. Raises Difference."""
        self._python.disconnect(now)
        self._native.disconnect(now)
        self._agree("nothing", [], [], now)

    def _agree(self, what: str, said: T, said_natively: T, now: float) -> T:
        """The replies, when they are the same, and so is where the stream is and what observers were told."""
        if said != said_natively:
            _differ(what, said, said_natively)
        python, native = self._python, self._native
        ours = (python.state.name, python.closing, python.waiting, python.expects_response)
        theirs = (native.state, native.closing, native.waiting, native.expects_response)
        if ours != theirs:
            _differ(f"state at {now}", ours, theirs)
        if (held := self._budgets[0].used) != (held_natively := self._budgets[1].used):
            _differ(f"bytes held at {now}", held, held_natively)
        told, self._heard.told = self._heard.told, []
        if told != (told_natively := native.told()):
            _differ(f"told at {now}", told, told_natively)
        self._outcomes.update(_word(*one) for one in told)
        return said


def _word(word: str, fields: tuple[Any, ...], *_: object) -> str:
    """What an observer was told, in short: the reason of a refusal, and whether it was a variant's."""
    return f"{fields[1]}" if word == "refused" else f"{word}{' among variants' * bool(fields[6])}"


def run(count: int, seed: int, processes: int = 1) -> Counter[str]:
    """``count`` requests, in whole lives of a picker; what became of them, by reason. Raises Difference."""
    outcomes: Counter[str] = Counter()
    for some in dealt(partial(past, seed=seed), -(-count // PER_PAST), processes):
        outcomes.update(some)
    return outcomes


def past(number: int, *, seed: int) -> Counter[str]:
    """One life of a picker on each path; what became of its requests. Raises Difference."""
    try:
        return _past(random.Random(f"{seed} {number}"), PER_PAST)
    except Difference as difference:
        difference.add_note(f"life {number}, seed {seed}")
        raise


def _step(stream: Stream, messages: Iterator[bytes], now: float, rng: random.Random) -> bool:
    """The next message; whether the stream goes on."""
    message = next(messages, None)
    goes_on = message is not None and rng.random() >= 0.01
    if goes_on:
        goes_on = not isinstance(stream.receive(message or b"", now), str) and not stream.closing
    if not goes_on:
        kind = rng.random()
        if kind < 0.3:
            stream.half_closed(now)
        elif kind < 0.4:
            stream.expire(120.0, now)
        stream.disconnect(now)
    return goes_on


def _past(rng: random.Random, count: int) -> Counter[str]:
    both = Both(rng.choice(_ROOMS), unready=rng.choice(list(Unready)), restore_model=rng.random() < 0.5)
    now, keep = 1000.0, rng.random() < 0.3
    prompts = ["".join(rng.choices("abc ", k=rng.choice((10, 1100, 5000)))) for _ in range(5)]
    lists: dict[int, tuple[Any, Any]] = {}
    done = 0
    objects: list[dict[str, Any]] = []
    while done < count:
        objects = _changed(rng, objects) if objects and rng.random() < 0.7 else _objects(rng)
        both.update(objects, now, now + 1767225600.0)
        todo = min(_PER_WORLD, count - done)
        open_streams: list[tuple[Stream, Iterator[bytes]]] = []
        while todo or open_streams:
            now += rng.choice((0.0, 0.001, 0.1, 2.0 * rng.random()))
            if todo and len(open_streams) < _TOGETHER:
                stream = Stream(both, keep=keep, variant_header=rng.choice((b"", b"x-variant")))
                open_streams.append((stream, _request(rng, prompts)))
                todo -= 1
                done += 1
            if rng.random() < 0.05:
                for index, endpoint in enumerate(both.python.scheduler.endpoints()):
                    both.observe(endpoint.address, _load(rng, lists, index), now, rng.randrange(2))
            chosen = rng.choice(open_streams)
            if not _step(*chosen, now, rng):
                open_streams.remove(chosen)
        if both.budget.used:
            raise Difference(f"{both.budget.used} bytes are held by nobody")
        both.compare()
        if rng.random() < 0.2:
            both.pages[0].forget(now)
            both.pages[1].forget(now)
            now += rng.choice((0.0, 1000.0))
    return both.outcomes


@click.command()
@click.option("--count", default=1_000_000, show_default=True, help="Number of requests.")
@click.option("--seed", default=1, show_default=True, help="Seed of the generator: the run is repeatable.")
@click.option("--processes", default=1, show_default=True, help="Processes that share the requests.")
def main(count: int, seed: int, processes: int) -> None:
    """Compare both data paths on COUNT requests."""
    started = time.monotonic()
    try:
        outcomes = run(count, seed, processes)
    except Difference as difference:
        raise click.ClickException("\n".join((str(difference), *difference.__notes__))) from None
    seconds = time.monotonic() - started
    click.echo(f"requests {-(-count // PER_PAST) * PER_PAST} seed {seed}: 0 differences, {seconds:.0f} s")
    for outcome, times in outcomes.most_common():
        click.echo(f"  {outcome}: {times}")


if __name__ == "__main__":
    main()
