"""Rules of the generic registry for one write: metadata, generation, finalizers. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rollouts.kube.errors import Conflict, Invalid, OtherObject
from rollouts.kube.statuses import error_from_status
from rollouts.lab.memoryapi.kinds import ServedKind
from rollouts.lab.memoryapi.metadata import metadata_errors
from rollouts.lab.memoryapi.schema import apply_defaults, prune, validate
from rollouts.lab.memoryapi.transition_rules import has_rules, transition_errors
from rollouts.lab.memoryapi.typed import typed_errors

__all__ = [
    "InvalidObject",
    "OtherUid",
    "check_body",
    "check_preconditions",
    "check_typed",
    "check_update",
    "conform",
    "kind_group",
    "qualified",
    "same_content",
    "spec_changed",
]

Object = dict[str, Any]
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.:]*[a-z0-9])?$")
_LONGEST_NAME = 253
# Set by the server; what a client sends for them is ignored.
_FIXED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


class InvalidObject(Invalid):
    """An object breaks its schema; ``causes`` has one message per broken field, its path first."""

    def __init__(self, message: str, causes: tuple[str, ...]) -> None:
        super().__init__(message, status=422)
        self.causes = causes


class OtherUid(InvalidObject, OtherObject):
    """A write names another UID than the object's."""


def qualified(kind: ServedKind) -> str:
    """``plural.group`` as error messages name a kind."""
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def check_body(kind: ServedKind, version: str, namespace: str, obj: Any) -> None:
    """Body against URL: kind, apiVersion, namespace, name. Raises Invalid (400 or 422)."""
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
        raise Invalid(f"the body is not a {kind.name}: it has no metadata", status=400)
    want = f"{kind.group}/{version}" if kind.group else version
    if obj.get("apiVersion") != want or obj.get("kind") != kind.name:
        given = f"{obj.get('apiVersion')}, Kind={obj.get('kind')}"
        raise Invalid(f"the object ({given}) does not match the expected ({want}, {kind.name})", status=400)
    metadata = obj["metadata"]
    if metadata.setdefault("namespace", namespace) != namespace and kind.namespaced:
        raise Invalid(
            "the namespace of the provided object does not match the namespace sent on the request",
            status=400,
        )
    if not kind.namespaced:
        del metadata["namespace"]
    name = metadata.get("name")
    if kind.custom and isinstance(name, str | None):
        pass  # ``conform`` judges it, with everything else that is wrong
    elif not isinstance(name, str) or len(name) > _LONGEST_NAME or not _NAME.match(name):
        raise Invalid(
            f'{kind.name} "{name}" is invalid: metadata.name: Invalid value: a lowercase RFC 1123 subdomain '
            f"of at most {_LONGEST_NAME} characters is needed",
            status=422,
        )
    for field in ("labels", "annotations"):
        check_strings(kind, metadata, field)


def check_typed(kind: ServedKind, version: str, config: Any) -> None:
    """Server-side apply prunes nothing: what the schema does not declare is an error, of code 500 and no reason."""
    schema = kind.schemas.get(version)
    if not schema or not isinstance(config, dict) or not isinstance(config.get("metadata"), dict):
        return
    # Of several it is chance which one a real server names.
    error = next(typed_errors(config, schema), None)
    if error is not None:
        metadata = config["metadata"]
        subject = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"
        text = f"failed to create typed patch object ({subject}; {kind.group}/{version}, Kind={kind.name}): {error}"
        raise error_from_status(500, {"message": text})


def check_strings(kind: ServedKind, metadata: Object, field: str) -> None:
    """Labels and annotations are maps of strings. Raises Invalid (400); drops an empty field."""
    values = metadata.get(field)
    if values is None:
        metadata.pop(field, None)
        return
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise Invalid(
            f"{kind.name} in version cannot be handled: metadata.{field} must map strings to strings",
            status=400,
        )


def check_preconditions(
    kind: ServedKind, name: str, old: Object, *, uid: str = "", resource_version: str = ""
) -> None:
    """Optimistic locking. Raises Conflict."""
    metadata = old["metadata"]
    if uid and uid != metadata["uid"]:
        raise Conflict(
            f'Operation cannot be fulfilled on {qualified(kind)} "{name}": Precondition failed: '
            f"UID in precondition: {uid}, UID in object meta: {metadata['uid']}",
            status=409,
        )
    if resource_version and resource_version != metadata["resourceVersion"]:
        raise Conflict(
            f'Operation cannot be fulfilled on {qualified(kind)} "{name}": the object has been modified; '
            "please apply your changes to the latest version and try again",
            status=409,
        )


