"""Who owns which field: managedFields, and server-side apply on top of them.

The model is that of structured-merge-diff with one simplification: every list is atomic, one value with
one owner. A field is a path to a scalar, a list or an empty map. (Kubernetes docs, "Server-Side Apply".)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Any

from rollouts.kube.errors import Conflict

__all__ = [
    "AppliedObject",
    "ApplyConflict",
    "FieldOwner",
    "Operation",
    "Writer",
    "after_apply",
    "after_update",
    "render",
]

Path = tuple[str, ...]
Object = dict[str, Any]
_NONE: frozenset[Path] = frozenset()
# Fields that belong to the server; nobody owns them.
_SYSTEM_METADATA = frozenset(
    {
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "managedFields",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
    }
)


class Operation(Enum):
    """How a manager came to own a field."""

    APPLY = "Apply"
    UPDATE = "Update"


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """One write's identity: who, how, under which version, through which subresource, when (RFC 3339)."""

    manager: str
    operation: Operation
    api_version: str
    subresource: str = ""
    time: str

    def same(self, owner: FieldOwner) -> bool:
        """Whether ``owner`` is the entry that this write belongs to."""
        writer = owner.writer
        return (self.manager, self.operation, self.api_version, self.subresource) == (
            writer.manager,
            writer.operation,
            writer.api_version,
            writer.subresource,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldOwner:
    """One entry of managedFields."""

    writer: Writer
    paths: frozenset[Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedObject:
    """Result of a server-side apply: the merged object and the owners after it."""

    merged: Object
    owners: tuple[FieldOwner, ...]


def _collect(value: Any, prefix: Path, into: set[Path]) -> None:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            _collect(item, (*prefix, key), into)
    else:
        into.add(prefix)


def _owned_roots(obj: Mapping[str, Any]) -> Iterable[tuple[Path, Any]]:
    for key, value in obj.items():
        if key in ("apiVersion", "kind"):
            continue
        if key == "metadata" and isinstance(value, dict):
            for name, item in value.items():
                if name not in _SYSTEM_METADATA:
                    yield ("metadata", name), item
        else:
            yield (key,), value


def _leaves(obj: Mapping[str, Any]) -> frozenset[Path]:
    into: set[Path] = set()
    for path, value in _owned_roots(obj):
        _collect(value, path, into)
    return frozenset(into)


def _diff(old: Any, new: Any, prefix: Path, written: set[Path], removed: set[Path]) -> None:
    if isinstance(old, dict) and isinstance(new, dict) and old and new:
        for key, item in new.items():
            if key in old:
                _diff(old[key], item, (*prefix, key), written, removed)
            else:
                _collect(item, (*prefix, key), written)
        for key in old.keys() - new.keys():
            _collect(old[key], (*prefix, key), removed)
    elif old != new:
        _collect(new, prefix, written)
        _collect(old, prefix, removed)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[frozenset[Path], frozenset[Path]]:
    written: set[Path] = set()
    removed: set[Path] = set()
    before, after = dict(_owned_roots(old)), dict(_owned_roots(new))
    for path, value in after.items():
        if path in before:
            _diff(before[path], value, path, written, removed)
        else:
            _collect(value, path, written)
    for path in before.keys() - after.keys():
        _collect(before[path], path, removed)
    return frozenset(written), frozenset(removed) - written


def after_update(
    owners: tuple[FieldOwner, ...], old: Mapping[str, Any], new: Mapping[str, Any], writer: Writer
) -> tuple[FieldOwner, ...]:
    """Owners after a create (``old`` empty), update or patch: the writer takes what it changed."""
    written, removed = _changes(old, new)
    lost = written | removed
    if not lost:
        return owners
    mine = written
    kept: list[FieldOwner] = []
    for owner in owners:
        if writer.same(owner):
            mine = mine | (owner.paths - removed)
        elif left := owner.paths - lost:
            kept.append(owner if left is owner.paths else replace(owner, paths=left))
    if mine:
        kept.append(FieldOwner(writer=writer, paths=mine))
    return tuple(kept)


def _value_at(obj: Any, path: Path) -> Any:
    for part in path:
        if not isinstance(obj, dict) or part not in obj:
            return None
        obj = obj[part]
    return obj


def _overlap(one: Path, other: Path) -> bool:
    short = min(len(one), len(other))
    return one[:short] == other[:short]


def _overlapping(owned: frozenset[Path], paths: frozenset[Path]) -> frozenset[Path]:
    exact = owned & paths
    rest = paths - owned
    return exact | {one for one in owned - exact if any(_overlap(one, other) for other in rest)}


def _merge(live: Any, config: Any) -> Any:
    if isinstance(live, dict) and isinstance(config, dict):
        for key, value in config.items():
            live[key] = _merge(live[key], value) if key in live else value
        return live
    return config


def _remove(obj: Any, path: Path) -> None:
    """Remove one field, and the maps above it that it leaves empty."""
    if not isinstance(obj, dict) or path[0] not in obj:
        return
    if len(path) > 1:
        _remove(obj[path[0]], path[1:])
        if obj[path[0]] != {}:
            return
    if path[0] != "metadata":
        del obj[path[0]]


class ApplyConflict(Conflict):
    """Other managers own what an apply would change; ``causes`` has (message, field) of each field."""

    def __init__(self, message: str, causes: tuple[tuple[str, str], ...]) -> None:
        super().__init__(message, status=409)
        self.causes = causes


def _conflict(writers: list[tuple[FieldOwner, frozenset[Path]]]) -> ApplyConflict:
    parts: list[str] = []
    causes: list[tuple[str, str]] = []
    for owner, paths in writers:
        fields = [f".{'.'.join(path)}" for path in sorted(paths)]
        how = "" if owner.writer.operation is Operation.APPLY else f" using {owner.writer.api_version}"
        whom = f'with "{owner.writer.manager}"{how}'
        causes += [(f"conflict {whom}", field) for field in fields]
        parts.append(f"conflicts {whom}:" + "".join(f"\n- {field}" for field in fields))
    if len(causes) == 1:
        text, field = causes[0]
        return ApplyConflict(f"Apply failed with 1 conflict: {text}: {field}", tuple(causes))
    return ApplyConflict(f"Apply failed with {len(causes)} conflicts: {chr(10).join(parts)}", tuple(causes))


def after_apply(
    owners: tuple[FieldOwner, ...], live: Object, config: Object, writer: Writer, *, force: bool
) -> AppliedObject:
    """Merge ``config`` into ``live`` (changed in place). Raises Conflict unless ``force``."""
    wanted = _leaves(config)
    before = next((owner.paths for owner in owners if writer.same(owner)), _NONE)
    changing = frozenset(path for path in wanted if _sets(live, config, path))
    others = [owner for owner in owners if not writer.same(owner)]
    clashes = [(owner, clash) for owner in others if (clash := _overlapping(owner.paths, changing))]
    if clashes and not force:
        raise _conflict(clashes)
    kept = [replace(owner, paths=left) for owner in others if (left := owner.paths - _lost(clashes, owner))]
    merged = _merge(live, {key: value for key, value in config.items() if key != "metadata"})
    merged["metadata"] = _merge(merged["metadata"], _own_metadata(config))
    for path in before - wanted:
        claimed = any(_overlapping(owner.paths, frozenset({path})) for owner in kept)
        if not claimed and not any(_overlap(path, other) for other in wanted):
            _remove(merged, path)
    return AppliedObject(merged=merged, owners=(*kept, FieldOwner(writer=writer, paths=wanted)))


def _sets(live: Any, config: Any, path: Path) -> bool:
    """Whether applying ``config`` changes the value at ``path``; an empty map changes no map."""
    old, new = _value_at(live, path), _value_at(config, path)
    return old != new and not (new == {} and isinstance(old, dict))


def _lost(clashes: list[tuple[FieldOwner, frozenset[Path]]], owner: FieldOwner) -> frozenset[Path]:
    return next((paths for other, paths in clashes if other is owner), _NONE)


def _own_metadata(config: Mapping[str, Any]) -> Object:
    metadata = config.get("metadata") or {}
    return {key: value for key, value in metadata.items() if key not in _SYSTEM_METADATA}


@lru_cache(maxsize=512)
def _tree(paths: frozenset[Path]) -> Object:
    root: Object = {}
    for path in sorted(paths):
        node = root
        for part in path:
            node = node.setdefault(f"f:{part}", {})
    return root


def render(owners: tuple[FieldOwner, ...]) -> list[Object]:
    """``metadata.managedFields``: applies first, then by time, as the real server sorts them."""
    ordered = sorted(
        owners, key=lambda o: (o.writer.operation is Operation.UPDATE, o.writer.time, o.writer.manager)
    )
    entries: list[Object] = []
    for owner in ordered:
        writer = owner.writer
        entry: Object = {
            "manager": writer.manager,
            "operation": writer.operation.value,
            "apiVersion": writer.api_version,
            "time": writer.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": _tree(owner.paths),
        }
        if writer.subresource:
            entry["subresource"] = writer.subresource
        entries.append(entry)
    return entries
