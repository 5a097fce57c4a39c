"""``python -m rollouts.picker`` is ``rollouts picker``."""

from rollouts.picker.command import picker

__all__: list[str] = []

picker()
