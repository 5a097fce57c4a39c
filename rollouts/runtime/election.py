"""Leader election on a Lease object: the driver.

``LeaderElector.run(work)`` waits for the lease, runs ``work`` while it holds it, and ends with it:

- the lease is lost: writes are forbidden *first*, then ``work`` is cancelled and awaited, then LeaseLost is
  raised. Work that will not end by the time others may take over ends the whole process;
- ``work`` ends, by itself or with an error: the lease is released and not renewed by a process that does
  nothing;
- ``stop()``: ``work`` is told, may finish while the lease is still being renewed, then the lease is released,
  which lets the next candidate start within a second.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import AlreadyExists, Conflict, KubeError, NotFound, TooManyRequests
from rollouts.runtime.backoff import bounded_wait
from rollouts.runtime.clock import Clock
from rollouts.runtime.fencing import WriteFence
from rollouts.runtime.lease import LEASES, LeaseAction, LeaseConfig, LeaseMachine, LeaseStep, Role
from rollouts.runtime.objects import Object, version_of

__all__ = ["LeaderElector", "Leadership", "LeaseLost", "exit_process", "unique_identity"]

_log = structlog.get_logger(__name__)


class LeaseLost(Exception):
    """The lease was lost while work was going on. The process should end: a fresh one starts from nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leadership:
    """What ``work`` gets: the fencing epoch, and an event that asks it to come to an end."""

    epoch: int
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


def exit_process() -> None:
    """End the process now, clean-up skipped: work goes on that must not."""
    os._exit(70)


