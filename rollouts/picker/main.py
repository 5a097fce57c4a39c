"""Puts the picker together and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog

from rollouts.kube.client import KubeClient
from rollouts.objects.pods import DRAINING_ANNOTATION
from rollouts.picker.allocator import keep_freed_memory, release_freed_memory
from rollouts.picker.core.objects import PoolName, Snapshot, pool_names, read_snapshot
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.routing import Router, Unready
from rollouts.picker.core.schedule import Scheduler
from rollouts.picker.credentials import credentials_from_files, self_signed_credentials
from rollouts.picker.datapath import DataPath, choose
from rollouts.picker.filesource import FileSource, ObjectsUnreadable
from rollouts.picker.metrics import PickerMetrics
from rollouts.picker.metrics_server import MetricsServer
from rollouts.picker.native import MirrorRouter, NativeMetrics, native_picker
from rollouts.picker.native_server import NativeServer, TlsFiles
from rollouts.picker.scraper import Scraper
from rollouts.picker.server import PickerServer, ServerConfig
from rollouts.picker.server_metrics import ServerMetrics
from rollouts.picker.variant_metrics import describe
from rollouts.picker.variant_watch import VariantWatch
from rollouts.runtime.modelservers import ModelServers

__all__ = ["Picker", "PickerConfig", "run"]

_HOUSEKEEPING = 30.0  # seconds between looks for series to drop
_log = structlog.get_logger(__name__)


class _Source(Protocol):
    """Where objects come from: it calls back with all of them after each change."""

    async def run(self) -> None:
        """Follow changes until cancelled."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PickerConfig:
    """How to run. Exactly one of ``objects`` and a cluster (``kubeconfig``, "" for in-cluster) is used.

    No ``pools``: all that are among the objects.
    """

    pools: tuple[PoolName, ...]
    objects: Path | None = None
    kubeconfig: str = ""
    grpc_address: str = "127.0.0.1:9002"
    metrics_address: str = "127.0.0.1:9090"
    health_address: str = ""
    secure_serving: bool = True
    certificates: Path | None = None
    unready: Unready = Unready.SPILL
    restore_model: bool = False
    scrape: bool = True
    drain_grace: float = 30.0
    budget: BufferBudget = field(default_factory=BufferBudget)
    request_timeout: float = 120.0
    client_ca: Path | None = None
    keep_streams: bool = False
    variant_header: str = ""
    data_path: DataPath = DataPath.AUTO
    servers: ModelServers = ModelServers()  # noqa: RUF009  # frozen, one default for all


class Picker:
    """All parts of one picker process, for the command and for tests in the same process."""

    def __init__(self, config: PickerConfig, *, client: KubeClient | None = None) -> None:
        self._config = config
        self._client = client  # in place of the one that the kubeconfig gives
        self.data_path = choose(config.data_path)
        self.reads_pool_splits: Callable[[], bool] = lambda: (
            False
        )  # until it is known where objects come from
        assemble = _native if self.data_path is DataPath.NATIVE else _python
        self.router, self.metrics, self.server = assemble(config, lambda: self.reads_pool_splits())
        self.metrics.registry.register(ServerMetrics(self.server.figures))
        self.exposition = MetricsServer(
            self.metrics, config.metrics_address, lambda: self.ready, lambda: describe(self.router.counted())
        )
        self._watch = VariantWatch()
        self._scraper = Scraper(self.router.scheduler, servers=config.servers)
        self._problems: tuple[str, ...] = ()
        self._all_draining: frozenset[str] = frozenset()
        self._tasks: list[asyncio.Task[None]] = []
        self._announcement: asyncio.Future[None] | None = None
        self.ready = False

    def take(self, objects: Iterable[object]) -> None:
        """A new state of the cluster. It is serving once every pool has been seen."""
        objects = list(objects)
        names = self._config.pools or pool_names(objects)
        snapshot = read_snapshot(names, objects)
        try:
            self.router.update(snapshot, time.monotonic(), time.time())
        except (
            RuntimeError
        ):  # a bug of the native path, which goes on as before: the objects are still followed
            _log.exception("objects_not_taken_over")
            return
        for problem in snapshot.problems:
            if problem not in self._problems:
                _log.warning("object_ignored", problem=problem)
        self._problems = snapshot.problems
        self._warn_of_drains(snapshot)
        self._watch.look(self.router.variants)
        if not self.ready and names and len(snapshot.pools) == len(set(names)):
            self.ready = True
            self._announcement = asyncio.ensure_future(self.server.set_ready(True))

    def _warn_of_drains(self, snapshot: Snapshot) -> None:
        """Say once of each pool that all of its Ready pods are about to go: they get its requests all the same."""
        staying = {endpoint.pool for endpoint in snapshot.endpoints if not endpoint.draining}
        all_draining = frozenset(endpoint.pool for endpoint in snapshot.endpoints) - staying
        for pool in sorted(all_draining - self._all_draining):
            _log.warning("all_pods_draining", pool=pool, annotation=DRAINING_ANNOTATION)
        self._all_draining = all_draining

    async def start(self) -> None:
        """Listen and follow the objects. Raises OSError or ObjectsUnreadable when it cannot begin."""
        await self.server.start()
        await self.exposition.start()
        source = await self._source()
        self._tasks.append(asyncio.create_task(source.run(), name="objects"))
        self._tasks.append(asyncio.create_task(self._housekeeping(), name="housekeeping"))
        if self._config.scrape:
            self._tasks.append(asyncio.create_task(self._scraper.run(), name="scraper"))
        _log.info(
            "picker_serving",
            port=self.server.port,
            metrics_port=self.exposition.port,
            data_path=self.data_path.value,
        )

    async def _source(self) -> _Source:
        if self._config.objects is not None:
            source = FileSource(self._config.objects, self.take)
            source.load()
            if not (self._config.pools or self.router.snapshot.pools):
                raise ObjectsUnreadable(
                    f"{self._config.objects} has no InferencePool that can be served: add one"
                )
            self.reads_pool_splits = lambda: True
            return source
        # Imported late: the Kubernetes client costs half a second that a file does not need.
        from rollouts.picker.watching import WatchSource, connect

        client = self._client or await connect(self._config.kubeconfig)
        watch = WatchSource(client, (pool.namespace for pool in self._config.pools), self.take)
        self.reads_pool_splits = watch.reads_pool_splits
        return watch

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING)
            try:
                self.metrics.forget(time.monotonic())
            except RuntimeError:  # a bug of the native path
                _log.exception("series_not_forgotten")
            # Streams that were cut off leave cycles, and the calm collector would look for them every half hour.
            gc.collect(1)
            release_freed_memory()

    async def settled(self) -> None:
        """Wait until health says what ``ready`` says."""
        if self._announcement is not None:
            await self._announcement

    async def stop(self) -> None:
        """Drain the streams, then end everything. Safe to call when ``start`` failed half-way."""
        self.ready = False
        await self.settled()
        await self._drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._scraper.close()
        await self.exposition.stop()

    async def _drain(self) -> None:
        if not self.server.port:
            return  # it never listened
        begun, grace = time.monotonic(), self._config.drain_grace
        _log.info("picker_draining", streams=self.server.figures().streams, seconds=grace)
        await self.server.drain()
        _log.info("picker_drained", seconds=round(time.monotonic() - begun, 3))

    async def failed(self) -> None:
        """Wait until a background task ends, which none should, and raise what ended it."""
        running = [task for task in self._tasks if task.get_name() in ("objects", "scraper", "housekeeping")]
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise RuntimeError("a background task of the picker ended by itself")


