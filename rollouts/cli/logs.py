"""Logs of the long-running commands: constant event names with key-values, JSON unless a person is watching."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast

import structlog

from rollouts.terminal import printable

__all__ = ["configure_logs", "quiet_logs"]


def _printable(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Values come from objects and servers; a terminal would obey what stands in them. JSON escapes by itself."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


class _Stderr:
    """Whatever stderr is when a line is written: loggers are kept, and a program may replace it meanwhile."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure_logs(form: str = "auto") -> None:
    """Send structlog to stderr as JSON lines or, on a terminal (or ``text``), as readable lines."""
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # Without locals: they may hold a hostile object, which takes a minute to render.
            exception_formatter=structlog.dev.plain_traceback,
        )
        if text
        else structlog.processors.JSONRenderer()
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    processors.append(_printable if text else structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )
    logging.getLogger("apscheduler").setLevel(logging.WARNING)


@contextmanager
def quiet_logs() -> Iterator[None]:
    """For commands that end: errors alone, on stderr; what they have to say they print. Keeps another's choice."""
    if structlog.is_configured():
        yield
        return
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Stderr())),
    )
    try:
        yield
    finally:
        structlog.reset_defaults()
