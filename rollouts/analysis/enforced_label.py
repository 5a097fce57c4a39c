"""A label matcher put into every vector selector of a PromQL query, or the query refused.

For sources whose server does not tell tenants apart: whoever may write a query then reads their own namespace's series
and no other. The scanner goes over the tokens once and follows one thing, whether an operand or an operator has to
come next, since that decides what a word is (``sum(x)`` a function, ``sum`` alone a metric). What it does not know it
refuses: a query that goes out unchanged would be a hole, one that is refused is a message. Grammar: Prometheus,
``promql/parser/generated_parser.y`` and ``lex.go`` (3.x).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["QueryNotRewritten", "enforce_label"]

MAX_LENGTH = 16_384
"""Characters; a user's query has at most 4,096, and our own queries are not rewritten."""

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]++|\#[^\n]*+)
    |(?P<string>"(?:[^"\\\n]|\\[^\n])*+"|'(?:[^'\\\n]|\\[^\n])*+'|`[^`]*+`)
    |(?P<number>0[xX][0-9a-fA-F_]++|(?:[0-9][0-9_]*+(?:\.[0-9_]*+)?+|\.[0-9][0-9_]*+)(?:[eE][+-]?[0-9]++)?+[a-z0-9]*+)
    |(?P<word>[A-Za-z_:][A-Za-z0-9_:]*+)
    |(?P<operator>==|!=|>=|<=|=~|!~|[-+*/%^<>=])
    |(?P<mark>[(){}\[\],:@])""",
    re.VERBOSE,
)
_AGGREGATIONS = frozenset(
    {"avg", "bottomk", "count", "count_values", "group", "limitk", "limit_ratio", "max", "min", "quantile"}
    | {"stddev", "stdvar", "sum", "topk"}
)
_SET_OPERATORS = frozenset({"and", "or", "unless", "atan2"})
_GROUPING = frozenset({"by", "without"})
_MATCHING = frozenset({"on", "ignoring", "group_left", "group_right"})
_RESERVED = (
    _SET_OPERATORS | _GROUPING | _MATCHING | {"bool", "offset", "start", "end", "anchored", "smoothed"}
)
_NUMBERS = frozenset({"inf", "nan"})
_IMPLICIT = frozenset({"info"})
"""Functions that read series which no selector of the query names."""
_COMPARISONS = frozenset({"==", "!=", ">", "<", ">=", "<="})
_ARITHMETIC = frozenset({"+", "-", "*", "/", "%", "^"})
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*+")
_RESOLUTION = re.compile(r":[0-9a-z]*+")


class QueryNotRewritten(ValueError):
    """The query cannot be limited to a namespace; the text says at what."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str

    def word(self) -> str:
        """The word in lower case; nothing for other tokens."""
        return self.text.lower() if self.kind == "word" else ""


_END = _Token("end", "")


def enforce_label(query: str, label: str, value: str) -> str:
    """The query with ``label="value"`` in every selector. Raises QueryNotRewritten."""
    if len(query) > MAX_LENGTH:
        raise QueryNotRewritten(f"it is longer than {MAX_LENGTH} characters")
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return _Rewriter(list(_tokens(query)), f'{label}="{quoted}"').whole()


def _tokens(query: str) -> Iterator[_Token]:
    """Comments and white space become one space."""
    at = 0
    while at < len(query):
        found = _TOKEN.match(query, at)
        if found is None:
            raise QueryNotRewritten(f"at {query[at : at + 20]!r}")
        kind = str(found.lastgroup)
        yield _Token(kind, " " if kind == "space" else found.group())
        at = found.end()


