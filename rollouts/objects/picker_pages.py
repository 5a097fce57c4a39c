"""Names of series that our endpoint pickers export and the controller reads: one place for both."""

from __future__ import annotations

__all__ = ["DRAINING", "IN_FLIGHT", "TO_DRAINING"]

DRAINING = "inference_picker_endpoint_draining"
"""Gauge by pool and pod: 1 while the picker spares the pod."""

IN_FLIGHT = "inference_picker_endpoint_in_flight"
"""Gauge by pool and pod: requests that the pod may have in flight, as far as this picker knows."""

TO_DRAINING = "inference_picker_requests_to_draining"
"""Counter by pool (``_total``): requests that pods about to go got all the same. A picker without it knows no drain."""
