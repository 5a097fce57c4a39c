"""What a picker says of its gRPC server: connections, streams, bugs, and lines of the log that were lost.

The native server knows its connections. grpc.aio does not tell them, so that the Python path has those families without
a series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["PortFigures", "ServerFigures", "ServerMetrics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFigures:
    """Connections to a port: ``grpc`` or ``health``. ``closed`` is by reason; ``full`` was never served."""

    port: str
    open: int
    limit: int
    closed: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFigures:
    """What a server has counted. ``failures``: each is a bug of ours."""

    failures: int = 0
    streams: int = 0
    dropped_events: int = 0
    connections: tuple[PortFigures, ...] = ()


class ServerMetrics(Collector):
    """Read off the server when somebody asks; the same families on both data paths."""

    def __init__(self, figures: Callable[[], ServerFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """The families of ``inference_picker_*`` that are of the process."""
        found = self._figures()
        yield GaugeMetricFamily(
            "inference_picker_streams",
            "ext_proc streams that are open: requests, and responses that are measured",
            value=found.streams,
        )
        yield CounterMetricFamily(
            "inference_picker_failures_total",
            "Bugs of the picker: streams that ended with one, and panics elsewhere in the native data path",
            value=found.failures,
        )
        yield CounterMetricFamily(
            "inference_picker_log_events_dropped_total",
            "Lines of the log that were lost, for too many came within a second (native data path)",
            value=found.dropped_events,
        )
        yield from _connections(found.connections)


def _connections(ports: tuple[PortFigures, ...]) -> Iterator[Metric]:
    opened = GaugeMetricFamily(
        "inference_picker_connections",
        "Connections that are open, by port: grpc or health (native data path)",
        labels=("port",),
    )
    limit = GaugeMetricFamily(
        "inference_picker_connections_limit",
        "Connections that may be open, by port (native data path)",
        labels=("port",),
    )
    closed = CounterMetricFamily(
        "inference_picker_connections_closed_total",
        "Connections that ended, by why (native data path); full: turned away, as all places carried streams",
        labels=("port", "reason"),
    )
    for one in ports:
        opened.add_metric((one.port,), one.open)
        limit.add_metric((one.port,), one.limit)
        for reason, count in one.closed.items():
            closed.add_metric((one.port, reason), count)
    yield from (opened, limit, closed)
