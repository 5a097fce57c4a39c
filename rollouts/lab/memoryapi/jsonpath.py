"""The part of kubectl's JSONPath that printer columns use: fields, indexes, ``[*]``, equality filters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

__all__ = ["find_all"]

_TOKEN = re.compile(
    r"""\.(?P<field>(?:[^.\[\]\\]|\\.)+)"""
    r"""|\[['"](?P<quoted>[^'"]+)['"]\]"""
    r"""|\[(?P<index>-?\d+)\]"""
    r"""|\[(?P<all>\*)\]"""
    r"""|\[\?\(\s*@(?P<path>(?:\.[\w-]+)+)\s*==\s*['"]?(?P<value>[^'")]*)['"]?\s*\)\]"""
)


@lru_cache(maxsize=512)
def _tokens(path: str) -> tuple[tuple[str, str, str], ...]:
    found: list[tuple[str, str, str]] = []
    position = 0
    while position < len(path):
        match = _TOKEN.match(path, position)
        if not match:
            return ()
        if (field := match.group("field")) is not None:
            found.append(("all" if field == "*" else "field", re.sub(r"\\(.)", r"\1", field), ""))
        elif (quoted := match.group("quoted")) is not None:
            found.append(("field", quoted, ""))
        elif (index := match.group("index")) is not None:
            found.append(("index", index, ""))
        elif match.group("all"):
            found.append(("all", "", ""))
        else:
            found.append(("filter", match.group("path"), match.group("value")))
        position = match.end()
    return tuple(found)


def _step(value: Any, token: tuple[str, str, str]) -> Iterator[Any]:
    kind, name, wanted = token
    if kind == "field" and isinstance(value, dict) and name in value:
        yield value[name]
    elif kind == "index" and isinstance(value, list) and -len(value) <= int(name) < len(value):
        yield value[int(name)]
    elif kind == "all" and isinstance(value, dict | list):
        yield from value.values() if isinstance(value, dict) else value
    elif kind == "filter" and isinstance(value, list):
        for item in value:
            if any(str(found) == wanted for found in find_all(item, name)):
                yield item


def find_all(value: Any, path: str) -> list[Any]:
    """Every value at ``path`` (``.spec.steps[0].setWeight``); a path that cannot be read finds nothing."""
    tokens = _tokens(path)
    found = [value] if tokens else []
    for token in tokens:
        found = [item for one in found for item in _step(one, token)]
    return found
