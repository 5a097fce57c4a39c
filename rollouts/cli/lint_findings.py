"""What ``lint`` finds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum

from rollouts.cli.yaml_source import Path

__all__ = ["Finding", "Severity", "at_document", "hint", "path_in", "path_text", "problem"]

_NAME = r"[A-Za-z][A-Za-z0-9]{0,63}"
_PATH = re.compile(rf"spec(?:\.{_NAME}|\[[0-9]{{1,6}}\])*+")
_PART = re.compile(r"\[([0-9]{1,6})\]|([A-Za-z][A-Za-z0-9]{0,63})")


class Severity(Enum):
    """A problem is refused by the API server or the controller; a hint works, but perhaps not as meant."""

    PROBLEM = "problem"
    HINT = "hint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing to look at. ``where`` is ``Kind/name``.

    ``path`` is the field in the document of that index; ``named``: its name is meant, not its value.
    """

    severity: Severity
    where: str
    text: str
    rule: str = "spec"
    path: Path = field(default=(), compare=False)
    named: bool = field(default=False, compare=False)
    document: int = field(default=-1, compare=False)


def problem(where: str, text: str, *, rule: str = "spec", path: Path = (), named: bool = False) -> Finding:
    """Something that is refused."""
    return Finding(severity=Severity.PROBLEM, where=where, text=text, rule=rule, path=path, named=named)


def hint(where: str, text: str, *, rule: str = "hint", path: Path = (), named: bool = False) -> Finding:
    """Something that works, but perhaps not as meant."""
    return Finding(severity=Severity.HINT, where=where, text=text, rule=rule, path=path, named=named)


def at_document(finding: Finding, document: int, prefix: Path) -> Finding:
    """The finding of an object that stands at ``prefix`` in a document."""
    return replace(finding, document=document, path=(*prefix, *finding.path))


def path_in(text: str) -> Path:
    """The path with which a message begins (``spec.a[0].b is ...``); empty where it begins otherwise."""
    found = _PATH.match(text)
    if found is None:
        return ()
    return tuple(int(index) if index else name for index, name in _PART.findall(found.group()))


def path_text(path: Path) -> str:
    """``spec.steps[0].setWeight``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