class _Rewriter:
    """One pass over the tokens; ``_out`` is the query so far."""

    def __init__(self, tokens: list[_Token], matcher: str) -> None:
        self._tokens = tokens
        self._matcher = matcher
        self._at = 0
        self._out: list[str] = []
        self._open: list[bool] = []  # parentheses: whether of a call, where commas may stand and nothing may

    def whole(self) -> str:
        """The rewritten query."""
        operand = True
        while (token := self._peek()).kind != "end":
            operand = self._operand(token) if operand else self._operator(token)
        if operand or self._open:
            raise QueryNotRewritten("at its end: something is missing")
        return "".join(self._out).strip()

    # --- reading ---

    def _peek(self) -> _Token:
        while self._at < len(self._tokens) and self._tokens[self._at].kind == "space":
            self._out.append(" ")
            self._at += 1
        return self._tokens[self._at] if self._at < len(self._tokens) else _END

    def _copy(self) -> _Token:
        token = self._peek()
        if token.kind != "end":
            self._out.append(token.text)
            self._at += 1
        return token

    def _expect(self, text: str) -> None:
        if self._copy().text != text:
            self._refuse(self._tokens[min(self._at, len(self._tokens)) - 1])

    @staticmethod
    def _refuse(token: _Token) -> None:
        raise QueryNotRewritten(f"at {token.text[:40]!r}")

    # --- where an operand has to come; both answer whether one is expected next ---

    def _operand(self, token: _Token) -> bool:
        if token.kind in ("number", "string"):
            self._copy()
            return False
        if token.text in ("+", "-"):
            self._copy()
            return True
        if token.text == "(":
            self._copy()
            self._open.append(False)
            return True
        if token.text == ")" and self._open and self._open[-1] and self._out_ends_with("("):
            self._copy()  # a call without arguments
            self._open.pop()
            return False
        if token.text == "{":
            self._selector()
            return False
        if token.kind != "word":
            self._refuse(token)
        return self._word_operand(token.word())

    def _out_ends_with(self, text: str) -> bool:
        return "".join(self._out[-8:]).rstrip().endswith(text)

    def _word_operand(self, word: str) -> bool:
        token, end = self._copy(), len(self._out)
        following = self._peek()
        if word in _RESERVED or (word in _IMPLICIT and following.text == "("):
            self._refuse(token)
        if word in _AGGREGATIONS and following.word() in _GROUPING:
            self._copy()
            self._names()
            following = self._peek()
            if following.text != "(":
                self._refuse(following)
        if following.text == "(":
            self._copy()
            self._open.append(True)
            return True
        if following.text == "{":
            self._selector()
        elif word not in _NUMBERS:
            self._out.insert(end, f"{{{self._matcher}}}")
        return False

    # --- where an operator has to come ---

    def _operator(self, token: _Token) -> bool:
        word = token.word()
        if token.text in _ARITHMETIC | _COMPARISONS or word in _SET_OPERATORS:
            self._copy()
            self._modifiers()
            return True
        if token.text == "," and self._open and self._open[-1]:
            self._copy()
            return True
        if token.text == ")" and self._open:
            self._copy()
            self._open.pop()
            return False
        if word in _GROUPING and self._out_ends_with(")"):
            self._copy()
            self._names()
            return False
        if token.text == "[":
            self._range()
            return False
        if word == "offset":
            self._copy()
            if self._peek().text in ("+", "-"):
                self._copy()
            self._number()
            return False
        if token.text == "@":
            self._instant()
            return False
        self._refuse(token)
        return False

    def _modifiers(self) -> None:
        """``bool``, ``on (...)``, ``group_left (...)`` after a binary operator."""
        while (word := self._peek().word()) == "bool" or word in _MATCHING:
            self._copy()
            if word in ("on", "ignoring") or (word in _MATCHING and self._peek().text == "("):
                # A parenthesis after group_left is its list; one that opens the operand is read as one, too.
                self._names()

    def _names(self) -> None:
        """A list of label names in parentheses."""
        self._expect("(")
        while (token := self._copy()).text != ")":
            if not (token.text == "," or token.kind == "string" or _LABEL.fullmatch(token.text)):
                self._refuse(token)

    def _number(self) -> None:
        if self._peek().kind != "number":
            self._refuse(self._peek())
        self._copy()

    def _range(self) -> None:
        self._expect("[")
        while (token := self._copy()).text != "]":
            # ``:5m`` is read as one word, which may begin with a colon.
            if token.kind != "number" and not _RESOLUTION.fullmatch(token.text):
                self._refuse(token)

    def _instant(self) -> None:
        self._expect("@")
        if self._peek().text in ("+", "-"):
            self._copy()
        if self._peek().word() in ("start", "end"):
            self._copy()
            self._expect("(")
            self._expect(")")
        else:
            self._number()

    def _selector(self) -> None:
        """``{...}`` with the matcher first, so that nothing in it can come before."""
        self._expect("{")
        self._out.append(self._matcher)
        first = True
        while (token := self._peek()).text != "}":
            if not first or token.text == ",":
                self._expect(",")
                if self._peek().text == "}":
                    self._out.pop()  # a trailing comma; ours stands before it
                    break
            else:
                self._out.append(",")
            self._entry()
            first = False
        self._expect("}")

    def _entry(self) -> None:
        name = self._copy()
        if name.kind not in ("string", "word"):
            self._refuse(name)
        operator = self._peek()
        if operator.text in ("=", "!=", "=~", "!~"):
            self._copy()
            value = self._copy()
            if value.kind != "string":
                self._refuse(value)
        elif name.kind != "string":  # a quoted metric name stands alone
            self._refuse(operator)
