"""``rollouts controller``."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from dataclasses import replace

import click
import structlog

from rollouts.carriers import options
from rollouts.cli.logs import configure_logs
from rollouts.controller.app import Controller
from rollouts.controller.settings import Settings, SettingsError, read_config, source_option
from rollouts.kube.http import open_client
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.garbage import relax_collection
from rollouts.runtime.health import parse_address
from rollouts.runtime.supervisor import PartEnded
from rollouts.sources.budget import QUERIES_PER_MINUTE

__all__ = ["controller"]

_log = structlog.get_logger(__name__)


def _watch_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--NAME/--no-NAME`` for each kind of traffic object that is not always watched."""
    for one in reversed(options()):
        named = click.option(f"--{one.name}/--no-{one.name}", default=True, show_default=True, help=one.help)
        command = named(command)
    return command


@click.command()
@click.option("--kubeconfig", help="Kubeconfig file; else $KUBECONFIG, the pod's account, ~/.kube/config.")
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    default=("default",),
    show_default="default",
    help="Namespace to watch; give it again for each further one.",
)
@click.option("--all-namespaces", is_flag=True, help="Watch all namespaces.")
@click.option("--lease-namespace", help="Namespace of the Lease; else the first watched one, or default.")
@click.option(
    "--lease-name",
    default="",
    help="Name of the Lease; else inference-rollouts, with another namespace its name.",
)
@click.option(
    "--source", "sources", multiple=True, metavar="NAME=URL", help="A Prometheus-compatible server."
)
@click.option("--config", "config_file", help="YAML file with sources, their credentials and TLS.")
@click.option("--health-address", default="127.0.0.1:8081", show_default=True, metavar="HOST:PORT")
@click.option("--metrics-address", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT")
@click.option("--leader-elect/--no-leader-elect", default=True, show_default=True)
@click.option(
    "--cluster-templates/--no-cluster-templates",
    default=True,
    show_default=True,
    help="Watch ClusterAnalysisTemplates and ClusterRolloutStrategies, which needs a ClusterRole.",
)
@click.option(
    "--freezes/--no-freezes",
    default=False,
    show_default=True,
    help="Obey RolloutFreezes, which needs a ClusterRole for them and for Namespaces.",
)
@_watch_options
@click.option("--workers", default=8, show_default=True, type=click.IntRange(1, 64))
@click.option(
    "--queries-per-minute",
    default=QUERIES_PER_MINUTE,
    show_default=True,
    type=click.IntRange(0),
    help="Requests of one namespace to all Prometheus servers together; 0 is no limit.",
)
@click.option("--log-format", type=click.Choice(["auto", "json", "text"]), default="auto", show_default=True)
def controller(
    kubeconfig: str | None,
    namespaces: tuple[str, ...],
    all_namespaces: bool,
    lease_namespace: str | None,
    lease_name: str,
    sources: tuple[str, ...],
    config_file: str | None,
    health_address: str,
    metrics_address: str,
    leader_elect: bool,
    cluster_templates: bool,
    freezes: bool,
    workers: int,
    queries_per_minute: int,
    log_format: str,
    **watched: bool,
) -> None:
    """Run the controller until SIGTERM or SIGINT.

    Exit status: 0 after a clean stop, 1 when the lease was lost or a part failed, 2 for wrong options, 3
    without a kubeconfig that can be used.
    """
    configure_logs(log_format)
    settings = Settings(
        kubeconfig=kubeconfig,
        namespaces=() if all_namespaces else tuple(dict.fromkeys(namespaces)),
        lease_namespace=lease_namespace or namespaces[0],
        lease_name=lease_name,
        health_address=health_address,
        metrics_address=metrics_address,
        leader_elect=leader_elect,
        cluster_templates=cluster_templates,
        freezes=freezes,
        unwatched=frozenset(name for name, watch in watched.items() if not watch),
        workers=workers,
        queries_per_minute=queries_per_minute,
    )
    try:
        for address in (health_address, metrics_address):
            parse_address(address)
        settings = replace(settings, sources=dict(source_option(text) for text in sources))
        if config_file:
            settings = read_config(config_file, settings)
    except (SettingsError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    relax_collection()
    sys.exit(asyncio.run(_run(settings)))


async def _run(settings: Settings) -> int:
    client = await open_client(settings.kubeconfig)
    running = Controller(client, settings, SystemClock())
    loop = asyncio.get_running_loop()
    leaving = set[asyncio.Task[None]]()

    def leave() -> None:
        """At the first signal what is being deleted is let go; at the second nothing is waited for."""
        if leaving:
            running.stop()
        leaving.add(loop.create_task(running.leave()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    code = 0
    try:
        await running.run()
    except PartEnded as ended:
        _log.error("controller_failed", reason=str(ended))
        code = 1
    finally:
        with contextlib.suppress(OSError):
            await client.close()
    _log.info("stopped", code=code)
    return code
