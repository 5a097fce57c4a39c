"""gRPC health of our own endpoint pickers, asked in the background.

Protocol: ``grpc.health.v1.Health/Check`` for the service name ``readiness``, without TLS, on the container port named
``health``, else on the one named ``grpc``. Only pickers of ours are asked (the annotation
``inferencerollouts.dev/metrics-port`` marks them): the Service port of the Inference Extension's own picker serves no
health. Only two answers count: NOT_SERVING, and a refused connection. Anything else (no answer in time, TLS, an
unknown service) proves nothing: a pod that does not answer us may still answer the gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rollouts.objects.pods import PickerPod
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey

__all__ = ["HealthAnswer", "PickerHealthWatch", "ask"]

_log = structlog.get_logger(__name__)

_TICK = 0.25
_INTERVAL = 5.0
"""Seconds between two questions to a picker that serves: its kubelet asks as often, and the Pod's condition follows."""
_HURRY = 1.0
"""The same while it says that it does not."""
_DEADLINE = 2.0
_PARALLEL = 16
_SERVICE = "readiness"
_NEVER = Monotonic(float("-inf"))


class HealthAnswer(Enum):
    """What one pod said. The value is said of the picker."""

    SERVING = "serves"
    NOT_SERVING = "says NOT_SERVING"
    REFUSED = "refuses connections"
    UNKNOWN = "gives no usable answer"


_DOWN = (HealthAnswer.NOT_SERVING, HealthAnswer.REFUSED)


@dataclass(slots=True)
class _Pod:
    ip: str
    port: int
    answer: HealthAnswer = HealthAnswer.UNKNOWN
    asked: Monotonic = _NEVER
    busy: bool = False


async def ask(ip: str, port: int, deadline: float = _DEADLINE) -> HealthAnswer:
    """Ask one pod. Never raises but for cancellation."""
    try:
        async with asyncio.timeout(deadline):
            _, writer = await asyncio.open_connection(ip, port)
            writer.close()
    except ConnectionRefusedError:
        return HealthAnswer.REFUSED
    except (OSError, TimeoutError):
        return HealthAnswer.UNKNOWN
    target = f"ipv6:[{ip}]:{port}" if ":" in ip else f"ipv4:{ip}:{port}"
    # No proxy of the controller's environment may stand between, no channel is shared with anybody, and a handshake
    # that nobody answers ends with the question (the default is 20 s).
    options = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.min_reconnect_backoff_ms", int(deadline * 1000)),
    ]
    try:
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=_SERVICE)
            reply = await stub.Check(request, timeout=deadline)
    except grpc.aio.AioRpcError:
        return HealthAnswer.UNKNOWN
    serving = health_pb2.HealthCheckResponse
    answers = {serving.SERVING: HealthAnswer.SERVING, serving.NOT_SERVING: HealthAnswer.NOT_SERVING}
    return answers.get(reply.status, HealthAnswer.UNKNOWN)


class PickerHealthWatch:
    """Asks the pickers that somebody follows. ``run`` works until cancelled.

    ``on_change`` is called with the key of every follower one of whose pickers answers otherwise than before.
    """

    def __init__(self, clock: Clock) -> None:
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._clock = clock
        self._pods: dict[tuple[str, int], _Pod] = {}
        self._wants: dict[ObjectKey, frozenset[tuple[str, int]]] = {}
        self._slots = asyncio.Semaphore(_PARALLEL)
        self._tasks: set[asyncio.Task[None]] = set()

    def refused(self, follower: ObjectKey, service: ObjectKey, pods: list[PickerPod]) -> str:
        """See ``PickerHealth.refused``; the pods are asked from now on."""
        places = [
            (pod.ip, pod.health_port)
            for pod in pods
            if pod.metrics_port is not None and pod.health_port is not None
        ]
        for ip, port in places:
            self._pods.setdefault((ip, port), _Pod(ip=ip, port=port))
        self._wants[follower] = frozenset(places)
        self._forget_unwanted()
        answers = [self._pods[place].answer for place in places]
        # A pod that is not ours, or is not asked, may serve.
        if len(places) < len(pods) or not all(answer in _DOWN for answer in answers):
            return ""
        return " and ".join(answer.value for answer in _DOWN if answer in answers)

    def drop(self, follower: ObjectKey) -> None:
        """The follower needs nothing any more."""
        if self._wants.pop(follower, None) is not None:
            self._forget_unwanted()

    def _forget_unwanted(self) -> None:
        wanted = {place for places in self._wants.values() for place in places}
        for place in [place for place in self._pods if place not in wanted]:
            del self._pods[place]

    async def run(self) -> None:
        """Ask every followed picker when it is due."""
        try:
            while True:
                now = self._clock.monotonic()
                for pod in self._pods.values():
                    interval = _HURRY if pod.answer in _DOWN else _INTERVAL
                    if not pod.busy and now - pod.asked >= interval:
                        self._spawn(pod)
                await self._clock.sleep(_TICK)
        finally:
            for task in self._tasks:
                task.cancel()

    def _spawn(self, pod: _Pod) -> None:
        pod.busy = True
        task = asyncio.get_running_loop().create_task(self._look(pod))
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            pod.busy = False
            if not done.cancelled() and done.exception() is not None:
                _log.error("picker_health_failed", ip=pod.ip, exc_info=done.exception())

        task.add_done_callback(ended)

    async def _look(self, pod: _Pod) -> None:
        async with self._slots:
            answer = await ask(pod.ip, pod.port)
        pod.asked = self._clock.monotonic()
        if answer is pod.answer:
            return
        pod.answer = answer
        _log.info("picker_health", ip=pod.ip, port=pod.port, answer=answer.name)
        for follower, places in self._wants.items():
            if (pod.ip, pod.port) in places:
                self.on_change(follower)
