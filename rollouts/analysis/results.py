"""A result as CEL sees it: a number, or series that are numbers with labels.

Both are read as Argo Rollouts' conditions read them, too: ``result[0]`` of a number is that number, and a series can be
compared and calculated with. So ``result[0] >= 0.95`` holds alike for ``sum(...)`` and for ``sum by (pod) (...)``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from celpy import celtypes
from celpy.evaluation import base_functions

from rollouts.analysis.types import Labelled, Value

__all__ = ["FUNCTIONS", "SAMPLES", "to_cel"]


class _Number(celtypes.DoubleType):
    """A double that may be compared with and divided by whole numbers: people write ``result == 2``."""

    def __eq__(self, other: object) -> bool:
        return bool(isinstance(other, int | float) and float(self) == float(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(float(self))

    def __truediv__(self, other: Any) -> Any:
        return _Number(float(self) / float(other)) if isinstance(other, int | float) else NotImplemented

    def __rtruediv__(self, other: Any) -> Any:
        return _Number(float(other) / float(self)) if isinstance(other, int | float) else NotImplemented


class _Series(celtypes.MapType):
    """``value`` and ``labels``; in a comparison or a calculation it is its value."""


class _AnyLabels(celtypes.MapType):
    """Labels of which every one is there: for trying a condition before there are any."""

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        return celtypes.StringType("")


def _series(value: float, labels: celtypes.MapType) -> _Series:
    return _Series({celtypes.StringType("value"): _Number(value), celtypes.StringType("labels"): labels})


def _of(item: Labelled) -> _Series:
    labels = {celtypes.StringType(key): celtypes.StringType(value) for key, value in item.labels}
    return _series(item.value, celtypes.MapType(labels))


def to_cel(value: Value) -> Any:
    """A result as a value of cel-python."""
    if isinstance(value, tuple):
        return celtypes.ListType([_of(item) for item in value])
    return _Number(value)


SAMPLES: tuple[Any, ...] = (_Number(1.0), celtypes.ListType([_series(1.0, _AnyLabels())]))
"""A result of each kind, for trying a condition."""


def _plain(value: Any) -> Any:
    return value[celtypes.StringType("value")] if isinstance(value, _Series) else value


def _of_values(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of the values of series. An error, which the evaluator passes as a value, stays one."""

    def applied(*values: Any) -> Any:
        return function(*map(_plain, values))

    return applied


def _index(of: Any, index: Any) -> Any:
    if not isinstance(of, _Number):
        return operator.getitem(of, index)
    if index not in (0, -1):
        raise IndexError("the result is one number")
    return _series(of, celtypes.MapType())


def _size(of: Any) -> Any:
    return celtypes.IntType(1) if isinstance(of, _Number) else base_functions["size"](of)


_CALCULATING = (
    "_<_",
    "_<=_",
    "_>_",
    "_>=_",
    "_==_",
    "_!=_",
    "_+_",
    "_-_",
    "_*_",
    "_/_",
    "-_",
    "double",
    "int",
)

FUNCTIONS: dict[str, Any] = {
    **{name: _of_values(base_functions[name]) for name in (*_CALCULATING, "string")},
    "_[_]": _index,
    "size": _size,
}
"""What takes the place of cel-python's own functions."""
