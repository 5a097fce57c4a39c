"""HTML and SVG as values: text is escaped by construction, and nothing here takes markup that somebody else wrote.

A child is an ``Element`` or text. Names of elements and attributes are ours; attributes that could run or fetch
something do not exist.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

from rollouts.terminal import printable

__all__ = ["Child", "Element", "el", "render"]

_VOID = frozenset({"meta", "link", "br", "hr", "input"})
_HTML = """\
a article body button caption code dd details div dl dt footer form h1 h2 h3 head header html li main nav ol p
pre script section small span strong style table tbody summary td th thead time title tr ul"""
_SVG = "svg g path line rect text circle"
_ELEMENTS = _VOID | frozenset(_HTML.split()) | frozenset(_SVG.split())
_OF_HTML = """class id lang charset name content scope datetime role rel type value method action title tabindex
http-equiv href src disabled"""
_OF_SVG = "viewBox d x y x1 x2 y1 y2 cx cy r width height text-anchor dominant-baseline xmlns transform"
_ATTRIBUTES = frozenset(_OF_HTML.split()) | frozenset(_OF_SVG.split())
_RAW = frozenset({"style", "script"})
"""Their content is ours, and is written as it is."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element with its attributes, in order, and its children."""

    name: str
    attributes: tuple[tuple[str, str], ...]
    children: tuple[Child, ...]


Child = Element | str


def el(
    name: str, /, *children: Child | Iterable[Child | None] | None, **attributes: str | int | float | None
) -> Element:
    """An element. None among children and attributes is left out; ``class_`` is ``class``, ``http_equiv`` has a dash.

    Raises ValueError for names that are not known: they are typed in our source, never taken from data.
    """
    if name not in _ELEMENTS:
        raise ValueError(f"element {name} is not one that is written")
    written = []
    for given, value in attributes.items():
        attribute = given.rstrip("_").replace("_", "-")
        if not (attribute in _ATTRIBUTES or attribute.startswith(("aria-", "data-"))):
            raise ValueError(f"attribute {attribute} is not one that is written")
        if attribute in ("href", "src", "action") and not _stays_here(str(value)):
            raise ValueError(f"{attribute} leads elsewhere: {value!r:.80}")
        if value is not None:
            written.append((attribute, f"{value:g}" if isinstance(value, float) else str(value)))
    return Element(name, tuple(written), tuple(_flat(children)))


def _stays_here(address: str) -> bool:
    """Whether an address is of this page or this server."""
    return (
        address in ("None", "data:,")
        or address.startswith("#")
        or (address[:1] == "/" and address[1:2] not in ("/", "\\"))
    )


def _flat(children: Iterable[Child | Iterable[Child | None] | None]) -> Iterable[Child]:
    for child in children:
        if isinstance(child, Element | str):
            yield child
        elif child is not None:
            yield from _flat(child)


def render(node: Child) -> str:
    """The text of a node. Every character of data only shows itself, also those that would reorder others."""
    if isinstance(node, str):
        return html.escape(_shown(node), quote=False)
    attributes = "".join(f' {name}="{html.escape(_shown(value))}"' for name, value in node.attributes)
    if node.name in _VOID:
        return f"<{node.name}{attributes}>"
    if node.name in _RAW:
        inside = "".join(str(child) for child in node.children)
        if "</" in inside:
            raise ValueError("our own style or script ends itself")
    else:
        inside = "".join(map(render, node.children))
    return f"<{node.name}{attributes}>{inside}</{node.name}>"


def _shown(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
