"""Standard output and standard error of a command: closed, full, or with nobody left who reads them.

The exit status of a command is a verdict (``status``: 1 is an aborted rollout), so what becomes of its words has
others: 74, EX_IOERR of sysexits.h, where they cannot be written, and 141 where a pipe was closed, as shells have it of
whatever SIGPIPE ends. An output that the caller closed beforehand (``>&-``) is wanted by nobody, and is none.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

__all__ = ["UNWRITABLE", "guarded_outputs"]

UNWRITABLE = 74
_CLOSED_PIPE = 141


class _OutputLost(Exception):
    """A standard stream cannot be written. No OSError: those stand for files and servers wherever they are caught."""

    def __init__(self, output: _Output, error: OSError) -> None:
        super().__init__(f"the output cannot be written: {error.strerror}")
        self.output = output
        self.closed = error.errno == errno.EPIPE


class _Output(io.FileIO):
    """The descriptor of a standard stream, which says of itself that it cannot be written."""

    def write(self, data: Any, /) -> int:
        """As FileIO. Raises _OutputLost."""
        try:
            return super().write(data)
        except OSError as error:
            raise _OutputLost(self, error) from None

    def forget(self) -> None:
        """Let what was not written go nowhere: the streams above try it again when they are closed."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def _guarded(stream: TextIO | None) -> TextIO:
    """The same stream over an _Output, with a ? for signs that it does not have."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        number = stream.fileno()
    except OSError:  # no file, as under a test
        stream.reconfigure(errors="replace")
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(number, "wb", closefd=False)),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering or stream.write_through,
    )


@contextmanager
def guarded_outputs() -> Iterator[None]:
    """Standard output and error are guarded meanwhile: a loss of one ends the program (see the module)."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_guarded, before)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    except (_OutputLost, ExceptionGroup) as error:
        lost = _lost_in(error)
        if lost is None:
            raise
        lost.output.forget()
        if lost.closed:
            sys.exit(_CLOSED_PIPE)
        _tell(lost)
        sys.exit(UNWRITABLE)
    finally:
        sys.stdout, sys.stderr = before


def _lost_in(error: Exception) -> _OutputLost | None:
    """The loss itself, or the first one in what tasks ended with."""
    if isinstance(error, ExceptionGroup):
        return next(filter(None, map(_lost_in, error.exceptions)), None)
    return error if isinstance(error, _OutputLost) else None


def _tell(lost: _OutputLost) -> None:
    """Say it where that can be said: both streams may lead to the same full disk."""
    with suppress(_OutputLost):
        try:
            sys.stderr.write(f"Error: {lost}\n")
            sys.stderr.flush()
        except _OutputLost as other:
            other.output.forget()
