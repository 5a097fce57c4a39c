"""Engine values to JSON and back, derived from the API's models: names, limits and what may be left out are theirs.

A ``Record`` pairs a frozen dataclass with a model. Fields of one name belong together; the few others are named.
How a value is written follows from the dataclass's annotations. Reading is forgiving field by field: what cannot be
read is as if it had never been written, and its path is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import MaxLen
from pydantic.fields import FieldInfo

from rollouts.api.base import ApiModel
from rollouts.api.scalars import format_time, parse_stamp, parse_weight, weight_json
from rollouts.engine.versions import RevisionHash
from rollouts.units import Weight

__all__ = ["Json", "Record", "Stored", "Unreadable"]

Json = dict[str, Any]
T = TypeVar("T")

Unreadable = (ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""What readers of scalars raise."""

_LONGEST_LIST = 64


@dataclass(frozen=True, slots=True)
class Stored:
    """How a field is stored, beside its schema. It is metadata of the model's field."""

    kept: bool = False
    """Written although it is empty."""
    cut: int | None = None
    """Characters after which text is cut: a status must stay readable, and far below etcd's limit."""
    least: int = 0
    """Characters without which text is none."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One sort of value: ``read(json, path, bad)`` and ``write(value)``."""

    read: Callable[[Any, str, list[str]], Any]
    write: Callable[[Any], Any]
    zero_is_empty: bool = True
    nested: bool = True
    """Whether there are paths below it."""


def _scalar(read: Callable[[Any], Any], write: Callable[[Any], Any], *, zero: bool = True) -> Codec:
    return Codec(lambda value, _path, _bad: read(value), write, zero, nested=False)


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _figures(value: Any) -> dict[str, float]:
    return {str(name): float(figure) for name, figure in value.items()}


_SCALARS: dict[Any, Codec] = {
    int: _scalar(_number, int),
    bool: _scalar(_flag, bool),
    datetime: _scalar(parse_stamp, format_time),
    Weight: _scalar(parse_weight, weight_json, zero=False),
    Mapping[str, float]: _scalar(_figures, dict),
}


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    alias: str
    outer: str
    """The object around it, where the engine's value has none of its own."""
    codec: Codec
    required: bool
    default: Any
    """The model's, where the dataclass has none."""
    kept: bool
    path: str


