"""Loopback addresses of one's own: several labs, and tests in several processes, run at once on one machine.

Linux answers on all of 127/8 without set-up. Simulated pods all listen on their pool's port, so that two of them need
two addresses; which ones are free only the kernel knows for sure.
"""

from __future__ import annotations

import functools
import socket

__all__ = ["loopback"]

_LOCK_PORT = 8001
_NETWORKS = 64


@functools.cache
def _taken() -> int:
    """The second octet that is this process's: a bound address says so to all others until the process ends."""
    for second in range(_NETWORKS):
        lock = socket.socket()
        try:
            lock.bind((f"127.{second}.255.254", _LOCK_PORT))
        except OSError:
            lock.close()
        else:
            lock.detach()  # the kernel closes it, and nobody before
            return second
    raise RuntimeError(f"{_NETWORKS} labs run on this machine already: end one of them")


def loopback(block: int, host: int) -> str:
    """Address ``host`` (1 to 254) of ``block`` (0 to 254), in the network that is this process's until it ends.

    Raises RuntimeError when all networks are taken.
    """
    return f"127.{_taken()}.{block}.{host}"
