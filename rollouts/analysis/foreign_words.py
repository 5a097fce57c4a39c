"""Names that a condition may use, and those of Argo Rollouts' conditions (expr-lang) with the line to write instead.

Argo's functions about silence (``len(result) == 0``, ``isNaN``, ``isInf``, ``isNil``, ``default``) cannot mean here
what they mean there: no data never reaches a condition, ``noData`` says what it is. So they are refused before anything
runs. Its other words have a spelling in CEL. Source: argoproj/argo-rollouts ``utils/evaluate/evaluate.go``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from celpy.evaluation import base_functions

__all__ = ["MACROS", "as_cel", "foreign_words", "has_units", "line_instead", "unknown_names"]

MACROS = frozenset({"all", "exists", "exists_one", "map", "filter", "reduce", "min"})
"""Methods that cel-python evaluates once per element, the two beyond CEL's own included."""

_FUNCTIONS = frozenset(name for name in base_functions if name.isidentifier()) | {"has", "dyn"}
_CALLS = ("ident_arg", "dot_ident_arg")
_SILENT = frozenset({"isNaN", "isInf", "isNil"})
"""Never true of data."""
_RENAMED = {"len": "size", "asFloat": "double", "asInt": "int", "float": "double"}
_NOTHING = frozenset({"nil", "null"})
_FOREIGN = _SILENT | set(_RENAMED) | {"default", "nil"}
_RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "relation_lt": operator.lt,
    "relation_le": operator.le,
    "relation_gt": operator.gt,
    "relation_ge": operator.ge,
    "relation_eq": operator.eq,
    "relation_ne": operator.ne,
}
_MANY = 1 << 30
"""Stands for any number of series."""


def _nodes(tree: Any) -> Iterator[Any]:
    pending = [tree]
    while pending:
        node = pending.pop()
        if hasattr(node, "data"):
            yield node
            pending += [child for child in reversed(node.children) if child is not None]


def _names(tree: Any) -> list[str]:
    """Names that are called or read and not bound by a macro, in the order of the text."""
    bound: set[str] = set()
    used: list[str] = []
    for node in _nodes(tree):
        kind = node.data
        if kind == "member_dot_arg":
            method = str(node.children[1])
            if method in MACROS and node.children[2] is not None:
                bound |= {str(item) for item in _bound_by(node.children[2])}
            elif method not in _FUNCTIONS | MACROS:
                used.append(method)
        elif (kind in _CALLS and str(node.children[0]) not in _FUNCTIONS) or kind in ("ident", "dot_ident"):
            used.append(str(node.children[0]))
    return [name for name in used if name not in bound]


def _bound_by(arguments: Any) -> Iterator[str]:
    for expression in arguments.children[:2]:
        inner = _inner(expression)
        if getattr(inner, "data", "") == "ident":
            yield str(inner.children[0])


def unknown_names(tree: Any) -> list[str]:
    """Names that mean nothing in a condition."""
    return [name for name in _names(tree) if name not in _FUNCTIONS and name not in ("result", "google")]


def foreign_words(tree: Any) -> list[str]:
    """Words of Argo's conditions."""
    return [name for name in _names(tree) if name in _FOREIGN]


def _inner(node: Any) -> Any:
    """The node below the levels of the grammar that are only levels."""
    while hasattr(node, "data"):
        children = [child for child in node.children if child is not None]
        if len(children) != 1 or not hasattr(children[0], "data") or node.data in ("list_lit", "unary_not"):
            return node
        node = children[0]
    return node


def line_instead(tree: Any, text: str) -> str:
    """The condition in our words, without its questions about silence; empty when nothing else is left of it."""
    found = _Rewriter(text).of(tree)
    return found.strip() if isinstance(found, str) else ""


