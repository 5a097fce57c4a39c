"""Keeps glibc from giving memory back between one 64 KiB message and the next.

By default the C allocator returns the top of its heap to the kernel whenever 128 KiB of it are free and maps
larger blocks afresh each time, so that a stream of large messages spends a third of its CPU on page faults.
mallopt(3) and malloc_trim(3) have the details. Elsewhere (musl, macOS) nothing happens.
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory", "release_freed_memory"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory(limit: int = 64 << 20) -> bool:
    """Let each heap keep up to ``limit`` free bytes. Whether the allocator took it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_TRIM_THRESHOLD, limit), (_M_TOP_PAD, 1 << 20), (_M_MMAP_THRESHOLD, 8 << 20))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def release_freed_memory() -> bool:
    """Give the kernel what is free now, after a burst of large requests. Whether there was anything."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and trim(0) == 1
