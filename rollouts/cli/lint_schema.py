"""Objects of ours against the CRDs' own schemas, strictly, in words a person can act on.

The API server prunes fields that it does not know, and the controller's reader ignores them, so that a newer client's
object blinds no older controller; who writes a file wants to hear of each. The walk follows the schema, which is
finite, and stops after a number of findings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

from rollouts.api.crds import all_crds
from rollouts.api.parsing import COMMAND_ANNOTATION, COMMIT_ANNOTATION
from rollouts.api.references import DEPENDENTS_ANNOTATION
from rollouts.carriers import TRAFFIC_KINDS, object_targets
from rollouts.cli.lint_findings import Finding, hint, path_text, problem
from rollouts.cli.lint_inner_specs import misspelt
from rollouts.cli.lint_values import (
    CRON_MACROS,
    duration_problem,
    left_in,
    pods_problem,
    spoken_duration,
    weight_problem,
)
from rollouts.cli.lint_words import FOREIGN, nearest
from rollouts.cli.yaml_source import Path
from rollouts.engine.finalizing import RELEASE_ANNOTATION
from rollouts.units import DURATION_PATTERN

__all__ = ["NO_NAME", "kinds", "strict_findings"]

Schema = Mapping[str, Any]
Wrong = tuple[Path, str, bool, str]
"""Path, what is wrong, whether the field's name is, and the rule."""

_MOST = 64
"""Findings of one object: who has more, has one cause."""
NO_NAME = "no-name"
"""The rule of names that no object can have."""
_NO_VALUE = "no-value"
"""The rule of fields that are null: the API server drops them, so that what needs them says so."""
_MAX_PLACES = 2
_LISTED = 14
_ANYWHERE = frozenset({"name", "value", "group", "path", "match", "of"})
"""Fields of many objects: that one of them stands in a wrong place tells nothing of where it belongs."""

_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_META = (
    *("name", "namespace", "labels", "annotations", "finalizers", "generateName", "ownerReferences", "uid"),
    *(
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ),
    *("managedFields", "selfLink"),
)
"""ObjectMeta of apimachinery."""
_OBJECT_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_NAMED = frozenset(
    {("pool", "name"), ("poolRef", "name"), ("canaryFrom", "name"), ("dependsOn", "name"), ("with", "pool")}
    | {("templates", "templateName")}
    | {(kind.field, "name") for kind in TRAFFIC_KINDS}
    | {(target.field, "name") for target in object_targets()}
)
"""Fields that name an object of Kubernetes; adapters and receivers are named otherwise."""
_ANNOTATIONS = (COMMAND_ANNOTATION, COMMIT_ANNOTATION, RELEASE_ANNOTATION, DEPENDENTS_ANNOTATION)
_OURS = "inferencerollouts.dev/"

_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object with fields",
}


@lru_cache(maxsize=1)
def _schemas() -> dict[str, Schema]:
    return {
        crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][
            "spec"
        ]
        for crd in all_crds()
    }


def kinds() -> tuple[str, ...]:
    """The kinds that there are."""
    return tuple(_schemas())


@lru_cache(maxsize=8)
def _places(kind: str) -> dict[str, list[str]]:
    """Where each field may stand, by its name."""
    found: dict[str, list[str]] = {}

    def visit(schema: Schema, path: str) -> None:
        for name, child in schema.get("properties", {}).items():
            found.setdefault(name, []).append(path)
            visit(child, f"{path}.{name}")
        if "items" in schema:
            visit(schema["items"], f"{path}[]")

    visit(_schemas()[kind], "spec")
    return found


def strict_findings(obj: Mapping[str, Any], where: str) -> list[Finding]:
    """What strict decoding and the schema refuse in an object of a kind of ours; its status is left alone."""
    kind = str(obj.get("kind"))
    found = list(_envelope(obj))
    if isinstance(obj.get("spec"), Mapping):
        found += islice(_walk(_schemas()[kind], obj["spec"], ("spec",), kind), _MOST)
    return [
        (hint if rule == _NO_VALUE else problem)(
            where, f"{path_text(path)}: {text}", rule=rule, path=path, named=named
        )
        for path, text, named, rule in found
    ]


