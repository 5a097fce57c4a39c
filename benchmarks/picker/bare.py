"""The floor: the same gRPC messages as a picker's, without a picker. One process, one port.

It answers the request's end with a header reply and the body as it came, and echoes responses. ``leave``
ends the stream once the request is answered, as the picker does for a response that nobody measures: then the
end of a long body goes out in a short message of its own, and as there the last message leaves together with
the status, for which the method is registered as one that returns a single message.
"""

from __future__ import annotations

import asyncio
import sys

import grpc
import grpc.aio

PIECE = 62_000
MAX_LAST, TAIL = 16_384, 512


def varint(number: int) -> bytes:
    """A base-128 varint."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def wrap(tag: bytes, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return tag + varint(len(payload)) + payload


def body_reply(tag: bytes, body: bytes, end: bool) -> bytes:
    """A streamed body reply."""
    streamed = wrap(b"\x0a", body) + (b"\x10\x01" if end else b"")
    return wrap(tag, wrap(b"\x0a", wrap(b"\x1a", wrap(b"\x1a", streamed))))


def header_reply() -> bytes:
    """As long as a real one: destination, content-length, dynamic metadata, 190 bytes."""
    pair = wrap(b"\x0a", b"x-gateway-destination-endpoint") + wrap(b"\x1a", b"127.0.0.11:8000")
    length = wrap(b"\x0a", b"content-length") + wrap(b"\x1a", b"220000")
    mutation = b"".join(wrap(b"\x0a", wrap(b"\x0a", p) + b"\x18\x02") for p in (pair, length))
    common = wrap(b"\x0a", wrap(b"\x12", mutation) + b"\x28\x01")
    value = wrap(b"\x0a", b"x-gateway-destination-endpoint") + wrap(
        b"\x12", wrap(b"\x1a", b"127.0.0.11:8000")
    )
    inner = wrap(b"\x2a", wrap(b"\x0a", value))
    outer = wrap(b"\x0a", wrap(b"\x0a", b"envoy.lb") + wrap(b"\x12", inner))
    return wrap(b"\x0a", common) + wrap(b"\x42", outer)


HEADER_REPLY = header_reply()


def payload(message: bytes) -> bytes:
    """The body bytes of a body message as the driver makes it: tag, length, tag, length, bytes, end."""
    pos = 1
    while message[pos] >= 0x80:
        pos += 1
    pos += 2
    while message[pos] >= 0x80:
        pos += 1
    end = len(message) - 2 if message.endswith(b"\x10\x01") else len(message)
    return message[pos + 1 : end]


def cut(body: bytes, leave: bool) -> list[bytes]:
    """The pieces in which a body goes out."""
    pieces = [body[at : at + PIECE] for at in range(0, len(body), PIECE)]
    if leave and len(pieces[-1]) > MAX_LAST:
        pieces[-1:] = [pieces[-1][:-TAIL], pieces[-1][-TAIL:]]
    return pieces


async def serve(port: int, leave: bool) -> None:
    """Serve until terminated."""

    async def process(_: object, context: grpc.aio.ServicerContext) -> bytes:
        held = []
        while (message := await context.read()) is not grpc.aio.EOF:
            kind, last = message[0], message.endswith(b"\x10\x01")
            if kind == 0x22:
                held.append(payload(message))
                if not last:
                    continue
                await context.write(HEADER_REPLY)
                *pieces, final = cut(b"".join(held), leave)
                for piece in pieces:
                    await context.write(body_reply(b"\x1a", piece, False))
                if leave:
                    return body_reply(b"\x1a", final, True)
                await context.write(body_reply(b"\x1a", final, True))
            elif kind == 0x1A:
                if message.endswith(b"\x18\x01"):
                    return b"\x12\x00"
                await context.write(b"\x12\x00")
            elif kind == 0x2A:
                if last:
                    return body_reply(b"\x22", payload(message), True)
                await context.write(body_reply(b"\x22", payload(message), False))
        return b""

    class Handler(grpc.GenericRpcHandler):
        handler = grpc.stream_unary_rpc_method_handler(process)

        def service(self, _: object) -> grpc.RpcMethodHandler:
            return self.handler

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 8 << 20)])
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2] == "leave"))
