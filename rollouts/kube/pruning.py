"""JSON that is nested deeper than a parser can follow: what is too deep becomes null.

An API server stores objects nested up to 10,000 levels, wherever a schema preserves unknown fields, and sends them in
one list with all the others: one such object must not keep the whole kind from being read.
"""

from __future__ import annotations

import re

__all__ = ["DEEPEST", "prune_json"]

DEEPEST = 200
"""Levels kept. The fields of no kind that is read here reach a quarter of it."""

# Possessive, and an open string ends with the text: no input is read twice.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|[\[\]{}]', re.DOTALL)


def prune_json(text: bytes, deepest: int = DEEPEST) -> bytes:
    """``text`` with null in place of each object and list inside ``deepest`` others; linear in its length.

    Nothing is checked of what is left out.
    """
    kept: list[bytes] = []
    level = copied = 0
    for token in _TOKEN.finditer(text):
        mark = text[token.start()]
        if mark in b"{[":
            level += 1
            if level == deepest + 1:
                kept += (text[copied : token.start()], b"null")
        elif mark in b"}]":
            if level == deepest + 1:
                copied = token.end()
            level -= 1
    return text if level else b"".join((*kept, text[copied:]))
