"""Warnings of the transport. structlog costs a tenth of a second to import, which a command has no use for."""

from __future__ import annotations

from typing import Any

__all__ = ["warning"]


def warning(event: str, **values: Any) -> None:
    """Log an event, where the program has set up logs; a command that has not prints its own words instead."""
    import structlog

    if structlog.is_configured():
        structlog.get_logger("rollouts.kube").warning(event, **values)
