"""The evidence process as text of at most 64 KiB: versioned, compressed, exact.

Floats travel as their shortest repr, which Python reads back to the very same double; so a process restored
from its checkpoint goes on bit for bit as if it had never stopped.
"""

import base64
import binascii
import hashlib
import json
import zlib

from rollouts.analysis.evidence.model import EvidenceSpec
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.engine.stamps import stamp

__all__ = ["MAX_CHECKPOINT", "CheckpointError", "restore", "save", "size"]

VERSION = 1
"""Of the format; another one is not continued, the evidence then begins anew and says so."""
MAX_CHECKPOINT = 64 * 1024
"""Bytes: a status lives in etcd, whose objects end at 1.5 MiB, and is sent with every write of it."""
_MAX_PLAIN = 4 * 1024 * 1024
"""Bytes after unpacking: a status is data of others, and 64 KiB may unpack to a thousand times as many."""


class CheckpointError(ValueError):
    """The stored state cannot be continued; start the evidence again and say so (terminal for this state)."""


def save(process: EvidenceProcess) -> str:
    """The state of a process; raises CheckpointError when it does not fit."""
    encoded = _encode(process)
    if len(encoded) > MAX_CHECKPOINT:
        raise CheckpointError(
            f"the evidence state is {len(encoded)} bytes, more than {MAX_CHECKPOINT}: "
            "compare fewer metrics, or give the process a smaller pod_limit"
        )
    return encoded


def size(process: EvidenceProcess) -> int:
    """Bytes that `save` would give, whether or not they fit."""
    return len(_encode(process))


def _encode(process: EvidenceProcess) -> str:
    plain = {"version": VERSION, "spec": stamp(process.spec), "state": process.dump()}
    text = json.dumps(plain, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def restore(spec: EvidenceSpec, text: str, *, pod_limit: int | None = None) -> EvidenceProcess:
    """A process that goes on where `save` left off.

    Raises CheckpointError for text that is damaged, too large, of another version or another specification.
    """
    process = EvidenceProcess(spec, pod_limit=pod_limit)
    try:
        plain = json.loads(_inflate(text))
        version, digest = plain["version"], plain["spec"]
        if version == VERSION and digest in (stamp(spec), *_former(spec)):
            process.load(plain["state"])
            return process
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"the evidence state is damaged ({error}); the evidence starts again"
        ) from error
    raise CheckpointError(
        f"the evidence state is of version {version!r} for specification {digest!r}, "
        f"not version {VERSION} for {stamp(spec)!r}; the evidence starts again"
    )


def _inflate(text: str) -> bytes:
    if len(text) > MAX_CHECKPOINT:
        raise ValueError(f"{len(text)} bytes, more than {MAX_CHECKPOINT}")
    try:
        engine = zlib.decompressobj()
        plain = engine.decompress(base64.b64decode(text, validate=True), _MAX_PLAIN)
    except (zlib.error, binascii.Error) as error:
        raise ValueError(str(error)) from error
    if engine.unconsumed_tail or not engine.eof:
        raise ValueError("it does not end where it should")
    return plain


def _former(spec: EvidenceSpec) -> tuple[str, str]:
    """What told a specification before: stamps of version 1, which are the same here, and none at all."""
    _, _, digest = stamp(spec).partition(":")
    return f"1:{digest}", hashlib.sha256(repr(spec).encode()).hexdigest()[:16]