def check_update(kind: ServedKind, old: Object, new: Object, *, subresource: str) -> Object:
    """``new`` with everything that this write may not change taken from ``old``."""
    if subresource == "status":
        result = {**old, "metadata": dict(old["metadata"])}
        result.pop("status", None)
        if new.get("status") is not None:
            result["status"] = new["status"]
        return result
    if kind.status_subresource:
        new.pop("status", None)
        if "status" in old:
            new["status"] = old["status"]
    metadata, was = new["metadata"], old["metadata"]
    for field in _FIXED:
        metadata.pop(field, None)
        if field in was:
            metadata[field] = was[field]
    finalizers = metadata.get("finalizers")
    if not finalizers:
        metadata.pop("finalizers", None)
    elif "deletionTimestamp" in was and set(finalizers) - set(was.get("finalizers") or ()):
        raise Invalid(
            f"{kind.name} is being deleted: metadata.finalizers: no new finalizers can be added", status=422
        )
    return new


def conform(kind: ServedKind, version: str, obj: Object, *, old: Object, strict: bool) -> None:
    """Prune, default and validate what differs from ``old``, in place. Raises Invalid with field paths."""
    schema = kind.schemas.get(version) or {}
    if schema:
        dropped = prune(obj, schema, old=old)
        if dropped and strict:
            _refuse_unknown(kind, version, dropped, new=not old)
        apply_defaults(obj, schema, old)
    errors = list(metadata_errors(obj["metadata"], old.get("metadata") or {}, named=kind.custom))
    if schema:
        errors += validate(obj, schema, old)
        if any(_blocking(error) for error in errors):
            errors += [_RULES_UNCHECKED] if _ruled(kind, version) else []
        elif old:
            errors += transition_errors(obj, old, schema)
    if errors:
        text = errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]"
        subject = f'{kind_group(kind)} "{obj["metadata"].get("name") or ""}"'
        raise InvalidObject(f"{subject} is invalid: {text}", tuple(errors))


def _refuse_unknown(kind: ServedKind, version: str, dropped: list[str], *, new: bool) -> None:
    """``fieldValidation=Strict``: of a new object 400, of the result of a patch 422."""
    text = "strict decoding error: " + ", ".join(f'unknown field "{path}"' for path in dropped)
    if new:
        message = f'{kind.name} in version "{version}" cannot be handled as a {kind.name}: {text}'
        raise Invalid(message, status=400)
    cause = f"patch: Invalid value: {text}"
    raise InvalidObject(f' "" is invalid: {cause}', (cause,))


_RULES_UNCHECKED = (
    "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the "
    "existing errors to complete validation"
)


def _blocking(error: str) -> bool:
    """Whether CEL rules are not evaluated after this error (apiextensions, ``hasBlockingErr``)."""
    words = error.partition(": ")[2]
    return words.startswith(("Unsupported value", "Required value", "Too long", "Too many")) or (
        " must be of type " in words
    )


def _ruled(kind: ServedKind, version: str) -> bool:
    """Whether the kind's schema has CEL rules at all. Only invalid objects ask."""
    return has_rules(kind.schemas.get(version))


def kind_group(kind: ServedKind) -> str:
    """``Kind.group`` as messages of what is invalid name it."""
    return f"{kind.name}.{kind.group}" if kind.group else kind.name


def _without(obj: Mapping[str, Any], *fields: str) -> Object:
    return {key: value for key, value in obj.items() if key not in fields}


def spec_changed(kind: ServedKind, old: Object, new: Object) -> bool:
    """Whether ``metadata.generation`` moves: anything but metadata (and a separate status) changed."""
    if not kind.counts_generations:
        return False
    skip = ("metadata", "status") if kind.status_subresource else ("metadata",)
    return _without(old, *skip) != _without(new, *skip)


def same_content(old: Object, new: Object) -> bool:
    """Whether a write would change nothing; the server then stores nothing and sends no event."""
    skip = ("managedFields", "resourceVersion")
    return _without(old, "metadata") == _without(new, "metadata") and _without(
        old["metadata"], *skip
    ) == _without(new["metadata"], *skip)
