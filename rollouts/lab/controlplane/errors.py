"""The one error of this package."""

from __future__ import annotations

__all__ = ["ControlPlaneError"]


class ControlPlaneError(Exception):
    """A control plane could not be built or started; the message says what to do."""
