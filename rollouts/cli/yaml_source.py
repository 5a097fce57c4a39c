"""YAML as the API server's clients read it, with the place of every value. The text is not trusted.

PyYAML's nodes carry marks; its own scalars are YAML 1.1 as Python understands it. ``kubectl``, Helm and Kustomize read
by go-yaml (``resolve.go``): ``1e3`` is a number, ``1:30`` and ``2026-11-28`` are text, ``on`` is true. What is checked
must be what they apply. Every pass is linear; size, nesting and what aliases expand to are bounded.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import yaml

__all__ = ["MAX_BYTES", "Document", "Fault", "Path", "read_yaml"]

Path = tuple[str | int, ...]

MAX_BYTES = 4 * 1024 * 1024
"""Of one file: above three times what the rendered charts of gateways with all their CRDs are."""
_MAX_VALUES = 100_000
"""Of one document, each alias written out."""
_MAX_NODES = 300_000
"""Of one file: a quarter of a minute of reading."""
_DEEPEST = 64
"""Open brackets: as deep as a spec may be (``api.parsing``)."""
_MAX_FAULTS = 50
_MAX_RESTARTS = 20
"""Of reading on at the next document after one that cannot be read."""

_TEMPLATE = re.compile(r"\{\{(?![ \t]{0,8}args\.)")
_UNRENDERED = (
    "a template stands here that was not rendered: pipe the result in, as in "
    "`helm template CHART | rollouts lint -`"
)
_VARIABLE = re.compile(r"[:{,\[] ?\$\{")
_TRUE = frozenset({"yes", "true", "on"})
_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)")
_SPACE = re.compile(r"[ \t\r\n]*")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Of texts that say which they are, as Windows PowerShell writes: kubectl reads those, too. The longer ones first."""
_TAG = "tag:yaml.org,2002:"
_LONGEST_NUMBER = 400
_EXACT = 2.0**53


class _Loader(yaml.SafeLoader):
    """Nodes with the tags that go-yaml gives to plain scalars.

    The scanner goes over all open brackets at each token, so that their number bounds its work.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        """A bracket opens."""
        if self.flow_level >= _DEEPEST:
            raise yaml.scanner.ScannerError(
                None, None, f"it is nested deeper than {_DEEPEST}", self.get_mark()
            )
        super().fetch_flow_collection_start(TokenClass)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node of a document."""
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {_MAX_NODES} values", self.get_mark())
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {}

