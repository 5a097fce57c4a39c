"""Loopback addresses of one's own: several labs, and tests in several processes, run at once on one machine.

Linux answers on all of 127/8 without set-up. Simulated pods all listen on their pool's port, so that two of them need
two addresses; which ones are free only the kernel knows for sure.
"""

from __future__ import annotations

import functools
import os
import socket

__all__ = ["OTHER_NETWORK", "loopback"]

OTHER_NETWORK = "INFERENCE_ROLLOUTS_LAB_NETWORK"
"""Variable with the first three octets of a network, for network namespaces that have it on their loopback device:
EndpointSlices, which real gateways read, refuse 127/8."""

_NETWORKS = 64
_PER_BLOCK = 32


@functools.cache
def _taken() -> int:
    """The second octet that is this process's: a bound name says so to all others until the process ends."""
    for second in range(_NETWORKS):
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            # An abstract name, unix(7): of the network namespace, as the loopback device is, and no file.
            lock.bind(f"\0inference-rollouts/127.{second}")
        except OSError:
            lock.close()
        else:
            lock.detach()  # the kernel closes it, and nobody before
            return second
    raise RuntimeError(f"{_NETWORKS} labs run on this machine already: end one of them")


def loopback(block: int, host: int) -> str:
    """Address ``host`` (1 to 254) of ``block`` (0 to 254), in the network that is this process's until it ends.

    Of another network (``OTHER_NETWORK``) there is one for all, with 32 hosts in each of 8 blocks.

    Raises RuntimeError when all networks are taken.
    """
    if other := os.environ.get(OTHER_NETWORK):
        return f"{other}.{block % 8 * _PER_BLOCK + host % _PER_BLOCK}"
    return f"127.{_taken()}.{block}.{host}"