class Record(Generic[T]):
    """The JSON of a dataclass, and of those within it: ``of`` has the ones of which something is to be said.

    ``inline``: a field whose own fields stand among the others; one that may be None is so where a field that it needs
    is not there, and its other fields are nobody's then. ``places``: fields that the model has under another
    name, or within an object (``hold.reason``). ``unstored``: fields that are not written. ``whole``: a value with a
    wrong field would be another thing, so that it is all or nothing. ``shown``: JSON that is made of the whole value.
    """

    def __init__(
        self,
        kind: type[T],
        model: type[ApiModel],
        *,
        of: Iterable[Record[Any]] = (),
        inline: str = "",
        places: Mapping[str, str] | None = None,
        unstored: tuple[str, ...] = (),
        codecs: Mapping[str, Codec] | None = None,
        whole: bool = False,
        shown: Callable[[T], Json] = lambda _: {},
    ) -> None:
        self.kind = kind
        self._records = {record.kind: record for record in of}
        self._whole = whole
        self._shown = shown
        hints = get_type_hints(kind)
        self._inline: tuple[str, Record[Any], bool] | None = None
        if inline:
            parts = get_args(hints[inline]) or (hints[inline],)
            self._inline = (inline, self._records[parts[0]], NoneType in parts)
        self._fields = [
            self._field(item, hints[item.name], model, (places or {}).get(item.name, item.name), codecs or {})
            for item in fields(kind)  # type: ignore[arg-type]
            if item.name not in (inline, *unstored)
        ]
        self._placed = [field for field in self._fields if field.outer]

    def _field(
        self, item: Any, hint: Any, model: type[ApiModel], place: str, codecs: Mapping[str, Codec]
    ) -> _Field:
        outer, _, name = place.rpartition(".")
        around = ""
        if outer:
            holder = model.model_fields[outer]
            around, model = str(holder.alias), _model(holder)
        info = model.model_fields[name]
        stored = _stored(info)
        has_default = item.default is not MISSING or item.default_factory is not MISSING
        needed = not has_default and info.default is None and NoneType not in get_args(hint)
        return _Field(
            name=item.name,
            alias=str(info.alias),
            outer=around,
            codec=codecs.get(item.name) or self._codec(hint, info, stored),
            required=info.is_required() or needed,
            default=MISSING if has_default else info.default,
            kept=stored.kept or info.is_required(),
            path=f"{around}.{info.alias}" if around else str(info.alias),
        )

    def _codec(self, hint: Any, info: FieldInfo, stored: Stored) -> Codec:
        if get_origin(hint) in (Union, UnionType):
            (hint,) = (part for part in get_args(hint) if part is not NoneType)
        if hint in (str, RevisionHash):
            return _text(stored)
        if hint in _SCALARS:
            return _SCALARS[hint]
        if get_origin(hint) is tuple:
            limit = next(
                (item.max_length for item in info.metadata if isinstance(item, MaxLen)), _LONGEST_LIST
            )
            return _list(self._codec(get_args(hint)[0], info, Stored()), limit)
        if isinstance(hint, type) and is_dataclass(hint):
            record = self._records.get(hint) or Record(hint, _model(info), of=self._records.values())
            return Codec(record.read, record.write)
        if isinstance(hint, type) and issubclass(hint, Enum):
            return _scalar(hint, lambda member: str(member.value))
        raise TypeError(f"{self.kind.__name__}: nothing reads {hint}")

    # --- writing ---

    def write(self, value: T) -> Json:
        """The JSON; what is empty is left out. Always the same for equal values."""
        found: Json = {}
        if self._inline is not None and (inner := getattr(value, self._inline[0])) is not None:
            found |= self._inline[1].write(inner)
        for field in self._fields:
            held = getattr(value, field.name)
            written = None if held is None else field.codec.write(held)
            if written is None or (not written and field.codec.zero_is_empty and not field.kept):
                continue
            (found.setdefault(field.outer, {}) if field.outer else found)[field.alias] = written
        for field in self._placed:
            if field.required and field.alias not in found.get(field.outer, {}):
                found.pop(field.outer, None)
        found |= self._shown(value)
        return {name: item for name, item in found.items() if item is not None}

    # --- reading ---

    def read(self, data: Any, path: str, bad: list[str]) -> T:
        """The value; paths of what cannot be read go to ``bad``. Raises one of ``Unreadable`` where nothing is left."""
        found, wrong, lost = self._parts(data, path)
        if lost:
            raise ValueError(lost)
        bad += wrong
        return self.kind(**found)

    def _parts(self, data: Any, path: str) -> tuple[dict[str, Any], list[str], str]:
        """Fields, paths of those that cannot be read, and the one without which nothing is left."""
        if not isinstance(data, Mapping):
            raise TypeError
        found: dict[str, Any] = {}
        wrong: list[str] = []
        lost = ""
        if self._inline is not None:
            name, record, optional = self._inline
            inner, wrong, without = record._parts(data, path)
            found[name] = None if without else record.kind(**inner)
            lost = "" if optional else without
        objects: dict[str, Mapping[str, Any]] = {"": data}
        for field in self._placed:
            if field.outer not in objects:
                objects[field.outer] = self._object(data.get(field.outer), f"{path}.{field.outer}", wrong)
        for field in self._fields:
            given = objects[field.outer].get(field.alias)
            if given is not None:
                try:
                    where = f"{path}.{field.path}" if field.codec.nested else ""
                    found[field.name] = field.codec.read(given, where, wrong)
                    continue
                except Unreadable:
                    wrong.append(f"{path}.{field.path}")
            if field.required and not field.outer:
                lost = lost or field.path
            if field.default is not MISSING:
                found[field.name] = field.default
        return found, wrong, lost or (wrong[0] if wrong and self._whole else "")

    @staticmethod
    def _object(data: Any, path: str, bad: list[str]) -> Mapping[str, Any]:
        if data is not None and not isinstance(data, Mapping):
            bad.append(path)
        return data if isinstance(data, Mapping) else {}


def _stored(info: FieldInfo) -> Stored:
    return next((item for item in reversed(info.metadata) if isinstance(item, Stored)), Stored())


def _model(info: FieldInfo) -> type[ApiModel]:
    """The model of a field's objects: ``X``, ``X | None`` or ``list[X]``."""
    parts: tuple[Any, ...] = (*get_args(info.annotation), info.annotation)
    model: type[ApiModel] = next(part for part in parts if part is not NoneType)
    return model


def _text(stored: Stored) -> Codec:
    def read(value: Any) -> str:
        if not isinstance(value, str) or len(value) < stored.least:
            raise TypeError
        return value

    return _scalar(read, lambda text: str(text)[: stored.cut])


def _list(item: Codec, limit: int) -> Codec:
    def read(value: Any, path: str, bad: list[str]) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TypeError
        found = []
        for index, given in enumerate(value[-limit:]):
            try:
                found.append(item.read(given, f"{path}[{index}]", bad))
            except Unreadable:
                bad.append(f"{path}[{index}]")
        return tuple(found)

    return Codec(read, lambda values: [item.write(value) for value in values])
