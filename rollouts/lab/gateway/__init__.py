"""A small Gateway API data plane for the lab: Envoy, configured live from the API server."""

from __future__ import annotations

from rollouts.lab.gateway.backends import PICKER_ANNOTATION
from rollouts.lab.gateway.service import LabGateway
from rollouts.lab.gateway.status import CONTROLLER_NAME

__all__ = ["CONTROLLER_NAME", "PICKER_ANNOTATION", "LabGateway"]