def _envelope(obj: Mapping[str, Any]) -> Iterator[Wrong]:
    for name in islice((name for name in obj if name not in _TOP), _MOST):
        yield (str(name),), _unknown(str(name), _TOP, str(obj.get("kind"))), True, "unknown-field"
    meta = obj.get("metadata")
    if not isinstance(meta, Mapping):
        return
    for name in islice((name for name in meta if name not in _META), _MOST):
        yield ("metadata", str(name)), _unknown(str(name), _META, ""), True, "unknown-field"
    called = meta.get("name")
    if called is not None and not isinstance(called, str):
        yield ("metadata", "name"), _mismatch("string", called), False, "wrong-type"
    elif called and (len(called) > 253 or not _OBJECT_NAME.fullmatch(called)):
        yield ("metadata", "name"), left_in(called) or _no_name(called), False, "wrong-value"
    space = meta.get("namespace")
    if isinstance(space, str) and space and not _NAMESPACE.fullmatch(space):
        text = f"{space!r:.70} is no name of a namespace: at most 63 lower case letters, digits and -"
        yield ("metadata", "namespace"), left_in(space) or text, False, "wrong-value"
    for field in ("labels", "annotations"):
        yield from _texts(meta.get(field), ("metadata", field))


def _no_name(name: str) -> str:
    return f"{name!r:.70} is no name of an object: lower case letters, digits, - and ."


def _texts(values: Any, path: Path) -> Iterator[Wrong]:
    if values is None:
        return
    if not isinstance(values, Mapping):
        yield path, _mismatch("object", values), False, "wrong-type"
        return
    for name, value in islice(values.items(), _MOST):
        if not isinstance(value, str):
            yield (*path, str(name)), _mismatch("string", value), False, "wrong-type"
        elif path[-1] == "labels" and not _LABEL_VALUE.fullmatch(value[:64]):
            text = f"{value!r:.70} is no value of a label: at most 63 letters, digits, -, _ and ."
            yield (*path, str(name)), left_in(value) or text, False, "wrong-value"
        elif path[-1] == "annotations" and str(name).startswith(_OURS) and name not in _ANNOTATIONS:
            near = nearest(str(name), _ANNOTATIONS)
            if near:
                yield (
                    (*path, str(name)),
                    f"nobody reads this annotation: did you mean {near}?",
                    True,
                    "unknown-field",
                )


def _walk(schema: Schema, value: Any, path: Path, kind: str) -> Iterator[Wrong]:
    """Linear in the value: each part is met once, and what the schema does not know is not entered."""
    if value is None and not isinstance(path[-1], int):
        if not schema.get("nullable") and "default" not in schema:
            yield path, _nothing(schema), True, _NO_VALUE
        return
    if schema.get("x-kubernetes-int-or-string") or (
        schema.get("x-kubernetes-preserve-unknown-fields") and "type" not in schema
    ):
        yield from _scalar_or_text(schema, value, path)
        return
    wanted = schema.get("type")
    if not _is(wanted, value):
        time = schema.get("pattern") == DURATION_PATTERN
        text = _short_form(schema, value) or _mismatch(str(wanted), value, time=time)
        yield path, text, False, "wrong-type"
    elif wanted == "object":
        yield from _object(schema, value, path, kind)
    elif wanted == "array":
        yield from _array(schema, value, path, kind)
    elif wanted == "string":
        said = _of_field(path, value)
        texts = [said] if said else list(_text(schema, value))
        yield from ((path, text, False, "wrong-value") for text in texts)
        if not texts and _names_nothing(path, value):
            yield path, _no_name(value), False, NO_NAME
    elif wanted in ("integer", "number"):
        yield from ((path, text, False, "wrong-value") for text in _bounds(schema, value))


def _is(wanted: Any, value: Any) -> bool:
    match wanted:
        case "object":
            return isinstance(value, Mapping)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return whole and not isinstance(value, bool)  # 1.0 is whole to the API server
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
    return True


def _object(schema: Schema, value: Mapping[str, Any], path: Path, kind: str) -> Iterator[Wrong]:
    known = schema.get("properties")
    if known is None:
        for where, near in misspelt(value, path):  # a Job's spec, a route's template: others judge the rest
            yield where, f"unknown field: did you mean {near}?", True, "unknown-field"
        return
    needed = schema.get("required", ())
    strange, lacking = (
        [name for name in value if name not in known],
        [one for one in needed if one not in value],
    )
    for name, child in value.items():
        if child is None and name in needed:
            continue
        if name in known:
            yield from _walk(known[name], child, (*path, name), kind)
        elif _is_meant(strange, lacking, known, child) and name not in FOREIGN and not left_in(str(name)):
            text = f"unknown field: did you mean {lacking[0]}, which is missing?"
            yield (*path, str(name)), text, True, "unknown-field"
        else:
            yield (*path, str(name)), _unknown(str(name), known, kind, path), True, "unknown-field"
    for name in needed:
        if value.get(name) is None:
            yield path, f"the field {name} is missing{_meant(name, value)}", True, "missing-field"