class LeaderElector:
    """Runs one candidacy. ``identity`` must be unique to this process, for instance ``<pod>_<uuid>``.

    ``drain``: seconds that work gets to end by itself on ``stop``. ``on_stuck``: called when work does not
    end although others may lead by now.
    """

    def __init__(
        self,
        client: KubeClient,
        config: LeaseConfig,
        identity: str,
        clock: Clock,
        fence: WriteFence,
        *,
        drain: float = 10.0,
        rng: random.Random | None = None,
        on_stuck: Callable[[], None] = exit_process,
    ) -> None:
        self._client = client
        self._config = config
        self._clock = clock
        self._fence = fence
        self._drain = drain
        self._on_stuck = on_stuck
        self._machine = self._make_machine(config, identity, rng or random.Random())
        self._stop = asyncio.Event()
        self._log = _log.bind(identity=identity, lease=f"{config.namespace}/{config.name}")

    def stop(self) -> None:
        """Ask ``run`` to come to an end and to release the lease."""
        self._stop.set()

    async def run(self, work: Callable[[Leadership], Awaitable[None]]) -> None:
        """Wait for the lease, then run ``work`` while it is held.

        Returns after ``stop``, or when ``work`` has returned. Raises LeaseLost, or what ``work`` raised.
        """
        while self._machine.role is Role.CANDIDATE and not self._stop.is_set():
            await self._step()
        if self._machine.role is not Role.LEADER:
            return
        if self._stop.is_set():
            await self._release()
        else:
            await self._lead(work)

    def _make_machine(self, config: LeaseConfig, identity: str, rng: random.Random) -> LeaseMachine:
        return LeaseMachine(config, identity, rng)

    async def _lead(self, work: Callable[[Leadership], Awaitable[None]]) -> None:
        leadership = Leadership(epoch=self._machine.epoch)
        self._log.info("lease_acquired", epoch=leadership.epoch)
        self._fence.open(
            until=self._machine.write_until(), epoch=leadership.epoch, settle=self._config.settle
        )
        working = asyncio.ensure_future(_call(work, leadership))
        renewing = asyncio.ensure_future(self._renew())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({working, renewing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done() and not renewing.done():
                leadership.stopping.set()
                await asyncio.wait(
                    {working, renewing}, timeout=self._drain, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            stopping.cancel()
            await self._end(working, renewing)
        error = working.exception() if working.done() and not working.cancelled() else None
        if not renewing.cancelled():
            reason = self._machine.lost_because or "the renewal failed"
            raise LeaseLost(reason) from (renewing.exception() or error)
        if error is not None:
            raise error

    async def _end(self, working: asyncio.Future[None], renewing: asyncio.Future[None]) -> None:
        """Whatever the reason: first no write, then no work, and only then no lease."""
        try:
            if renewing.done():
                self._fence.close()
                self._log.error("lease_lost", reason=self._machine.lost_because)
            ended = await self._cancel(working, renewing)
        finally:
            self._fence.close()
            renewing.cancel()
        await asyncio.wait({renewing})
        if ended and renewing.cancelled():
            await self._release()

    async def _cancel(self, working: asyncio.Future[None], renewing: asyncio.Future[None]) -> bool:
        """Cancel the work and wait for its end; False when it has none.

        It gets ``drain`` seconds with the lease renewed; without the lease, ``settle`` seconds or what is left
        of it, unable to write.
        """
        working.cancel()
        begun = self._clock.monotonic()
        while not working.done():
            now = self._clock.monotonic()
            if now >= begun + self._drain or renewing.done():
                self._fence.close()
                renewing.cancel()
            limit = begun + self._drain
            if renewing.done():
                limit = max(self._machine.held_until(), begun + self._config.settle)
            if renewing.done() and now >= limit:
                self._log.critical(
                    "work_does_not_end", hint="ending the process, another one may lead by now"
                )
                self._on_stuck()
                return False
            pending = {working} if renewing.done() else {working, renewing}
            timeout = max(0.0, limit - now)
            await asyncio.wait(pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return True

    async def _renew(self) -> None:
        """Keep the lease; ends when it is lost."""
        while self._machine.role is Role.LEADER:
            await self._step()
            if self._machine.role is Role.LEADER:
                self._fence.extend(self._machine.write_until())
        self._fence.close()

    async def _step(self) -> None:
        step = self._machine.next(self._clock.monotonic(), self._clock.now())
        if step.action is LeaseAction.WAIT:
            await self._pause(step.seconds)
        elif step.action is not LeaseAction.STOP:
            await self._request(step)

    async def _pause(self, seconds: float) -> None:
        """Wait, as a candidate only until ``stop``."""
        if self._machine.role is Role.LEADER:
            await self._clock.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _request(self, step: LeaseStep) -> None:
        sent = self._clock.monotonic()
        try:
            async with asyncio.timeout(step.seconds):
                answer = await self._send(step)
        except NotFound:
            self._machine.on_missing(self._clock.monotonic())
        except (AlreadyExists, Conflict):
            self._machine.on_conflict(self._clock.monotonic())
        except Exception as error:
            self._failed(step, error)
        else:
            now = self._clock.monotonic()
            if step.action is LeaseAction.READ:
                self._machine.on_read(answer, now)
            else:
                self._machine.on_written(answer, sent, now)

    async def _send(self, step: LeaseStep) -> Object:
        namespace, name = self._config.namespace, self._config.name
        if step.action is LeaseAction.READ:
            return await self._client.get(LEASES, namespace, name)
        if step.action is LeaseAction.CREATE:
            return await self._client.create(LEASES, namespace, step.body or {})
        return await self._client.patch(LEASES, namespace, name, step.body, kind=PatchKind.MERGE)

    def _failed(self, step: LeaseStep, error: Exception) -> None:
        at_least = error.retry_after if isinstance(error, TooManyRequests) else 0.0
        self._machine.on_failure(
            self._clock.monotonic(), at_least=bounded_wait(at_least, self._config.duration)
        )
        self._log.warning(
            "lease_request_failed",
            action=step.action.value,
            role=self._machine.role.value,
            error=type(error).__name__,
            reason=str(error)[:500],
            exc_info=not isinstance(error, KubeError | TimeoutError),
        )

    async def _release(self) -> None:
        """Free the lease, once no write of ours can still be on its way. A failure only costs time."""
        unsettled = self._fence.unsettled_for()
        if unsettled > 0:
            await self._clock.sleep(unsettled)
        try:
            async with asyncio.timeout(self._config.request_timeout):
                await self._free()
        except Exception as error:
            self._log.warning("lease_not_released", error=type(error).__name__, reason=str(error)[:500])
        else:
            self._log.info("lease_released", epoch=self._machine.epoch)

    async def _free(self) -> None:
        namespace, name = self._config.namespace, self._config.name
        body = self._machine.release_body(self._clock.now())
        try:
            await self._client.patch(LEASES, namespace, name, body, kind=PatchKind.MERGE)
        except Conflict:
            # A last renewal that we did not wait for, or somebody's annotation.
            lease = await self._client.get(LEASES, namespace, name)
            if not self._machine.is_ours(lease):
                return
            body = self._machine.release_body(self._clock.now(), version_of(lease))
            await self._client.patch(LEASES, namespace, name, body, kind=PatchKind.MERGE)


def unique_identity(host: str = "") -> str:
    """An identity that no other process has, not even this one after a restart."""
    return f"{host or socket.gethostname()}_{uuid.uuid4()}"


async def _call(work: Callable[[Leadership], Awaitable[None]], leadership: Leadership) -> None:
    await work(leadership)
