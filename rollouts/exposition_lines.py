"""One line of a metrics page: the Prometheus text format 0.0.4, and what OpenMetrics adds to it, in linear time.

Pages come from pods, and whoever runs a pod writes its page. So every part of a line is matched once, where it has to
stand, by expressions that never try again (possessive quantifiers): a line of any content costs time in proportion to
its length, which is bounded. Format: https://prometheus.io/docs/instrumenting/exposition_formats
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["MAX_LINE", "Sample", "read_line"]

MAX_LINE = 65_536
"""Characters of one line. The longest that a model server writes lists its adapters: 64 names of 253 are 16 KB."""

_PAIR = r'[ \t]*+[A-Za-z_][A-Za-z0-9_]*+[ \t]*+=[ \t]*+"(?:[^"\\]|\\.)*+"[ \t]*+'
_LINE = re.compile(
    r"([A-Za-z_:][A-Za-z0-9_:]*+)"  # the name
    rf"(?:(\{{(?:{_PAIR}(?:,|(?=\}})))*+[ \t]*+\}})|(?=[ \t]))"  # labels, or at least a space
    r"[ \t]*+([^ \t\r]++)(?:[ \t]++-?[0-9.]++)?+[ \t\r]*+(?:#.*+)?+$"  # value, time, exemplar
)
_EACH = re.compile(r'([A-Za-z_][A-Za-z0-9_]*+)[ \t]*+=[ \t]*+"((?:[^"\\]|\\.)*+)"')
"""For labels that ``_LINE`` has matched: each search then begins where a pair stands."""
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n"}


class Sample(NamedTuple):
    """A line's series and the text of its value."""

    name: str
    labels: dict[str, str]
    value: str


def read_line(line: str) -> Sample | None:
    """The parts of a line that is no comment; None when it is not in the format, or too long."""
    found = _LINE.match(line) if len(line) <= MAX_LINE else None
    if found is None:
        return None
    name, labels, value = found.groups()
    if labels is None:
        return Sample(name, {}, value)
    pairs = _EACH.findall(labels)
    if "\\" in labels:
        pairs = [(key, _unescape(text)) for key, text in pairs]
    return Sample(name, dict(pairs), value)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[1]), text)
