"""``rollouts dashboard``: live pages on loopback, with the rights of whoever starts it."""

from __future__ import annotations

import click

from rollouts.cli.connect import EXIT_CODES, connection_options, default_namespace, with_client
from rollouts.cli.logs import configure_logs
from rollouts.kube.client import KubeClient
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.terminal import say

__all__ = ["dashboard"]


@click.command(epilog=EXIT_CODES)
@connection_options
@click.option("-A", "--all-namespaces", is_flag=True, help="Rollouts of all namespaces.")
@click.option(
    "--address",
    default="127.0.0.1:8090",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; port 0 lets the system choose. Everybody who reaches it sees what you may see.",
)
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="A name that it answers to, beside addresses."
)
@click.option(
    "--read-only/--allow-commands",
    "read_only",
    default=True,
    show_default=True,
    help="Whether pages have no buttons; those write the command annotation with your rights.",
)
def dashboard(
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
    all_namespaces: bool,
    address: str,
    hosts: tuple[str, ...],
    read_only: bool,
) -> None:
    """Serve the list of Rollouts and a live page of each, on loopback unless --address says otherwise."""
    from rollouts.dashboard.looking import ClusterView
    from rollouts.dashboard.server import Dashboard
    from rollouts.runtime.clock import SystemClock
    from rollouts.runtime.health import parse_address

    try:
        where = parse_address(address)
    except ValueError as error:
        raise click.UsageError(f"--address: {error}") from None
    configure_logs()
    watched = None if all_namespaces else namespace or default_namespace(kubeconfig, context)

    async def work(client: KubeClient) -> None:
        clock = SystemClock()
        cluster = ClusterView(client, clock, watched)
        served = Dashboard(client, cluster, clock, where, hosts=hosts, allow_commands=not read_only)
        host = f"[{where.host}]" if ":" in where.host else where.host
        await served.run(lambda port: say(f"http://{host}:{port}/  (Ctrl-C ends it)"))

    try:
        with_client(kubeconfig, context, work)
    except KeyboardInterrupt:
        return
    except ExceptionGroup as group:
        problem = next((one for one in group.exceptions if isinstance(one, OSError)), None)
        if problem is None:
            raise
        raise click.ClickException(f"cannot listen on {address}: {problem.strerror or problem}") from None
