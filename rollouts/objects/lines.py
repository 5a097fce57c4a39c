"""Messages as lists show them."""

from __future__ import annotations

__all__ = ["LINE", "brief"]

LINE = 160
"""Characters of a message in a list: what a terminal of 240 columns has left beside the other columns."""


def brief(message: str) -> str:
    """A message as one line of a list: cut at a word, with an ellipsis."""
    line = " ".join(message.split())
    if len(line) <= LINE:
        return line
    cut = line[: LINE - 1]
    return (cut.rpartition(" ")[0] or cut) + "…"