def _is_meant(strange: list[Any], lacking: list[str], known: Mapping[str, Any], value: Any) -> bool:
    """Whether the one field that nobody knows stands for the one text that is missing."""
    return (
        len(strange) == len(lacking) == 1
        and isinstance(value, str)
        and known.get(lacking[0], {}).get("type") == "string"
    )


def _array(schema: Schema, value: list[Any], path: Path, kind: str) -> Iterator[Wrong]:
    for index, item in enumerate(value):
        yield from _walk(schema["items"], item, (*path, index), kind)
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if len(value) < least:
        yield path, f"needs at least {least} item", False, "wrong-value"
    if most is not None and len(value) > most:
        yield path, f"has {len(value)} items, at most {most} are possible", False, "wrong-value"


_SORTS: dict[str, Callable[[Any], str]] = {
    "setWeight": weight_problem,
    "weight": weight_problem,
    "maxSurge": pods_problem,
    "minStable": pods_problem,
}
"""What a number or text is, by its field; the others are durations."""


def _scalar_or_text(schema: Schema, value: Any, path: Path) -> Iterator[Wrong]:
    """Weights, durations in seconds, fractions: a number or a text."""
    field = path[-1]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    fraction = "x-kubernetes-int-or-string" not in schema
    if isinstance(value, bool | Mapping | list) or not isinstance(value, int | float | str):
        yield path, _mismatch("number", value), False, "wrong-type"
    elif isinstance(value, str) and left_in(value):
        yield path, left_in(value), False, "template"
    elif fraction and isinstance(value, str) and not re.fullmatch(schema.get("pattern", ".*"), value[:256]):
        yield (
            path,
            f'{value!r:.40} is neither a fraction such as 0.05 nor a percentage such as "5%"',
            False,
            "wrong-value",
        )
    elif fraction and not isinstance(value, str):
        yield from ((path, text, False, "wrong-value") for text in _bounds(schema, value))
    elif not fraction:
        text = _SORTS.get(str(field), duration_problem)(value)
        if text:
            yield path, text, False, "wrong-value"


def _names_nothing(path: Path, value: str) -> bool:
    """Whether a name is one that no object can have. The API server takes it: it is a text to it."""
    parent = next((part for part in reversed(path[:-1]) if isinstance(part, str)), "")
    return (parent, path[-1]) in _NAMED and bool(value) and not _OBJECT_NAME.fullmatch(value)


def _of_field(path: Path, value: str) -> str:
    """What is wrong with a text that people know another form of, by its field; empty where nothing is."""
    if path[-1] == "schedule" and value in CRON_MACROS:
        return f"{value} is no schedule here: write '{CRON_MACROS[value]}'"
    if path[-1] == "webhook" and "/" in value:
        return "is an address: name a receiver of the controller's configuration, which holds its address"
    return ""


def _text(schema: Schema, value: str) -> Iterator[str]:
    options = schema.get("enum")
    left = left_in(value)
    if left:
        yield left
    elif options:
        if value not in options:
            near = nearest(value, [option for option in options if option], cutoff=0.5)
            told = ", ".join(str(option) for option in options if option)
            yield f"{value!r:.60} is not one of {told}" + (f": did you mean {near}?" if near else "")
    elif len(value) > schema.get("maxLength", len(value)):
        yield f"is longer than {schema['maxLength']} characters"
    elif not value and schema.get("minLength", 0):
        yield "is empty: write something, or leave the field out"
    elif len(value) < schema.get("minLength", 0):
        yield f"{value!r} is shorter than {schema['minLength']} characters"
    elif schema.get("pattern") == DURATION_PATTERN:
        yield from filter(None, [duration_problem(value) or ("" if not value.isdigit() else _no_unit(value))])
    elif "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{value!r:.60} does not have the form {schema['pattern']}"


def _no_unit(value: str) -> str:
    return f"{value!r:.40} has no unit{spoken_duration(value)}"


