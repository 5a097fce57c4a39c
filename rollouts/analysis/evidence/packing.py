"""Single-precision sums and their compact text for the checkpoint.

Sums that only shape the noise estimate or mark where a restart began are kept in single precision (relative
error 6e-8 per addition): the state is then half as large, and what is stored is exactly what is in memory.
"""

import sys
from array import array
from collections.abc import Iterable

__all__ = ["pack", "single", "unpack"]


def single(values: Iterable[float]) -> "array[float]":
    """Values rounded to single precision."""
    return array("f", values)


def pack(values: "array[float]") -> str:
    """Hexadecimal little-endian floats, byte planes one after the other so that exponents compress."""
    ordered = array("f", values)
    if sys.byteorder == "big":
        ordered.byteswap()
    data = ordered.tobytes()
    return b"".join(data[plane::4] for plane in range(4)).hex()


def unpack(text: str) -> "array[float]":
    """Inverse of `pack`."""
    data = bytes.fromhex(text)
    count = len(data) // 4
    ordered = array("f")
    ordered.frombytes(bytes(data[plane * count + i] for i in range(count) for plane in range(4)))
    if sys.byteorder == "big":
        ordered.byteswap()
    return ordered
