"""JSON patch (RFC 6902), merge patch (RFC 7386) and the strategic merge patch that kubectl sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollouts.kube.errors import Conflict, Invalid

__all__ = ["PatchOutdated", "PatchRefused", "json_patch", "merge_patch", "strategic_merge_patch"]

# kube-apiserver refuses longer JSON patches (maxJSONPatchOperations).
_MAX_OPERATIONS = 10_000
# Merge keys of the built-in types' lists; a list that is not named here is replaced whole.
_MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "conditions": ("type",),
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port"),
    "imagePullSecrets": ("name",),
    "ownerReferences": ("uid",),
    "secrets": ("name",),
}
_MISSING = object()


class PatchOutdated(Conflict):
    """A JSON patch with a ``test`` does not apply. A real server answers 422, and so do we over HTTP."""


class PatchRefused(Invalid):
    """A JSON patch without a ``test`` does not apply."""


def _refuse(message: str) -> Invalid:
    return Invalid(message, status=422)


def _parts(pointer: Any) -> list[str]:
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise _refuse(f"{pointer!r} is not a JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _index(part: str, length: int) -> int:
    if not part.isdigit() or int(part) >= length:
        raise _refuse(f"index {part!r} is outside a list of {length}: missing value")
    return int(part)


def _child(node: Any, part: str, pointer: str) -> Any:
    if isinstance(node, list):
        return node[_index(part, len(node))]
    if isinstance(node, dict) and part in node:
        return node[part]
    raise _refuse(f"doc is missing path {pointer}: missing value")


def _parent(doc: Any, pointer: str) -> tuple[Any, str]:
    parts = _parts(pointer)
    if not parts:
        raise _refuse("a patch of the whole document is not supported")
    node = doc
    for part in parts[:-1]:
        node = _child(node, part, pointer)
    return node, parts[-1]


def _add(doc: Any, pointer: str, value: Any) -> None:
    node, part = _parent(doc, pointer)
    if isinstance(node, list):
        node.insert(len(node) if part == "-" else _index(part, len(node) + 1), value)
    elif isinstance(node, dict):
        node[part] = value
    else:
        raise _refuse(f"add operation does not apply: doc is missing path {pointer}: missing value")


def _take(doc: Any, pointer: str) -> Any:
    node, part = _parent(doc, pointer)
    value = _child(node, part, pointer)
    if isinstance(node, list):
        del node[int(part)]
    else:
        del node[part]
    return value


def _replace(doc: Any, pointer: str, value: Any) -> None:
    """As kube-apiserver does, and unlike RFC 6902: a missing member of a map is added."""
    node, part = _parent(doc, pointer)
    if not isinstance(node, dict):
        _child(node, part, pointer)
    node[int(part) if isinstance(node, list) else part] = value


def _test(doc: Any, pointer: str, value: Any) -> None:
    node = doc
    try:
        for part in _parts(pointer):
            node = _child(node, part, pointer)
    except Invalid:
        node = None
    if node != value:
        raise _refuse(f"testing value {pointer} failed: test failed")


def _apply_one(doc: Any, operation: Mapping[str, Any]) -> None:
    name, pointer = operation.get("op"), operation.get("path", "")
    if name == "test":
        _test(doc, pointer, operation.get("value"))
    elif name == "add":
        _add(doc, pointer, operation.get("value"))
    elif name == "replace":
        _replace(doc, pointer, operation.get("value"))
    elif name == "remove":
        _take(doc, pointer)
    elif name == "move":
        _add(doc, pointer, _take(doc, operation.get("from", "")))
    elif name == "copy":
        node, part = _parent(doc, operation.get("from", ""))
        _add(doc, pointer, _child(node, part, pointer))
    else:
        raise _refuse(f"unexpected operation {name!r} of a JSON patch")


def json_patch(doc: dict[str, Any], operations: Any) -> dict[str, Any]:
    """``doc`` changed in place. Raises PatchOutdated, Invalid (400 not a list, 422 does not apply)."""
    if not isinstance(operations, list) or not all(isinstance(item, dict) for item in operations):
        raise Invalid("a JSON patch is a list of operations", status=400)
    if len(operations) > _MAX_OPERATIONS:
        raise Invalid(f"a JSON patch has at most {_MAX_OPERATIONS} operations", status=413)
    guarded = any(operation.get("op") == "test" for operation in operations)
    for operation in operations:
        try:
            _apply_one(doc, operation)
        except Invalid as error:
            refusal = PatchOutdated if guarded else PatchRefused
            raise refusal(str(error), status=422) from None
    return doc


def merge_patch(doc: Any, patch: Any) -> Any:
    """RFC 7386: maps merge, null removes, anything else replaces. ``doc`` is changed in place."""
    if not isinstance(patch, dict):
        return patch
    target = doc if isinstance(doc, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge_patch(target.get(key), value)
    return target


def _merge_list(live: list[Any], patch: list[Any], keys: tuple[str, ...]) -> list[Any]:
    def key_of(item: Any) -> Any:
        return next((item[key] for key in keys if key in item), _MISSING) if isinstance(item, dict) else item

    for item in patch:
        position = next((i for i, old in enumerate(live) if key_of(old) == key_of(item)), None)
        if isinstance(item, dict) and item.get("$patch") == "delete":
            live = [old for old in live if key_of(old) != key_of(item)]
        elif position is None:
            live.append(strategic_merge_patch({}, item))
        else:
            live[position] = strategic_merge_patch(live[position], item)
    return live


def strategic_merge_patch(doc: Any, patch: Any) -> Any:
    """Merge patch whose well-known lists merge by key; ordering directives are ignored."""
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    target = doc if isinstance(doc, dict) else {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.split("/", 1)[1]
            target[name] = [item for item in target.get(name) or [] if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            target.pop(key, None)
        elif isinstance(value, list) and key in _MERGE_KEYS and isinstance(target.get(key), list):
            target[key] = _merge_list(target[key], value, _MERGE_KEYS[key])
        elif key == "finalizers" and isinstance(value, list):
            live = target.get(key) or []
            target[key] = live + [item for item in value if item not in live]
        else:
            target[key] = strategic_merge_patch(target.get(key), value)
    return target
