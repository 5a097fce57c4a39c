"""What stands in the way of a controller: kills, freezes, refusals; and a metric source that says what it is told."""

from __future__ import annotations

import asyncio
import collections
import os
import random
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

from aiohttp import web

from benchmarks.controller.judging import History
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import KubeError, NotFound
from rollouts.lab.controlplane.upstream import POLICIES, POLICY_BINDINGS
from rollouts.lab.environment import Lab
from rollouts.lab.processes import ChildProcess, free_port

__all__ = ["Controllers", "Freezer", "Verdicts"]

Now = Callable[[], float]
TAKEOVER = 20.0
"""Seconds from a leader's death to its successor's first plan: a lease, and its start."""


class Verdicts:
    """A Prometheus that answers 1 for the Rollouts that are ``bad`` and 0 for all others."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Verdicts:
        app = web.Application()
        app.router.add_route("*", "/api/v1/query", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        form = await request.post()
        query = str(request.query.get("query") or form.get("query") or "")
        named = re.search(r'rollout="([^"]+)"', query)
        value = "1" if named and named.group(1) in self.bad else "0"
        result = [{"metric": {}, "value": [asyncio.get_running_loop().time(), value]}]
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": result}})


class Controllers:
    """Two replicas with a lease, which are started again whenever they end."""

    def __init__(self, lab: Lab, source: str, history: History, now: Now) -> None:
        self._lab = lab
        self._source = source
        self._history = history
        self._now = now
        self._running: dict[str, ChildProcess] = {}
        self._watchers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Controllers:
        self._watchers = [asyncio.create_task(self._keep(name)) for name in ("one", "two")]
        return self

    async def __aexit__(self, *_: object) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for process in self._running.values():
            if process.returncode is None:
                os.kill(process.pid, signal.SIGCONT)
                await process.stop()

    async def _keep(self, name: str) -> None:
        while True:
            command = [
                sys.executable,
                "-m",
                "rollouts.cli",
                "controller",
                "--kubeconfig",
                str(self._lab.kubeconfig),
            ]
            command += ["--namespace", "default", "--source", f"default={self._source}"]
            command += ["--queries-per-minute", "0"]  # the budget is another's subject
            for option in ("--health-address", "--metrics-address"):
                command += [option, f"127.0.0.1:{free_port()}"]
            log = self._lab.directory / f"controller-{name}.log"
            process = self._running[name] = ChildProcess(name, command, log_path=log)
            await process.start()
            await process.wait()
            await asyncio.sleep(1.0)

    async def disturb(
        self, chance: random.Random, until: float, now: Now, counts: collections.Counter[str]
    ) -> None:
        """Kill or freeze one of them, some seconds apart."""
        while now() < until:
            await asyncio.sleep(chance.uniform(15, 45))
            alive = [process for process in self._running.values() if process.returncode is None]
            if not alive or now() >= until:
                continue
            process, begin = chance.choice(alive), now()
            if chance.random() < 0.6:
                os.kill(process.pid, signal.SIGKILL)
                counts["kills"] += 1
                self._history.outages.append((begin, begin + TAKEOVER))
                continue
            counts["freezes"] += 1
            os.kill(process.pid, signal.SIGSTOP)
            await asyncio.sleep(chance.choice([1.0, 5.0, 20.0]))  # the last one is longer than its lease
            self._history.outages.append((begin, now() + TAKEOVER))
            if process.returncode is None:
                os.kill(process.pid, signal.SIGCONT)


def _policy(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    rules = [
        {"apiGroups": [group], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": [plural]}
        for group, plural in (
            ("gateway.networking.k8s.io", "httproutes"),
            ("inference.networking.x-k8s.io", "inferencemodels"),
        )
    ]
    policy = {
        "apiVersion": POLICIES.api_version,
        "kind": POLICIES.kind,
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": rules},
            "validations": [{"expression": "false", "message": "traffic is frozen"}],
        },
    }
    binding = {
        "apiVersion": POLICY_BINDINGS.api_version,
        "kind": POLICY_BINDINGS.kind,
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    return policy, binding


class Freezer:
    """An admission policy that refuses every change of traffic objects, for a while, again and again."""

    NAME = "freeze-traffic"
    LATE = 5.0
    """Seconds until a server has heard of a binding that is gone."""

    def __init__(self, client: KubeClient, history: History, now: Now) -> None:
        self._client = client
        self._history = history
        self._now = now

    async def disturb(
        self, chance: random.Random, until: float, now: Now, counts: collections.Counter[str]
    ) -> None:
        """Bind the policy for some seconds, some seconds apart."""
        policy, binding = _policy(self.NAME)
        await self._client.create(POLICIES, None, policy)
        while now() < until:
            await asyncio.sleep(chance.uniform(20, 60))
            if now() >= until:
                return
            begin = now()
            await self._client.create(POLICY_BINDINGS, None, binding)
            counts["freezes of traffic"] += 1
            await asyncio.sleep(chance.uniform(5, 25))
            await self._unbind()
            self._history.outages.append((begin, now() + self.LATE))

    async def _unbind(self) -> None:
        while True:
            try:
                await self._client.delete(POLICY_BINDINGS, None, self.NAME)
            except NotFound:
                return
            except KubeError:
                await asyncio.sleep(0.5)
