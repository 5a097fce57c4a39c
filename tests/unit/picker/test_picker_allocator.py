"""Memory goes back to the kernel when it is told to, and the settings do no harm."""

import platform

import pytest

from rollouts.picker.allocator import keep_freed_memory, release_freed_memory

GLIBC = platform.libc_ver()[0] == "glibc"


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not GLIBC, reason="the parameters are those of glibc")
def test_a_burst_is_kept_until_it_is_released() -> None:
    assert keep_freed_memory(limit=256 << 20)
    blocks = [bytes(64 << 10) for _ in range(1000)]
    for block in blocks:
        assert len(block) == 64 << 10
    full = resident()
    del blocks, block

    released = release_freed_memory()

    assert released
    assert resident() < full - (30 << 20)