_Parts = tuple[Router, PickerMetrics, "PickerServer | NativeServer"]


def _python(config: PickerConfig, reads_pool_splits: Callable[[], bool]) -> _Parts:
    router = Router(Scheduler(), unready=config.unready, restore_model=config.restore_model)
    metrics = PickerMetrics(router, reads_pool_splits)
    server = PickerServer(
        router,
        metrics,
        config=_server_config(config),
        credentials=_credentials(config) if _speaks_tls(config) else None,
        budget=config.budget,
    )
    return router, metrics, server


def _native(config: PickerConfig, reads_pool_splits: Callable[[], bool]) -> _Parts:
    core = native_picker(
        unready=config.unready,
        restore_model=config.restore_model,
        budget=config.budget,
        keep_streams=config.keep_streams,
        variant_header=config.variant_header,
    )
    router = MirrorRouter(core)
    tls = TlsFiles(config.certificates, config.client_ca) if _speaks_tls(config) else None
    server = NativeServer(core, config=_server_config(config), tls=tls)
    return router, NativeMetrics(router, core, reads_pool_splits), server


def _server_config(config: PickerConfig) -> ServerConfig:
    return ServerConfig(
        address=config.grpc_address,
        health_address=config.health_address,
        drain_grace=config.drain_grace,
        request_timeout=config.request_timeout,
        keep_streams=config.keep_streams,
        variant_header=config.variant_header,
    )


def _speaks_tls(config: PickerConfig) -> bool:
    """Raises ValueError for certificates without TLS."""
    if not config.secure_serving and config.client_ca is not None:
        raise ValueError("--client-ca asks for certificates, which needs TLS: leave --no-secure-serving out")
    return config.secure_serving


def _credentials(config: PickerConfig) -> Any:
    if config.certificates is not None:
        return credentials_from_files(config.certificates, config.client_ca)
    return self_signed_credentials(config.client_ca)


async def serve(config: PickerConfig) -> None:
    """Run until SIGTERM or SIGINT."""
    picker = Picker(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _open_all_files()
    try:
        await picker.start()
        _calm_collector()
        keep_freed_memory()
        failed = asyncio.create_task(picker.failed())
        stopped = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait((failed, stopped), return_when=asyncio.FIRST_COMPLETED)
        for task in (failed, stopped):
            task.cancel()
        if failed in done:
            failed.result()
    finally:
        await picker.stop()


def _open_all_files() -> None:
    """Take the hard limit of open files: who may open connections is told by their limit, which knows whom to close."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # where a sandbox forbids it, the soft limit stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _calm_collector() -> None:
    """What was loaded at the start stays for good, and streams leave few cycles: look for them seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def run(
    *,
    pools: Iterable[str],
    objects: str | Path | None = None,
    kubeconfig: str = "",
    options: Mapping[str, Any] | None = None,
) -> None:
    """Run a picker in this process until a signal. ``options`` are further fields of ``PickerConfig``.

    Raises ValueError for a bad pool name, OSError and ObjectsUnreadable when it cannot start.
    """
    names = tuple(PoolName.parse(name) for name in pools)
    path = None if objects is None else Path(objects)
    config = PickerConfig(pools=names, objects=path, kubeconfig=kubeconfig, **(options or {}))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(config))
