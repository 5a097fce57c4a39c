"""Objects of our kinds as anybody might write them: sound ones, changed at random places by what a schema allows or
by what people and their tools write instead. An API server says which of them it admits."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any

from rollouts.api.crds import all_crds

__all__ = ["written"]

Object = dict[str, Any]
Schema = Mapping[str, Any]

_METRIC: Object = {
    "name": "errors",
    "measure": {"preset": "error-rate", "window": "30s"},
    "successCondition": "result < 0.05",
    "interval": "10s",
    "count": 2,
}
_COMPARE: Object = {
    "name": "ttft",
    "compare": {"preset": "ttft", "tolerance": "15%", "margin": 0.02, "weight": 1},
}
_MATCH: Object = {"headerName": "x-test", "headerValue": {"exact": "yes"}}
_STEPS: list[Object] = [
    {"setWeight": 1},
    {"pause": {"duration": "1h30m"}},
    {"setWeight": "2.5%"},
    {
        "analysis": {
            "metrics": [_METRIC, _COMPARE],
            "templates": [{"templateName": "t"}],
            "args": [{"name": "a"}],
        }
    },
    {"job": {"spec": {"template": {"spec": {"containers": []}}}}},
    {"pause": {"duration": 30}},
    {"pause": {}},
]
_POOLS: Object = {
    "target": {"pool": {"name": "v2", "group": ""}, "revision": "r"},
    "traffic": {
        "httpRoutes": [{"name": "route", "template": {"parentRefs": [{"name": "g"}], "rules": [{}]}}]
    },
    "strategy": {
        "canary": {
            "steps": [*_STEPS, {"setHeaderRoute": {"name": "t", "match": [_MATCH]}}],
            "analysis": {"metrics": [_METRIC], "startingStep": 1, "falseAbortRate": 0.1},
            "endpointRatio": 0.5,
            "bake": "10m",
            "progressDeadline": "30m",
        }
    },
    "rollbackWindow": {"duration": "24h"},
    "stableHint": "v1",
}
_ADAPTERS: Object = {
    "target": {"adapter": {"name": "a2", "source": {"path": "/models/a2"}}},
    "traffic": {"inferenceModel": {"name": "m", "modelName": "n", "poolRef": {"name": "v1"}}},
    "strategy": {"canary": {"steps": _STEPS, "sticky": {"header": "x-session"}}},
}
_TEMPLATE: Object = {"metrics": [_METRIC, _COMPARE], "args": [{"name": "a", "value": "1"}]}
_RUN: Object = {
    "rollout": "demo",
    "attempt": 1,
    "step": 2,
    "canary": {"name": "v2"},
    "stable": {"name": "v1"},
    "metrics": [_METRIC],
    "comparisons": [{**_COMPARE, "steps": [3], "interval": "10s"}],
    "stepsHash": "abc",
    "marks": [{"at": "2026-01-01T00:00:00Z", "step": 0, "weight": "0.5%"}],
    "exclude": [{"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:01:00Z"}],
}
_SOUND = (
    ("Rollout", _POOLS),
    ("Rollout", _ADAPTERS),
    ("AnalysisTemplate", _TEMPLATE),
    ("ClusterAnalysisTemplate", _TEMPLATE),
    ("RolloutStrategy", _POOLS["strategy"]),
    ("AnalysisRun", _RUN),
)
_CRDS = {crd["spec"]["names"]["kind"]: crd["spec"] for crd in all_crds()}
_TEXTS = (
    *(
        "",
        " ",
        "0",
        "1",
        "-1",
        "5",
        "007",
        "9" * 9,
        "9" * 32,
        "1e3",
        "0.5",
        ".5",
        "5.",
        "NaN",
        "true",
        "null",
        "٣",
    ),
    *("10%", "0.5%", "100%", "100.00%", "100.01%", "101%", "99.999%", "0%", "-5%", "5 %", "10%\n", "%", "½%"),
    *(
        "10m",
        "9999h",
        "9999999d9999999d9999999d9999999d",
        "1h30m",
        "30m1h",
        "1.5h",
        "1.0005s",
        "0s",
        "5ms",
        "1y",
    ),
    *("10 m", "1m\n", "1µs", "0.001ms", "10M", "P1D", "٣s"),
    *("2026-01-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T23:59:60Z"),
    *(
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "2026-01-01T00:00:00+02:00",
    ),
    *("2026-01-01t00:00:00z", "2026-01-01", "2026-01-01T00:00:00.5Z", "2026-1-1T0:0:0Z"),
    *(
        "{{args.a}}",
        "x{{ args.a }}",
        "pods",
        "default",
        "v2",
        "ü",
        "\u0000",
        "\U0001f600" * 63,
        "x" * 63,
        "x" * 64,
    ),
    *("x" * 253, "x" * 254, "a\nb", "$(id)", "..", "a/b"),
)
_NUMBERS = (
    0,
    1,
    2,
    5,
    63,
    64,
    100,
    101,
    -1,
    2**31,
    2**63 - 1,
    2**63,
    10**20,
    0.0,
    0.05,
    0.5,
    1.0,
    1.5,
    1e-9,
    1e9,
    1e300,
)


def written(rng: random.Random) -> tuple[str, Object]:
    """Kind and object, never the same twice in a row; ``rng`` decides everything."""
    kind, sound = rng.choice(_SOUND)
    spec: Any = copy.deepcopy(sound)
    schema = _CRDS[kind]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        spec = _changed(spec, schema, rng)
    meta = {"name": rng.choice(("demo", "demo", "x" * 64, "a.b-c", "x" * 253))}
    return kind, {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": kind,
        "metadata": meta,
        "spec": spec,
    }


def _changed(value: Any, schema: Schema, rng: random.Random) -> Any:
    """One change somewhere in the value: a field more, less, or other."""
    if isinstance(value, dict) and (value or schema.get("properties")) and rng.random() < 0.9:
        fields = schema.get("properties") or {}
        name = rng.choice(sorted({*value, *fields}))
        if name in value and rng.random() < 0.12:
            return {key: item for key, item in value.items() if key != name}
        sub = fields.get(name, {})
        new = _changed(value[name], sub, rng) if name in value else _any(sub, rng)
        return {**value, name: new}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place, sub = rng.randrange(len(value)), schema.get("items") or {}
        kept = [*value[:place], *value[place + 1 :]]
        what = rng.random()
        if what < 0.1:
            return kept
        if what < 0.2:
            return [*value, *[copy.deepcopy(value[place])] * rng.choice((1, 1, 40))]
        return [*value[:place], _changed(value[place], sub, rng), *value[place + 1 :]]
    return _any(schema, rng)


def _any(schema: Schema, rng: random.Random) -> Any:
    """A value that mostly has the type that the schema asks for, and is often at its bounds."""
    if rng.random() < 0.12:
        return rng.choice((None, True, False, {}, [], [1], {"a": 1}, "x", 1, 1.5))
    if "enum" in schema and rng.random() < 0.8:
        return rng.choice(schema["enum"])
    match schema.get("type"):
        case "string":
            return rng.choice(_TEXTS)
        case "integer" | "number":
            bounds = [schema[name] for name in ("minimum", "maximum") if name in schema]
            return rng.choice((*_NUMBERS, *bounds, *(bound + 1 for bound in bounds)))
        case "boolean":
            return rng.random() < 0.5
        case "array":
            return [_any(schema["items"], rng) for _ in range(rng.choice((0, 1, 2, 17)))]
        case "object" if schema.get("properties"):
            wanted = schema.get("required") or ()
            return {
                name: _any(field, rng)
                for name, field in schema["properties"].items()
                if name in wanted or rng.random() < 0.3
            }
        case "object":
            return _nested(rng.choice((0, 1, 5, 30, 70, 200, 2000)))
    return rng.choice((*_TEXTS, *_NUMBERS))


def _nested(depth: int) -> Object:
    value: Object = {}
    for _ in range(depth):
        value = {"a": value}
    return value
