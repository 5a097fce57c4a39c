"""The smallest endpoint picker, and a client that says which pod answered: for tests of the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import aiohttp
import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as ext_proc_grpc

__all__ = ["FakePicker", "ask"]

Messages = AsyncIterator[ext_proc.ProcessingRequest]


class FakePicker(ext_proc_grpc.ExternalProcessorServicer):  # type: ignore[misc]  # untyped base class
    """Waits for the whole body, then names ``choose()`` as destination; counts calls and bytes."""

    def __init__(self, choose: Callable[[], str]) -> None:
        self.choose = choose
        self.calls = 0
        self.bytes = 0

    async def Process(  # noqa: D102  # the name is given by the protocol
        self, requests: Messages, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[ext_proc.ProcessingResponse]:
        self.calls += 1
        chunks: list[bytes] = []
        async for request in requests:
            kind = request.WhichOneof("request")
            if kind == "request_headers" and request.request_headers.end_of_stream:
                yield self._destination()
            elif kind == "request_body":
                chunks.append(request.request_body.body)
                if request.request_body.end_of_stream:
                    self.bytes += len(b"".join(chunks))
                    yield self._destination()
                    for index, chunk in enumerate(chunks):
                        yield _body("request_body", chunk, last=index == len(chunks) - 1)
            elif kind == "response_headers":
                yield ext_proc.ProcessingResponse(response_headers=ext_proc.HeadersResponse())
            elif kind == "response_body":
                part = request.response_body
                yield _body("response_body", part.body, last=part.end_of_stream)

    def _destination(self) -> ext_proc.ProcessingResponse:
        header = base_pb2.HeaderValue(key="x-gateway-destination-endpoint", raw_value=self.choose().encode())
        common = ext_proc.CommonResponse(
            clear_route_cache=True,
            header_mutation=ext_proc.HeaderMutation(set_headers=[base_pb2.HeaderValueOption(header=header)]),
        )
        return ext_proc.ProcessingResponse(request_headers=ext_proc.HeadersResponse(response=common))


def _body(field: str, data: bytes, *, last: bool) -> ext_proc.ProcessingResponse:
    streamed = ext_proc.StreamedBodyResponse(body=data, end_of_stream=last)
    common = ext_proc.CommonResponse(body_mutation=ext_proc.BodyMutation(streamed_response=streamed))
    return ext_proc.ProcessingResponse(**{field: ext_proc.BodyResponse(response=common)})


async def ask(
    http: aiohttp.ClientSession, url: str, *, size: int = 100, stream: bool = False, **headers: str
) -> tuple[int, str]:
    """One completion: status and the pod that answered, empty where none did."""
    document = {"model": "mymodel", "prompt": "a" * size, "max_tokens": 4, "stream": stream}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.post(f"{url}/v1/completions", json=document, headers=named) as answer:
        text = await answer.text()
        assert not stream or answer.status != 200 or text.endswith("data: [DONE]\n\n")
        return answer.status, answer.headers.get("x-inference-pod", "")