_Loader.add_implicit_resolver(
    f"{_TAG}bool",
    re.compile(r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$"),
    list("yYnNtTfFoO"),
)
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(f"^{_INTEGER.pattern}$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile(r"^<<$"), ["<"])


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the text itself. ``line`` and ``column`` count from 1."""

    line: int
    column: int
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """One document: plain values, and where they stand."""

    value: Any
    node: yaml.Node
    lines_before: int

    def place(self, path: Sequence[str | int], *, key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the value at the path, or of its field's name; else of what is there of it."""
        node, named = self.node, self.node
        for part in path:
            found = _child(node, part)
            if found is None:
                break
            named, node = found
        mark = (named if key else node).start_mark
        return self.lines_before + mark.line + 1, mark.column + 1


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        pairs = [(name, value) for name, value in node.value if name.value == part]
        return pairs[-1] if pairs else None
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


def read_yaml(data: bytes) -> tuple[list[Document], list[Fault]]:
    """The documents of a file, and what cannot be read. After a faulty document it goes on with the next one."""
    if len(data) > MAX_BYTES:
        return [], [
            Fault(1, 1, f"the file is larger than {MAX_BYTES} bytes: check its objects by themselves")
        ]
    charset = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(charset)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return [], [Fault(line, 1, "the text is not UTF-8: save it as UTF-8")]
    documents: list[Document] = []
    faults: list[Fault] = []
    if text[:1] in ("{", "["):
        text = text.replace("\t", " ")  # JSON may be indented by tabs, and has none in its strings
    lines = text.splitlines(keepends=True)
    starts = _json_starts(text)
    if len(starts) > 1:
        for first, end in pairwise([*starts, len(lines)]):
            _read_from(lines, first, documents, faults, end)
        return documents, faults[:_MAX_FAULTS]
    start = 0
    for _ in range(_MAX_RESTARTS):
        stopped = _read_from(lines, start, documents, faults)
        if stopped is None:
            break
        start = next((n for n in range(max(stopped, start + 1), len(lines)) if _begins(lines[n])), len(lines))
        if start == len(lines):
            break
    return documents, faults[:_MAX_FAULTS]


def _json_starts(text: str) -> list[int]:
    """Lines, from 0, on which the objects of a stream of JSON begin, as ``jq`` writes and kubectl reads such.

    None where it is no such stream, or not each object has lines of its own.
    """
    decoder, at, line, starts = json.JSONDecoder(), 0, 0, list[int]()
    try:
        while text.startswith("{", at) and (not at or text[at - 1] in "\r\n"):
            starts.append(line)
            _, end = decoder.raw_decode(text, at)
            space = _SPACE.match(text, end)
            assert space is not None  # it matches nothing, too
            line += len(text[at : space.end()].splitlines())
            at = space.end()
    except (ValueError, RecursionError):
        return []
    return starts if at == len(text) else []


def _begins(line: str) -> bool:
    return line.startswith("---") and not line[3:4].strip()


def _read_from(
    lines: list[str], start: int, documents: list[Document], faults: list[Fault], end: int | None = None
) -> int | None:
    """Read from a line on, to ``end``; the line where reading stopped, or None at the end of the text."""
    loader = None
    try:
        loader = _Loader("".join(lines[start:end]))
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # there is one, said check_node
            found = _Values()
            value = found.of(node)
            faults += (
                Fault(start + mark.line + 1, mark.column + 1, text)
                for mark, text in found.faults[:_MAX_FAULTS]
            )
            if value is not None and not found.unusable:
                documents.append(Document(value, node, start))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = start + (mark.line if mark else 0)
        faults.append(Fault(line + 1, mark.column + 1 if mark else 1, _words(error, lines, start, line)))
        return line
    except yaml.reader.ReaderError as error:
        line = start + "".join(lines[start:end]).count("\n", 0, error.position)
        faults.append(Fault(line + 1, 1, f"the character U+{int(error.character):04X} may not stand in YAML"))
    except RecursionError:
        line = start + (loader.line if loader is not None else 0)
        faults.append(Fault(line + 1, 1, "it is nested too deeply"))
    return None


def _words(error: yaml.MarkedYAMLError, lines: list[str], start: int, line: int) -> str:
    """What PyYAML found, and what it usually comes from."""
    here = lines[line] if line < len(lines) else ""
    said = f"{error.context or ''} {error.problem or ''}".strip()
    if any(_TEMPLATE.search(one) for one in lines[start : line + 1]):
        return f"{_UNRENDERED} ({said})"
    if _VARIABLE.search(here):
        return f"a variable was not substituted: substitute it first, or put it in quotes ({said})"
    if "\t" in here[: len(here) - len(here.lstrip())]:
        return f"a tab: YAML is indented by spaces alone, replace it ({said})"
    if any(one.startswith(("<<<<<<<", "=======", ">>>>>>>")) for one in lines[start : line + 1]):
        return f"a merge conflict was left in ({said})"
    if here.lstrip().startswith("%") or "directive" in said:
        return f"a line that begins with % is a directive of YAML: put it in quotes ({said})"
    return f"no YAML: {said}; see to the indentation, to colons and to quotes before this place"


def _is_merge(name: yaml.Node) -> bool:
    return isinstance(name, yaml.ScalarNode) and name.tag == f"{_TAG}merge"


class _Values:
    """Plain values of one document. An alias is shared, not copied, and counted as often as it is written out."""

    def __init__(self) -> None:
        self.faults: list[tuple[yaml.Mark, str]] = []
        self.unusable = False
        self._known: dict[int, tuple[Any, int]] = {}
        self._above: set[int] = set()
        self._copied = 0

    def of(self, node: yaml.Node) -> Any:
        """The value of a node; what is wrong goes to ``faults``."""
        return self._of(node)[0]

    def _broken(self, node: yaml.Node, text: str) -> tuple[Any, int]:
        self.unusable = True
        self.faults.append((node.start_mark, text))
        return None, 1

    def _of(self, node: yaml.Node) -> tuple[Any, int]:
        """The value, and how many values it is when each alias is written out."""
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node), 1
        if id(node) in self._above:
            return self._broken(node, "an alias (*name) contains itself")
        if id(node) not in self._known:
            if self.unusable:
                return None, 1
            self._above.add(id(node))
            self._known[id(node)] = self._collection(node)
            self._above.remove(id(node))
        value, size = self._known[id(node)]
        if size > _MAX_VALUES and not self.unusable:
            return self._broken(node, f"aliases (*name) make more than {_MAX_VALUES} values")
        return value, size

    def _collection(self, node: yaml.Node) -> tuple[Any, int]:
        size = 1
        if isinstance(node, yaml.SequenceNode):
            items = []
            for child in node.value:
                value, more = self._of(child)
                items.append(value)
                size += more
            return items, size
        found, own = self._merged(node)
        for name, value, more in self._fields(node):
            found[name] = value
            own += more
        return found, size + own

    def _merged(self, node: yaml.Node) -> tuple[dict[str, Any], int]:
        """What merge keys (``<<: *name``) bring in: the node's own fields replace it, the first of several wins."""
        found, size = dict[str, Any](), 0
        for index, (name, child) in enumerate(node.value):
            if not _is_merge(name):
                continue
            if index:
                self._broken(
                    name, "a merge key (<<) goes first: readers differ in what wins behind other fields"
                )
            parts = child.value if isinstance(child, yaml.SequenceNode) else [child]
            if not all(isinstance(part, yaml.MappingNode) for part in parts):
                self._broken(child, "a merge key (<<) takes a mapping, or a list of mappings: <<: *name")
                continue
            for part in parts:
                value, more = self._of(part)
                size += more
                self._copied += len(value or ())
                if self._copied > _MAX_VALUES and not self.unusable:
                    self._broken(name, f"merge keys (<<) make more than {_MAX_VALUES} values")
                found = {**value, **found} if isinstance(value, dict) and not self.unusable else found
        return found, size

    def _fields(self, node: yaml.Node) -> Iterator[tuple[str, Any, int]]:
        lines: dict[str, int] = {}
        for name, child in node.value:
            if not isinstance(name, yaml.ScalarNode):
                unrendered = isinstance(name, yaml.MappingNode)
                self._broken(name, _UNRENDERED if unrendered else "a field's name must be text")
                continue
            if _is_merge(name):
                continue
            if name.value in lines:
                text = (
                    f"the field {name.value:.63} stands twice, first in line {lines[name.value]}: remove one"
                )
                self.faults.append((name.start_mark, text))
            lines.setdefault(name.value, name.start_mark.line + 1)
            yield name.value, *self._of(child)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, tag = node.value, node.tag.removeprefix(_TAG)
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() in _TRUE
        if tag in ("int", "float") and len(text) <= _LONGEST_NUMBER:
            try:
                return _number(text)
            except (ValueError, OverflowError):
                return text
        if tag.startswith("!"):
            self._broken(node, f"the tag {tag:.40} is not of Kubernetes: render the file first")
        return text


def _number(text: str) -> int | float:
    plain = text.replace("_", "").lower()
    if _INTEGER.fullmatch(text):
        digits = plain.lstrip("+-")
        octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
        return int(plain, 8 if octal else 0)
    value = float(plain.replace(".inf", "inf").replace(".nan", "nan"))
    if math.isinf(value) and "inf" not in plain:
        raise OverflowError("go-yaml leaves it text")
    # A float without a fraction is written to JSON as a whole number.
    return int(value) if value.is_integer() and abs(value) < _EXACT else value
