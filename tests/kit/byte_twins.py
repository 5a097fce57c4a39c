"""The native bytes side under the names of Python's; see ``tests.kit.twins``. Errors come with ``finish``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from inference_rollouts_native import bytes_door

from rollouts.picker.core import messages
from rollouts.picker.core.encoding import encode
from rollouts.picker.core.measure import Ending, ObservedResponse
from rollouts.picker.core.members import BodyError, Field, JsonType
from rollouts.picker.core.messages import BodyMode, Incoming, Outgoing, Protocol
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.splicing import MAX_CHUNK
from rollouts.picker.core.wire import WireError
from tests.kit.native_bytes import native_reply

__all__ = ["BodyScanner", "NameRestorer", "ResponseMeter", "encoding", "splice", "wire"]


class BodyScanner:
    """See ``rollouts.picker.core.body.BodyScanner``."""

    def __init__(self, wanted: frozenset[str]) -> None:
        self._wanted = sorted(wanted)
        self._chunks: list[bytes] = []
        self.fields: dict[str, _Field] = {}

    def feed(self, chunk: bytes) -> None:
        """See ``BodyScanner``."""
        self._chunks.append(chunk)

    def finish(self) -> None:
        """See ``BodyScanner``; raises what feeding raised, too."""
        fields, _, error = bytes_door.scan(self._chunks, self._wanted)
        if error is not None:
            raise BodyError(error)
        for name, kind, start, end, raw, clipped, text in fields:
            self.fields[name] = _Field(JsonType[kind], start, end, raw.decode("latin-1"), clipped, text)


class _Field(Field):
    """With the text as the native scanner gives it."""

    given: object

    def __new__(cls, *found: Any) -> _Field:
        made = super().__new__(cls, *found[:-1])
        made.given = found[-1]
        return made

    def text(self) -> str:
        """See ``Field``."""
        return str(self.given)


def splice(
    chunks: Iterable[bytes], start: int, end: int, new: bytes, *, limit: int = MAX_CHUNK
) -> Iterator[bytes]:
    """See ``rollouts.picker.core.splicing.splice``."""
    return iter(bytes_door.splice(list(chunks), start, end, new, limit))


class ResponseMeter:
    """See ``rollouts.picker.core.measure.ResponseMeter``."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._chunks: list[tuple[bytes, float]] = []

    def headers(self, status: bytes, content_type: bytes) -> None:
        """See ``ResponseMeter``."""
        self._headers = status, content_type

    def body(self, chunk: bytes, now: float) -> None:
        """See ``ResponseMeter``."""
        self._chunks.append((chunk, now))

    def finish(self, ending: Ending, now: float) -> ObservedResponse:
        """See ``ResponseMeter``."""
        how, *figures, error = bytes_door.measure(self._start, *self._headers, self._chunks, ending.name, now)
        names = ("status", "e2e", "ttft", "time_per_output_token", "prompt_tokens", "completion_tokens")
        found = ObservedResponse(ending=Ending[how], **dict(zip(names, figures, strict=True)))
        assert found.error is error
        return found


class NameRestorer:
    """See ``rollouts.picker.core.restore.NameRestorer``."""

    def __init__(self, name: str, target: str, _: BufferBudget) -> None:
        self._names = name, target
        self._chunks: list[bytes] = []

    def headers(self, content_type: bytes) -> None:
        """See ``NameRestorer``."""
        self._type = content_type

    def feed(self, chunk: bytes, *, end: bool) -> bytes:
        """See ``NameRestorer``."""
        self._chunks.append(chunk)
        whole: list[bytes] = bytes_door.restore(*self._names, self._type, self._chunks, end)
        return whole[-1]


class wire:  # stands for a module
    """See ``rollouts.picker.core.wire``."""

    WireError = WireError

    @staticmethod
    def decode(data: bytes) -> Incoming | None:
        """See ``decode``."""
        try:
            found = bytes_door.decode(data)
        except ValueError as error:
            raise WireError(str(error)) from None
        if found is None:
            return None
        name, *parts = found
        if name.endswith("Headers"):
            parts[3] = Protocol(*map(BodyMode, parts[3]))
        message: Incoming = getattr(messages, name)(*parts)
        return message

    @staticmethod
    def metadata_value(metadata: bytes, namespace: bytes, key: bytes) -> Any:
        """See ``metadata_value``."""
        try:
            return bytes_door.metadata_value(metadata, namespace, key.decode())
        except ValueError as error:
            raise WireError(str(error)) from None


class encoding:  # stands for a module
    """See ``rollouts.picker.core.encoding``; trailers are Python's: there is nothing in them."""

    @staticmethod
    def encode(reply: Outgoing) -> bytes:
        """See ``encode``."""
        trailers = isinstance(reply, messages.TrailersReply)
        written: bytes = encode(reply) if trailers else native_reply(bytes_door, reply)
        return written
