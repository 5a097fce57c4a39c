"""Two processes never get the same loopback network; the network of one that ended is free again."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from rollouts.lab.loopback import OTHER_NETWORK, loopback

SAY = "from rollouts.lab.loopback import OTHER_NETWORK, loopback; print(loopback(1, 10), flush=True); input()"


def other() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_each_process_has_addresses_of_its_own() -> None:
    ours = loopback(1, 10)
    (one, first), (two, second) = other(), other()
    one.communicate("\n")
    two.communicate("\n")

    assert len({first, second, ours}) == 3
    assert all(address.startswith("127.") and address.endswith(".1.10") for address in (first, second))


def test_within_a_process_the_network_stays_the_same() -> None:
    network = loopback(1, 1).rsplit(".", 2)[0]

    assert loopback(2, 7) == f"{network}.2.7"
    with socket.create_server((loopback(2, 7), 0)) as listening:
        assert listening.getsockname()[0] == loopback(2, 7)


def test_another_network_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OTHER_NETWORK, "192.0.2")
    found = [loopback(block, host) for block in range(8) for host in range(32)]

    assert len(set(found)) == len(found) == 256
    assert found[0] == "192.0.2.0"
    assert found[-1] == "192.0.2.255"
