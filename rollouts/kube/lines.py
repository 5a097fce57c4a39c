"""Lines out of a byte stream: a watch is one JSON object per line, each as long as an object may be."""

from __future__ import annotations

from rollouts.kube.errors import Invalid

__all__ = ["LineSplitter"]

# etcd refuses values over 1.5 MiB by default, but servers may allow more; an event carries one object.
_MAX_LINE = 32 * 1024 * 1024


class LineSplitter:
    """Feed it chunks, get whole lines, without their line ends and without empty ones."""

    def __init__(self, *, max_line: int = _MAX_LINE) -> None:
        self._max_line = max_line
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def incomplete(self) -> bool:
        """Whether the stream, if it ended now, would end in the middle of a line."""
        return self._size > 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes. Raises Invalid for a line over the limit."""
        head, *rest = chunk.split(b"\n")
        self._parts.append(head)
        self._size += len(head)
        lines: list[bytes] = []
        for part in rest:
            self._check()
            lines.append(b"".join(self._parts))
            self._parts, self._size = [part], len(part)
        self._check()
        return [line for line in (line.strip() for line in lines) if line]

    def _check(self) -> None:
        if self._size > self._max_line:
            raise Invalid(f"a watch event is longer than {self._max_line} bytes: the watch is given up")
