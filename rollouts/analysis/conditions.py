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

from rollouts.analysis.foreign_words import (
    MACROS,
    as_cel,
    foreign_words,
    has_units,
    line_instead,
    unknown_names,
)
from rollouts.analysis.results import FUNCTIONS, SAMPLES, to_cel
from rollouts.analysis.types import Value

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


_PLAIN = re.compile(
    r" {0,8}result(?:\[0\])? {0,8}(<=|>=|==|!=|<|>) {0,8}(-?[0-9]{1,15}(?:\.[0-9]{1,15})?) {0,8}"
)
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


def plain_comparison(text: str) -> Callable[[float], bool] | None:
    """``result < 0.05`` or ``result[0] < 0.05``, the usual condition, without CEL; None for any other.

    It costs nothing worth a budget.
    """
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
        macros += kind == "member_dot_arg" and str(node.children[1]) in MACROS
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


def _parsed(text: str) -> Any:
    """The syntax tree. Raises ConditionError for what is no CEL, with the same in CEL where that is known."""
    try:
        return celpy.Environment().compile(text)
    except _FAILURES as error:
        if line := _checked_line(as_cel(text), text):
            why = ", as results are in seconds and shares are fractions" if has_units(text) else ""
            raise ConditionError(f"{text!r:.80} is not CEL: write {line!r:.300}{why}") from None
        raise ConditionError(f"the condition is not valid CEL: {_brief(error)}") from None


def _checked_line(spelled: str, text: str) -> str:
    """A condition in CEL and our words, empty where there is none that can be used."""
    if spelled == text or len(spelled) > MAX_LENGTH:
        return ""
    try:
        tree = celpy.Environment().compile(spelled)
        _check_limits(tree)
        line = line_instead(tree, spelled)
    except (ConditionError, *_FAILURES):
        return ""
    return line if line and condition_problem(line) is None else ""


def _check_names(tree: Any, text: str) -> None:
    """Names that mean nothing here, also where evaluation would not come by. Raises ConditionError."""
    if foreign := foreign_words(tree):
        line = line_instead(tree, text)
        write = f"write {line!r:.300}" if line and condition_problem(line) is None else "leave that out"
        raise ConditionError(
            f"there is no {', '.join(dict.fromkeys(foreign))} here, and an empty result or NaN reaches no condition: "
            f"{write}, and `noData: Pass` or `noData: Fail` for what the metric is without data"
        )
    if unknown := unknown_names(tree):
        if line := _checked_line(as_cel(text), text):
            raise ConditionError(f"{text!r:.80} is not CEL: write {line!r:.300}")
        raise ConditionError(
            f"there is no {unknown[0][:60]} in a condition: it knows result and the functions of CEL"
        )


@lru_cache(maxsize=1024)
def compile_condition(text: str) -> Callable[[Value], bool]:
    """A function from a result to the condition's truth. Raises ConditionError for what is no condition."""
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"the condition is longer than {MAX_LENGTH} characters")
    tree = _parsed(text)
    _check_limits(tree)
    try:
        _check_names(tree, text)
        program = celpy.Environment().program(tree, functions=FUNCTIONS)
    except _FAILURES as error:
        raise ConditionError(f"the condition is not valid CEL: {_brief(error)}") from None
    _probe(program, text)

    def run(value: Value) -> bool:
        check_size(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConditionError("the result is not a finite number")
        return _run(program, text, to_cel(value))

    return run


def _probe(program: Any, text: str) -> None:
    """Try the condition on a number and on a series: what fits neither shows here, not at night."""
    reasons = []
    for sample in SAMPLES:
        try:
            _run(program, text, sample)
            return
        except ConditionError as error:
            reasons.append(str(error))
    for reason in reversed(reasons):
        if any(words in reason for words in _NEVER):
            raise ConditionError(reason)


def check_size(value: Value) -> None:
    """Raise ConditionError for a result with too many series to judge."""
    if isinstance(value, tuple) and len(value) > MAX_SERIES:
        raise ConditionError(
            f"the result has {len(value)} series, more than {MAX_SERIES}: aggregate in the query"
        )


def _run(program: Any, text: str, result: Any) -> bool:
    try:
        answer = program.evaluate({"result": result})
    except _FAILURES as error:
        raise ConditionError(f"{text!r:.80} cannot be evaluated: {_brief(error)}") from None
    if not isinstance(answer, celtypes.BoolType | bool):
        raise ConditionError(f"{text!r:.80} {_NO_TRUTH}: compare the result with something")
    return bool(answer)


_NO_TRUTH = "is not true or false"
_NO_FIELDS = "numbers and lists have no fields: write result[0].value or result[0].labels"
_ONE_NUMBER = "the result is one number, no list: compare it with something"
_KINDS = {
    **dict.fromkeys(("_Number", "DoubleType", "IntType", "UintType", "_Series"), "a number"),
    **dict.fromkeys(("ListType",), "a list of series"),
    **dict.fromkeys(("MapType", "_AnyLabels"), "a map"),
    **dict.fromkeys(("StringType",), "a text"),
    **dict.fromkeys(("BoolType",), "true or false"),
}
_OVERLOAD = re.compile(
    r"overload for (?:Token\('RULE', '(\w{1,40})'\)|(\S{1,12})) applied to '\((.{0,200}?)\)'"
)
_SIGNS = {
    "relation_lt": "<",
    "relation_le": "<=",
    "relation_gt": ">",
    "relation_ge": ">=",
    "relation_eq": "==",
} | {
    "relation_ne": "!=",
    "relation_in": "in",
    "addition_add": "+",
    "addition_sub": "-",
    "unary_not": "!",
    "multiplication_mul": "*",
    "multiplication_div": "/",
    "multiplication_mod": "%",
    "unary_neg": "-",
}
_UNFIT = "does not take"
_NEVER = (_NO_TRUTH, _NO_FIELDS, _UNFIT, "no such overload")
"""Words of what no result can mend."""
_INSIDES = re.compile(r"Activation\(|NameContainer|Referent|Token\(|Type\(|_Number|_Series|CELEvalError")


def _brief(error: Exception) -> str:
    """The first line of what CEL says, in our words and without Python's types and objects."""
    raw = error.args[0] if error.args else error
    lines = str(raw).strip().splitlines() or [type(error).__name__]
    text = _TYPE_NAME.sub(r"\1", lines[0][:1000])
    if "does not support field selection" in text:
        return _NO_FIELDS
    if "is not iterable" in text:
        return _ONE_NUMBER
    if found := _OVERLOAD.search(text):
        return _mismatch(found)
    text = text.partition(" (in activation")[0]
    return "it does not fit the result" if _INSIDES.search(text) else text[:160]


def _mismatch(found: re.Match[str]) -> str:
    sign = _SIGNS.get(found[1] or "", (found[2] or found[1] or "").strip("_").replace("_", " "))
    kinds = [name.strip() for name in found[3].split(",")]
    if not all(kind in _KINDS for kind in kinds):  # an error among them
        return f"no side of {sign} can be evaluated for this result"
    text = f"{sign} {_UNFIT} {' and '.join(_KINDS[kind] for kind in kinds)}"
    listed = "ListType" in kinds
    return (
        f"{text}: write result[0], result.all(r, r.value ...), or aggregate in the query" if listed else text
    )


def evaluate(text: str, value: Value) -> bool:
    """Truth of a condition for a result. Raises ConditionError."""
    return compile_condition(text)(value)
