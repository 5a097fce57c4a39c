"""CPU of the picker's logic per request, in this tree and in another one, taking turns: what a change costs.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.picker.logic --base /tmp/before [--rounds 40] [--requests 3000]

Two processes, one per tree, do the same by turns: decode a request of 1 KB, route it through the objects of this
benchmark (four pods, an adapter split 90/10), count it, encode the replies. No transport, no scraping. ``leave`` is a
request whose response nobody measures, ``stay`` one with a measured response of three chunks. Shown are the median of
the CPU per request in each tree and the median of the ratios of neighbouring turns, with its quartiles.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# As a worker: those of the tree that is measured.
from rollouts.picker.core.encoding import encode
from rollouts.picker.core.messages import (
    BodyMode,
    Protocol,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
)
from rollouts.picker.core.objects import PoolName, read_snapshot
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.protocol import Exchange
from rollouts.picker.core.routing import Router
from rollouts.picker.core.schedule import Scheduler
from rollouts.picker.filesource import load_objects
from rollouts.picker.metrics import PickerMetrics

HERE = Path(__file__).resolve()
CELLS = ("leave", "stay")
ROLLOUT = {
    "apiVersion": "inferencerollouts.dev/v1alpha1",
    "kind": "Rollout",
    "metadata": {"name": "travelhelper", "namespace": "default"},
    "spec": {
        "target": {"adapter": {"name": "travel-helper-v2"}},
        "traffic": {"inferenceModel": {"name": "loramodel", "modelName": "travelhelper"}},
        "strategy": {"canary": {"analysis": {"preset": "default"}}},
    },
    "status": {"phase": "Progressing", "canary": {"adapter": {"name": "travel-helper-v2"}}},
}
"""Compares: responses are measured where the picker knows it."""
MODES = Protocol(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED)
BODY = b'{"model":"travelhelper","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 900)
ANSWER = [
    ResponseHeaders({b":status": b"200", b"content-type": b"text/event-stream"}),
    *[
        ResponseBody(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n', end)
        for end in (False, False, True)
    ],
]


def worker() -> None:
    """Answer each line ``CELL REQUESTS`` with the CPU seconds per request."""
    objects = load_objects(HERE.parent / "objects.yaml")
    routers = {"leave": router_of(objects), "stay": router_of([*objects, ROLLOUT])}
    observers = {cell: PickerMetrics(router) for cell, router in routers.items()}
    answers = {"leave": [], "stay": ANSWER}
    budget = BufferBudget()
    gc.disable()
    for line in sys.stdin:
        cell, count = line.split()
        began = time.process_time()
        for number in range(int(count)):
            serve(Exchange(routers[cell], observers[cell], budget), number, answers[cell])
        spent = (time.process_time() - began) / int(count)
        gc.collect()
        sys.stdout.write(f"{spent}\n")
        sys.stdout.flush()


def router_of(objects: Sequence[Mapping[str, Any]]) -> Router:
    """A router that knows the objects, and the four pods among them."""
    router = Router(Scheduler())
    snapshot = read_snapshot([PoolName("default", "mymodel-pool-v1")], objects)
    assert len(snapshot.endpoints) == 4
    router.update(snapshot, 0.0, 0.0)
    return router


def serve(exchange: Exchange, number: int, answer: Sequence[ResponseHeaders | ResponseBody]) -> None:
    """One request and what comes back of it, from Envoy's messages to ours."""
    headers = {b":method": b"POST", b":path": b"/v1/chat/completions", b"x-request-id": b"%d" % number}
    for message in (RequestHeaders(headers, protocol=MODES), RequestBody(BODY, True), *answer):
        for reply in exchange.receive(message, 1.0):
            encode(reply)
    exchange.disconnect(2.0)


def start(tree: Path) -> subprocess.Popen[str]:
    """A worker on the code of a tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
    command = [sys.executable, str(HERE), "--worker"]
    return subprocess.Popen(
        command, env=environment, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def turn(process: subprocess.Popen[str], cell: str, requests: int) -> float:
    """CPU seconds per request of one turn."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{cell} {requests}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main(arguments: list[str]) -> None:
    """Take turns and print both figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help="the other tree")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=3000)
    options = parser.parse_args(arguments)
    if options.worker:
        worker()
        return
    if options.base is None:
        parser.error("--base: a checkout to compare with")
    trees = [start(options.base.resolve()), start(HERE.parents[2])]
    try:
        for cell in CELLS:
            for process in trees:
                turn(process, cell, 300)
            base, ours, ratios = [], [], []
            for number in range(options.rounds):
                first, second = trees if number % 2 == 0 else trees[::-1]
                found = [turn(first, cell, options.requests), turn(second, cell, options.requests)]
                before, after = found if number % 2 == 0 else found[::-1]
                base.append(before)
                ours.append(after)
                ratios.append(after / before)
            low, middle, high = statistics.quantiles(ratios, n=4)
            sys.stdout.write(
                f"{cell:6} before {statistics.median(base) * 1e6:6.1f} us, now {statistics.median(ours) * 1e6:6.1f} us"
                f" per request, ratio {middle:.3f} ({low:.3f} to {high:.3f})\n"
            )
    finally:
        for process in trees:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