def _bounds(schema: Schema, value: float) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        yield f"{value} is too low: {'more than' if schema.get('exclusiveMinimum') else 'at least'} {low}"
    elif high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        percent = f"; a share is written as a fraction: {value / 100:g}" if high <= 1 < value <= 100 else ""
        yield f"{value} is too high: at most {high}{percent}"
    elif value != value:
        yield "is not a number"


# --- words -----------------------------------------------------------------------------------------


def _unknown(name: str, known: Any, kind: str, path: Path = ()) -> str:
    """What an unknown field is likely to be."""
    siblings = list(known)
    same = nearest(name, siblings, cutoff=1.0)
    near = same or ("" if name in FOREIGN else nearest(name, siblings))
    elsewhere = _places(kind).get(name, []) if kind in kinds() and name not in _ANYWHERE else []
    said = "unknown field"
    if left_in(name):
        return f"{said}: {left_in(name)}"
    if near:
        return f"{said}: did you mean {near}?"
    if name == "namespace":
        return f"{said}: what is named is of the Rollout's own namespace; leave it out"
    if elsewhere and not (name in FOREIGN and "strategy" not in path_text(path)):
        return f"{said} here: it belongs to {' or '.join(elsewhere[:_MAX_PLACES])}; see to the indentation"
    if name in FOREIGN:
        return f"{said}; {name} is {FOREIGN[name]}"
    far = nearest(name, _places(kind), cutoff=0.85) if kind in kinds() else ""
    if far:
        return (
            f"{said}: did you mean {far}, which belongs to {' or '.join(_places(kind)[far][:_MAX_PLACES])}?"
        )
    told = ", ".join(siblings[:_LISTED]) + (", ..." if len(siblings) > _LISTED else "")
    return f"{said}; there are {told}"


def _meant(name: str, value: Mapping[str, Any]) -> str:
    near = nearest(name, [str(one) for one in list(value)[:_MOST]], cutoff=0.8)
    return f": {near} may be meant to be it" if near else ""


def _short_form(schema: Schema, value: Any) -> str:
    """What a scalar stands for where an object has one field that matters: `pause: 10m`."""
    fields = schema.get("properties", {})
    plain = [name for name, one in fields.items() if one.get("type") not in ("object", "array")]
    choices = (list(fields), list(schema.get("required", ())), plain)
    needed = next((names for names in choices if len(names) == 1), [])
    if "pool" in fields and isinstance(value, str) and value and not left_in(value):
        return f"must be an object, not {value!r:.60}: write {{pool: {{name: {value:.60}}}}}"
    if len(needed) != 1 or isinstance(value, bool) or not isinstance(value, str | int) or not str(value):
        return ""
    return (
        left_in(str(value)) or f"must be an object, not {value!r:.60}: write {{{needed[0]}: {value!s:.60}}}"
    )


def _nothing(schema: Schema) -> str:
    """A field without a value."""
    wanted = _TYPES.get(str(schema.get("type")), "a value")
    return f"nothing stands after the colon: it counts as left out; write {wanted}, or see to the indentation"


def _mismatch(wanted: str, value: Any, *, time: bool = False) -> str:
    told = _TYPES.get(wanted, "another value")
    match value:
        case bool():
            if wanted == "string":
                return (
                    f"must be {told}, but on, off, yes, no, true and false are truth values: put it in quotes"
                )
            return f"must be {told}, not a truth value (on, off, yes and no are such in YAML)"
        case int() | float():
            if wanted == "string":
                spoken = spoken_duration(value) if time else ""
                return f"must be {told}, not the number {value}{spoken or ': put it in quotes'}"
            return f"must be {told}, not {value}"
        case str():
            if left_in(value):
                return left_in(value)
            more = ": take the quotes away" if _plain_scalar(wanted, value) else ""
            if wanted in ("array", "object"):
                more = (
                    f": see to the indentation{', and begin each item with -' if wanted == 'array' else ''}"
                )
            return f"must be {told}, not the text {value!r:.60}{more}"
        case list():
            return f"must be {told}, not a list: take the - away"
        case None:
            return f"must be {told}, and nothing stands there"
    return f"must be {told}, not an object" + (": begin its items with -" if wanted == "array" else "")


def _plain_scalar(wanted: str, value: str) -> bool:
    if wanted == "boolean":
        return value.lower() in ("true", "false")
    return wanted in ("integer", "number") and bool(re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", value))
