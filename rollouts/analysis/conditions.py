"""Conditions in CEL over ``result``, through cel-python, within limits.

The author of a condition is not trusted. CEL has no loops but the macros over lists, so the length of the text,
the number of macros and the length of the list bound the work: two nested macros over 100 series of a vector
are 10,000 evaluations of a 1,024 character expression at worst. Regular expressions are RE2's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import celpy
from celpy import celtypes
from celpy.celparser import CELParseError
from celpy.evaluation import CELEvalError

from rollouts.analysis.types import Labelled, Value

__all__ = ["MAX_LENGTH", "MAX_SERIES", "ConditionError", "compile_condition", "condition_problem", "evaluate"]

MAX_LENGTH = 1024
MAX_SERIES = 100
_MAX_MACROS = 2
_MAX_NESTING = 24

_MACRO = re.compile(r"\.\s*(all|exists|exists_one|map|filter)\s*\(")
_OPENING, _CLOSING = "([{", ")]}"


class ConditionError(Exception):
    """The condition cannot be evaluated; the text says why and what to do."""


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


def condition_problem(text: str) -> str | None:
    """What is wrong with a condition before it ever runs; None when it can be used."""
    try:
        compile_condition(text)
    except ConditionError as error:
        return str(error)
    return None


def _check_limits(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"the condition is longer than {MAX_LENGTH} characters")
    if len(_MACRO.findall(text)) > _MAX_MACROS:
        raise ConditionError(f"the condition uses more than {_MAX_MACROS} macros (all, exists, map, filter)")
    depth = deepest = 0
    for char in text:
        depth += (char in _OPENING) - (char in _CLOSING)
        deepest = max(deepest, depth)
    if deepest > _MAX_NESTING or len(re.findall(r"[!?-]\s*(?=[!?-])", text)) > _MAX_NESTING:
        raise ConditionError(f"the condition is nested deeper than {_MAX_NESTING} levels")


@lru_cache(maxsize=1024)
def compile_condition(text: str) -> Callable[[Value], bool]:
    """A function from a result to the condition's truth. Raises ConditionError for what is no condition."""
    _check_limits(text)
    try:
        environment = celpy.Environment()
        program = environment.program(environment.compile(text))
    except (CELParseError, ValueError, TypeError, RecursionError, KeyError) as error:
        raise ConditionError(f"the condition is not valid CEL: {_brief(error)}") from None
    _probe(program, text)

    def run(value: Value) -> bool:
        return _run(program, text, value)

    return run


def _probe(program: Any, text: str) -> None:
    """Try the condition on a number and on a series: names that exist nowhere show here, not at night."""
    samples: tuple[Value, ...] = (1.0, (Labelled(value=1.0, labels=(("pod", "p"),)),))
    reasons = []
    for sample in samples:
        try:
            _run(program, text, sample)
            return
        except ConditionError as error:
            reasons.append(str(error))
    for reason in reasons:
        if "undeclared reference" in reason or "true or false" in reason:
            raise ConditionError(reason)


def _to_cel(value: Value) -> Any:
    if isinstance(value, tuple):
        return celtypes.ListType(
            celtypes.MapType(
                {
                    celtypes.StringType("value"): _Number(item.value),
                    celtypes.StringType("labels"): celtypes.MapType(
                        {celtypes.StringType(k): celtypes.StringType(v) for k, v in item.labels}
                    ),
                }
            )
            for item in value
        )
    return _Number(value)


def _run(program: Any, text: str, value: Value) -> bool:
    if isinstance(value, tuple) and len(value) > MAX_SERIES:
        raise ConditionError(
            f"the result has {len(value)} series, more than {MAX_SERIES}: aggregate in the query"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ConditionError("the result is not a finite number")
    try:
        answer = program.evaluate({"result": _to_cel(value)})
    except (CELEvalError, ValueError, TypeError, ArithmeticError, RecursionError, LookupError) as error:
        raise ConditionError(f"{text!r:.80} cannot be evaluated: {_brief(error)}") from None
    if not isinstance(answer, celtypes.BoolType | bool):
        raise ConditionError(f"{text!r:.80} is not true or false: compare the result with something")
    return bool(answer)


def _brief(error: Exception) -> str:
    """The first line of what CEL says, without Python types."""
    raw = error.args[0] if error.args else error
    text = str(raw).strip().splitlines() or [type(error).__name__]
    return re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", text[0])[:160]


def evaluate(text: str, value: Value) -> bool:
    """Truth of a condition for a result. Raises ConditionError."""
    return compile_condition(text)(value)
