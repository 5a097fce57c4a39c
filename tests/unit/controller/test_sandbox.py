"""A sandboxed process is killed at its budget, and the next request finds another one."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from rollouts.runtime.child import MEMORY_BYTES
from rollouts.runtime.sandbox import OverBudget, Sandbox, SandboxBroken

HOSTILE = """
import sys, time
from rollouts.runtime.child import serve_requests

def answer(request):
    match request["do"]:
        case "echo": return request
        case "spin":
            while True: pass
        case "grow": return len("x" * (1 << 30))
        case "hang": time.sleep(60)
        case "fail": raise KeyError("bug")
        case "write": open("spilled", "wb", 0).write(b"x")
        case "limits":
            import resource
            return list(resource.getrlimit(resource.RLIMIT_AS))

serve_requests(answer)
"""


@pytest.fixture
async def sandbox(tmp_path, monkeypatch):
    (tmp_path / "hostile_child.py").write_text(HOSTILE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    made = Sandbox("hostile_child", processes=2, wall=20.0)
    yield made
    await made.close()


async def test_requests_are_answered_by_one_process_as_long_as_they_behave(sandbox):
    answers = [await sandbox.ask("a", {"do": "echo", "n": n}) for n in range(50)]

    assert [answer["n"] for answer in answers] == list(range(50))
    assert sandbox.started == 1
    assert await sandbox.ask("a", {"do": "limits"}) == [MEMORY_BYTES, MEMORY_BYTES]


@pytest.mark.parametrize(
    ("do", "words"), [("spin", "CPU"), ("grow", "memory"), ("fail", "evaluator"), ("write", "evaluator")]
)
async def test_what_breaks_its_budget_ends_alone(sandbox, do, words):
    with pytest.raises(OverBudget, match=words):
        await sandbox.ask("a", {"do": do})

    assert (await sandbox.ask("a", {"do": "echo"})) == {"do": "echo"}
    assert sandbox.started == 2


@pytest.mark.slow
async def test_what_only_waits_is_given_up_and_not_called_expensive(sandbox):
    sandbox._wall = 2.0

    with pytest.raises(SandboxBroken):
        await sandbox.ask("a", {"do": "hang"})

    assert (await sandbox.ask("a", {"do": "echo"})) == {"do": "echo"}


async def test_a_module_that_does_not_run_is_said(tmp_path):
    broken = Sandbox("no_such_module_here")

    with pytest.raises(SandboxBroken):
        await broken.ask("a", {})
    await broken.close()


async def test_a_process_that_was_killed_from_outside_is_replaced(sandbox):
    await sandbox.ask("a", {"do": "echo"})
    for child in list(sandbox._alive):
        os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(OverBudget):
        await sandbox.ask("a", {"do": "echo"})

    assert (await sandbox.ask("a", {"do": "echo"})) == {"do": "echo"}


@pytest.mark.timed
@pytest.mark.slow
async def test_one_tenant_spins_and_another_is_answered_at_once(sandbox):
    await asyncio.gather(sandbox.ask("a", {"do": "echo"}), sandbox.ask("b", {"do": "echo"}))
    spinning = [asyncio.create_task(sandbox.ask("greedy", {"do": "spin"})) for _ in range(3)]
    await asyncio.sleep(0)
    waits = []
    for _ in range(20):
        begun = time.monotonic()
        await sandbox.ask("modest", {"do": "echo"})
        waits.append(time.monotonic() - begun)
    ended = await asyncio.gather(*spinning, return_exceptions=True)

    assert max(waits) < 1.0
    assert [type(error) for error in ended] == [OverBudget] * 3


async def test_closing_leaves_no_process(sandbox):
    await sandbox.ask("a", {"do": "echo"})
    pids = [child.pid for child in sandbox._alive]

    await sandbox.close()

    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
