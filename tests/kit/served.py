"""Commands against an API server over HTTP, as a person types them: the server runs in a thread of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from click.testing import CliRunner, Result

from rollouts.api.crds import all_crds
from rollouts.api.status import write_status
from rollouts.cli.main import main
from rollouts.engine.rollout_spec import PauseStep
from rollouts.kube.client import PatchKind
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.lab.memoryapi.server import MemoryApiServer
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from tests.kit.world import World, pause, spec, weight

__all__ = ["ROLLOUT", "Server", "Typed", "stored_status", "typed"]

T = TypeVar("T")

ROLLOUT: dict[str, Any] = {
    "apiVersion": "inferencerollouts.dev/v1alpha1",
    "kind": "Rollout",
    "metadata": {"name": "demo", "namespace": "default"},
    "spec": {
        "target": {"pool": {"name": "v2"}},
        "traffic": {"httpRoutes": [{"name": "route"}]},
        "strategy": {"canary": {"steps": [{"setWeight": 10}, {"pause": {}}]}},
    },
}


def stored_status(waits: PauseStep | None = None, *, saying: str = "") -> dict[str, Any]:
    """A status of ``demo`` in the middle of steps that end in a pause, or after a command."""
    world = World(spec=spec(weight(10), waits or pause()))
    world.settle()
    if saying:
        world.say(saying)
        world.settle()
    return write_status(world.status)


class Server:
    """A memory API server in a thread of its own, and the kubeconfig that leads to it."""

    def __init__(self, directory: Path, *, name: str = "demo") -> None:
        self.name = name
        self.api = MemoryApi()
        for crd in all_crds():
            self.api.create(CRDS, None, crd, manager="test")
        self.kubeconfig = directory / "kubeconfig"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = MemoryApiServer(self.api)
        self._run(self._server.start())
        self._port = int(self._server.url.rpartition(":")[2])
        write_kubeconfig(self.kubeconfig, server=self._server.url)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def stop(self) -> None:
        """End the server and its thread."""
        self.go_away()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def go_away(self) -> None:
        """Refuse connections until ``come_back``; objects stay."""
        self._run(self._server.stop())

    def come_back(self) -> None:
        """Listen again, at the same address."""
        self._server = MemoryApiServer(self.api, port=self._port)
        self._run(self._server.start())

    def within(self, work: Callable[[MemoryApi], T]) -> T:
        """Do something to the objects in the server's thread, where watches hear of it."""

        async def done() -> T:
            return work(self.api)

        there = threading.current_thread() is self._thread  # an observer of a change
        return work(self.api) if there else self._run(done())

    def store(self, world: World) -> None:
        """The Rollout ``demo`` with the status of a world of plain values."""
        self.within(lambda api: api.create(kinds.ROLLOUT, "default", ROLLOUT, manager="test"))
        self.patch_status(write_status(world.status))

    def patch(self, patch: dict[str, Any], *, subresource: str = "") -> None:
        """Merge into the Rollout called ``name``."""
        how: dict[str, Any] = {
            "content_type": PatchKind.MERGE.value,
            "subresource": subresource,
            "manager": "test",
        }
        self.within(lambda api: api.patch(kinds.ROLLOUT, "default", self.name, patch, **how))

    def patch_status(self, status: dict[str, Any]) -> None:
        """Merge into the status of the Rollout called ``name``."""
        self.patch({"status": status}, subresource="status")

    def call(self, *arguments: str) -> Result:
        """A command as typed, with the kubeconfig."""
        return CliRunner().invoke(main, [*arguments, "--kubeconfig", str(self.kubeconfig)])


class Typed:
    """A command in a process of its own, read line by line: what it said is what it has seen."""

    def __init__(self, server: Server, *words: str) -> None:
        command = [sys.executable, "-m", "rollouts.cli", *words, "--kubeconfig", str(server.kubeconfig)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)

    def until(self, words: str, *, err: bool = False) -> str:
        """The next line with these words."""
        stream = self.process.stderr if err else self.process.stdout
        assert stream is not None
        return next(line for line in stream if words in line)

    def ended(self) -> tuple[int, str, str]:
        """Exit status, and the rest of what it said."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextmanager
def typed(server: Server, *words: str) -> Iterator[Typed]:
    """A command that runs meanwhile, and is killed at the end."""
    running = Typed(server, *words)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()
