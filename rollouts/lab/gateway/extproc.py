"""How Envoy calls an endpoint picker: the ext_proc settings of the endpoint-picker protocol.

Full-duplex streaming both ways is what the protocol demands (Gateway API Inference Extension, proposal
004, "Endpoint Picker Protocol"). The route is kept when the picker asks to clear the route cache: the
weighted entry was drawn once per request and must not be drawn again.
"""

from __future__ import annotations

from envoy.config.core.v3 import grpc_service_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2, processing_mode_pb2
from google.protobuf import duration_pb2

__all__ = ["DESTINATION_HEADER", "EXT_PROC_FILTER", "base_filter", "picker_override"]

DESTINATION_HEADER = "x-gateway-destination-endpoint"
"""Set by the picker: ``IP:port`` of the pod, one or more joined by commas."""

EXT_PROC_FILTER = "envoy.filters.http.ext_proc"

_Mode = processing_mode_pb2.ProcessingMode
# The timer also runs while a long body is still on its way to the picker, so it is no latency limit.
_MESSAGE_TIMEOUT = duration_pb2.Duration(seconds=60)


def _mode() -> processing_mode_pb2.ProcessingMode:
    return _Mode(
        request_header_mode=_Mode.SEND,
        request_body_mode=_Mode.FULL_DUPLEX_STREAMED,
        request_trailer_mode=_Mode.SEND,
        response_header_mode=_Mode.SEND,
        response_body_mode=_Mode.FULL_DUPLEX_STREAMED,
        response_trailer_mode=_Mode.SEND,
    )


def base_filter() -> ext_proc_pb2.ExternalProcessor:
    """The filter in the chain. It is disabled there; the cluster it names is never called."""
    return ext_proc_pb2.ExternalProcessor(
        grpc_service=_service("picker/none"),
        processing_mode=_mode(),
        message_timeout=_MESSAGE_TIMEOUT,
        route_cache_action=ext_proc_pb2.ExternalProcessor.RETAIN,
    )


def picker_override(cluster: str, *, fail_open: bool) -> ext_proc_pb2.ExtProcPerRoute:
    """Switches the filter on for one weighted entry, with the picker behind ``cluster``."""
    overrides = ext_proc_pb2.ExtProcOverrides(grpc_service=_service(cluster), processing_mode=_mode())
    overrides.failure_mode_allow.value = fail_open
    return ext_proc_pb2.ExtProcPerRoute(overrides=overrides)


def _service(cluster: str) -> grpc_service_pb2.GrpcService:
    return grpc_service_pb2.GrpcService(
        envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=cluster)
    )