class _Rewriter:
    """Text of nodes, or their truth where they only ask about silence: what it is of data."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._known: dict[int, bool | str] = {}

    def of(self, node: Any) -> bool | str:
        """Each node is rewritten once: its parents ask several times, which would double at each level."""
        key = id(node)
        if key not in self._known:
            self._known[key] = self._rewritten(node)
        return self._known[key]

    def _rewritten(self, node: Any) -> bool | str:
        node_kind = getattr(node, "data", "")
        children = [child for child in getattr(node, "children", []) if child is not None]
        if node_kind == "ident_arg":
            return self._call(node, str(children[0]), children[1].children if len(children) > 1 else [])
        if node_kind == "conditionalor" and len(children) == 2:
            return self._joined(children[0], children[1], True, node)
        if node_kind == "conditionaland" and len(children) == 2:
            return self._joined(children[0], children[1], False, node)
        if node_kind == "relation" and len(children) == 2:
            known = self._known_relation(children[0], children[1])
            return self._spliced(node) if known is None else known
        if node_kind == "unary" and len(children) == 2 and children[0].data == "unary_not":
            inner = self.of(children[1])
            return not inner if isinstance(inner, bool) else self._spliced(node)
        if node_kind == "expr" and len(children) == 3:
            chosen = self.of(children[0])
            return self.of(children[1 if chosen else 2]) if isinstance(chosen, bool) else self._spliced(node)
        if len(children) == 1 and isinstance(inner := self._only(children[0]), bool):
            return inner
        return self._spliced(node)

    def _only(self, child: Any) -> bool | str:
        return self.of(child) if hasattr(child, "data") else ""

    def _joined(self, left: Any, right: Any, neutral_ends: bool, node: Any) -> bool | str:
        """``neutral_ends``: the truth that decides the whole, of ``||``."""
        first, second = self.of(left), self.of(right)
        for this, other in ((first, second), (second, first)):
            if isinstance(this, bool):
                return this if this is neutral_ends else other
        return self._spliced(node)

    def _call(self, node: Any, name: str, arguments: list[Any]) -> bool | str:
        if name in _SILENT:
            return False
        if name == "default" and arguments:
            return self._shown(arguments[0])
        if name in _RENAMED:
            return f"{_RENAMED[name]}({', '.join(self._shown(argument) for argument in arguments)})"
        return self._spliced(node)

    def _shown(self, node: Any) -> str:
        found = self.of(node)
        return found if isinstance(found, str) else str(found).lower()

    def _known_relation(self, left: Any, right: Any) -> bool | None:
        sides = [_inner(left.children[0]), _inner(right)]
        if left.data in ("relation_eq", "relation_ne") and any(
            self._source(side) in _NOTHING for side in sides
        ):
            return bool(left.data == "relation_ne")
        compare = _RELATIONS.get(left.data)
        counted, limit = sides[0], self._source(sides[1])
        called = getattr(counted, "data", "") == "ident_arg" and str(counted.children[0]) == "len"
        if compare is None or not called or not re.fullmatch(r"[0-9]{1,4}", limit):
            return None
        truths = {compare(number, int(limit)) for number in (1, 2, max(int(limit), 1), int(limit) + 1, _MANY)}
        return truths.pop() if len(truths) == 1 else None

    def _source(self, node: Any) -> str:
        meta = node.meta
        return self._text[meta.start_pos : meta.end_pos].strip()

    def _spliced(self, node: Any) -> str:
        """The node's own text with that of its children in place."""
        if not hasattr(node, "data"):
            return str(node)
        parts, at = [], node.meta.start_pos
        for child in node.children:
            if hasattr(child, "data") and hasattr(child.meta, "start_pos"):
                parts += [self._text[at : child.meta.start_pos], self._shown(child)]
                at = child.meta.end_pos
        return "".join([*parts, self._text[at : node.meta.end_pos]])


_WORDS = {"and": "&&", "or": "||", "not": "!", "nil": "null", "=<": "<=", "=>": ">=", "=": "=="}
_CLOSURES = {"all": "all", "any": "exists", "none": "!exists", "one": "exists_one"}
_CLOSURE = re.compile(
    r"\b(all|any|none|one)\(\s{0,8}(\w{1,64})\s{0,8},\s{0,8}\{?([^(){}]{1,200})\}?\s{0,8}\)"
)
_STRING_OR_WORD = re.compile(r""""[^"]*"|'[^']*'|(\b(?:and|or|not|nil)\b|=<|=>|(?<![=!<>])=(?![=~]))""")


_STRING_OR_UNIT = re.compile(
    r"""'[^']*'|"[^"]*"|(?<![\w.])([0-9]{1,12}(?:\.[0-9]{1,12})?) ?(?:(ms|s|m|h)(?!\w)|(%)(?! *[\w(.]))"""
)
_UNITS = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "%": Fraction(1, 100),
}


def _in_base_units(match: re.Match[str]) -> str:
    """``2000ms`` and ``5%`` as results count: in seconds, and as fractions (base units, as Prometheus asks for)."""
    return (
        match[0] if match[1] is None else f"{float(Fraction(match[1]) * _UNITS[match[2] or match[3]]):.12g}"
    )


def has_units(text: str) -> bool:
    """Whether a number of the condition has a unit, which CEL does not know."""
    return any(match[1] is not None for match in _STRING_OR_UNIT.finditer(text))


def as_cel(text: str) -> str:
    """What does not parse, with expr-lang's spellings of operators and closures in CEL's, and without units."""

    def closure(match: re.Match[str]) -> str:
        name, over, body = _CLOSURES[match[1]], match[2], match[3].strip().replace("#", "r")
        return f"{name[0] if name[0] == '!' else ''}{over}.{name.lstrip('!')}(r, {body})"

    spelled = _STRING_OR_UNIT.sub(_in_base_units, text)
    spelled = _STRING_OR_WORD.sub(lambda match: _WORDS[match[1]] if match[1] else match[0], spelled)
    return _CLOSURE.sub(closure, spelled)
