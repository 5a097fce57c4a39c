"""The one place that prints: whatever comes from a cluster, a file or a server is data, never markup or control.

Names and messages are written by people who are not the reader. Two things would act on the reader's terminal:
characters that it obeys (escape sequences; Unicode's bidirectional controls, which show text in another order than it
has) and our own markup (``[red]``). ``say`` prints a line, ``console`` renderables; in both everything that is not
printable is shown as its escape. JSON and YAML escape by themselves, and are printed by ``document``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

__all__ = ["DataConsole", "console", "document", "printable", "printable_lines", "say", "shown"]

_PIPE_WIDTH = 240

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """One line in which every character only shows itself: controls, formats, surrogates, odd spaces are escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def printable_lines(text: str) -> str:
    """The same, line breaks kept: for text that we put together."""
    return "\n".join(map(printable, text.split("\n")))


def _escape(char: str) -> str:
    code = ord(char)
    return _SHORT.get(char) or (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65_536 else f"\\U{code:08x}"
    )


def shown(value: Any) -> Any:
    """A copy of an object for people: all of its strings printable, keys included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {shown(key): shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    return value


def say(line: str, *, err: bool = False) -> None:
    """Print one line."""
    click.echo(printable(line), err=err)


def document(text: str, *, nl: bool = True) -> None:
    """Print JSON or YAML from the libraries, whose own escapes are exact."""
    click.echo(text, nl=nl)


class DataConsole(Console):
    """A console that reads no markup and lets no control character through, wherever in a renderable it stands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich, with printable text; styles and cursor moves of the library are segments of another kind."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable_lines(text), style, control)


def console(file: TextIO | None = None) -> DataConsole:
    """A console as wide as the terminal; wide enough not to wrap when the output goes into a pipe."""
    return DataConsole(file=file, width=None if sys.stdout.isatty() and file is None else _PIPE_WIDTH)
