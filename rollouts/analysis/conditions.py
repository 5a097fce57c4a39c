"""Conditions in CEL over ``result``, through cel-python, within limits.

The author of a condition is not trusted. CEL has no loops but the macros over lists, so the length of the text,
the number of macros, the length of literal lists and that of the result bound the work. All of it is counted on the
syntax tree: text can hide a macro from any search (in a comment, with a space), the tree cannot. The bound is still
seconds at worst (two nested macros over 100 series are 10,000 evaluations, at 0.65 ms each), and parsing itself takes
20 ms of the longest text, so the controller does neither by itself: ``analysis/evaluator.py`` does, in a process
under a hard budget. Regular expressions are RE2's.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import celpy
from celpy import celtypes
from celpy.celparser import CELParseError
from celpy.evaluation import CELEvalError

from rollouts.analysis.types import Labelled, Value

__all__ = [
    "MAX_LENGTH",
    "MAX_SERIES",
    "ConditionError",
    "check_size",
    "compile_condition",
    "condition_problem",
    "evaluate",
    "plain_comparison",
]

MAX_LENGTH = 1024
MAX_SERIES = 100
_MAX_MACROS = 2
_MAX_NESTING = 24
_MAX_ELEMENTS = 16
"""Of literal lists and maps together: a macro runs over them like over the result."""

_MACROS = frozenset({"all", "exists", "exists_one", "map", "filter", "reduce", "min"})
"""Methods that cel-python evaluates once per element, the two beyond CEL's own included."""
_NESTING = frozenset(
    {"paren_expr", "list_lit", "map_lit", "ident_arg", "dot_ident_arg", "member_dot_arg", "member_index"}
    | {"member_object"}
)
_BRANCHES = {"expr": 3, "unary": 2}
"""Nodes that are only levels of the grammar unless they have so many children: ``a ? b : c`` and ``!a``."""
_TYPE_NAME = re.compile(r"<class '[\w.]{0,200}?(\w{1,200})'>")


_FAILURES = (
    *(CELParseError, CELEvalError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError),
    *(AttributeError, AssertionError, NotImplementedError),
)
"""What cel-python raises on odd input, beside its own errors."""


_PLAIN = re.compile(r" {0,8}result {0,8}(<=|>=|==|!=|<|>) {0,8}(-?[0-9]{1,15}(?:\.[0-9]{1,15})?) {0,8}")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


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


def plain_comparison(text: str) -> Callable[[float], bool] | None:
    """``result < 0.05``, the usual condition, without CEL; None for any other. It costs nothing worth a budget."""
    found = _PLAIN.fullmatch(text)
    if found is None:
        return None
    compare, limit = _COMPARE[found[1]], float(found[2])
    return lambda value: compare(value, limit)


def condition_problem(text: str) -> str | None:
    """What is wrong with a condition before it ever runs; None when it can be used."""
    try:
        compile_condition(text)
    except ConditionError as error:
        return str(error)
    return None


def _check_limits(tree: Any) -> None:
    """Bounds of what evaluation can cost, counted on the syntax tree. Raises ConditionError."""
    macros = elements = 0
    pending = [(tree, 0)]
    while pending:
        node, depth = pending.pop()
        kind = getattr(node, "data", None)
        if kind is None:  # a token
            continue
        children = [child for child in node.children if child is not None]
        depth += kind in _NESTING or len(children) == _BRANCHES.get(kind, 0)
        macros += kind == "member_dot_arg" and str(node.children[1]) in _MACROS
        if kind in ("list_lit", "map_lit"):
            elements += sum(len(child.children) for child in children)
        if depth > _MAX_NESTING:
            raise ConditionError(f"the condition is nested deeper than {_MAX_NESTING} levels")
        pending += [(child, depth) for child in children]
    if macros > _MAX_MACROS:
        raise ConditionError(f"the condition uses more than {_MAX_MACROS} macros (all, exists, map, filter)")
    if elements > _MAX_ELEMENTS:
        raise ConditionError(
            f"the condition writes lists or maps of {elements} elements, at most {_MAX_ELEMENTS} are possible"
        )


@lru_cache(maxsize=1024)
def compile_condition(text: str) -> Callable[[Value], bool]:
    """A function from a result to the condition's truth. Raises ConditionError for what is no condition."""
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"the condition is longer than {MAX_LENGTH} characters")
    try:
        environment = celpy.Environment()
        tree = environment.compile(text)
        _check_limits(tree)
        program = environment.program(tree)
    except _FAILURES as error:
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


def check_size(value: Value) -> None:
    """Raise ConditionError for a result with too many series to judge."""
    if isinstance(value, tuple) and len(value) > MAX_SERIES:
        raise ConditionError(
            f"the result has {len(value)} series, more than {MAX_SERIES}: aggregate in the query"
        )


def _run(program: Any, text: str, value: Value) -> bool:
    check_size(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConditionError("the result is not a finite number")
    try:
        answer = program.evaluate({"result": _to_cel(value)})
    except _FAILURES as error:
        raise ConditionError(f"{text!r:.80} cannot be evaluated: {_brief(error)}") from None
    if not isinstance(answer, celtypes.BoolType | bool):
        raise ConditionError(f"{text!r:.80} is not true or false: compare the result with something")
    return bool(answer)


def _brief(error: Exception) -> str:
    """The first line of what CEL says, without Python types."""
    raw = error.args[0] if error.args else error
    text = str(raw).strip().splitlines() or [type(error).__name__]
    return _TYPE_NAME.sub(r"\1", text[0][:1000])[:160]


def evaluate(text: str, value: Value) -> bool:
    """Truth of a condition for a result. Raises ConditionError."""
    return compile_condition(text)(value)
