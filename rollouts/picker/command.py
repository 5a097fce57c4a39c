"""``rollouts picker`` and ``rollouts picker-check``."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from rollouts.picker.core.routing import Unready
from rollouts.picker.datapath import DataPath
from rollouts.picker.filesource import ObjectsUnreadable
from rollouts.picker.main import run
from rollouts.picker.memory import DEFAULT_LIMIT, budget_of
from rollouts.picker.memory import memory_limit as cgroup_limit
from rollouts.picker.modelserver_options import model_server_options
from rollouts.runtime.modelservers import ModelServers
from rollouts.terminal import console, document, printable, say

__all__ = ["picker", "picker_check"]

_HEADER = re.compile(r"x-[a-z0-9]+(-[a-z0-9]+)*")


def _response_header(_: click.Context, __: click.Parameter, name: str) -> str:
    """A header that means nothing to any proxy. Raises BadParameter for others."""
    if name and not _HEADER.fullmatch(name.lower()):
        raise click.BadParameter(f"{name!r} is not x- and letters, digits and dashes, as in x-variant")
    return name.lower()


@click.command()
@click.option(
    "--pool",
    "pools",
    multiple=True,
    metavar="NS/NAME",
    help="InferencePool to serve; with --objects all of them, unless some are named.",
)
@click.option("--kubeconfig", default="", help="Cluster to watch; without it the one this pod runs in.")
@click.option(
    "--objects",
    type=click.Path(path_type=Path, exists=True),
    help="YAML file or folder with the objects, in place of a cluster; read again when it changes.",
)
@click.option("--grpc-address", default="127.0.0.1:9002", show_default=True, metavar="HOST:PORT")
@click.option("--metrics-address", default="127.0.0.1:9090", show_default=True, metavar="HOST:PORT")
@click.option(
    "--health-address",
    default="",
    metavar="HOST:PORT",
    help="gRPC health once more, without TLS: the kubelet's probes speak none.",
)
@click.option("--secure-serving/--no-secure-serving", default=True, show_default=True, help="TLS.")
@click.option(
    "--cert-path",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with tls.crt and tls.key, read again when they change; without it self-signed.",
)
@click.option(
    "--client-ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="PEM file: only clients with a certificate of these authorities may connect. Read again when it changes.",
)
@click.option(
    "--memory-limit",
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="Memory of the container, of which a part holds unfinished requests; else the cgroup's limit, else 512 MiB.",
)
@click.option(
    "--request-timeout",
    default=120.0,
    show_default=True,
    type=click.FloatRange(min=1.0),
    help="Seconds in which a request has to be complete; then it is answered 408.",
)
@click.option(
    "--unready",
    type=click.Choice([policy.value for policy in Unready]),
    default=Unready.SPILL.value,
    show_default=True,
    help="What happens to the share of a target that no pod can serve.",
)
@click.option(
    "--restore-model-name/--no-restore-model-name",
    default=False,
    show_default=True,
    help="Put the model name that the client asked for back into the response. Costs a look at every chunk.",
)
@click.option(
    "--keep-streams/--no-keep-streams",
    default=False,
    show_default=True,
    help="See every response to its end, measured or not: for gateways that answer 500 when a picker leaves"
    " after the request (agentgateway). Costs a message per chunk.",
)
@click.option(
    "--variant-header",
    default="",
    metavar="NAME",
    callback=_response_header,
    help="Header of responses that says which variant of a PoolSplit answered, x-variant say. Costs a"
    " message per chunk of these responses.",
)
@click.option(
    "--data-path",
    type=click.Choice([path.value for path in DataPath]),
    default=DataPath.AUTO.value,
    show_default=True,
    help="What answers gateways: the native server and core, or the Python ones. The log says which runs.",
)
@model_server_options
@click.option("--scrape/--no-scrape", default=True, show_default=True, help="Read the pods' metrics.")
@click.option("--drain-grace", default=30.0, show_default=True, help="Seconds for open streams at the end.")
def picker(
    pools: tuple[str, ...],
    kubeconfig: str,
    objects: Path | None,
    grpc_address: str,
    metrics_address: str,
    health_address: str,
    secure_serving: bool,
    cert_path: Path | None,
    client_ca: Path | None,
    memory_limit: int | None,
    request_timeout: float,
    unready: str,
    restore_model_name: bool,
    keep_streams: bool,
    variant_header: str,
    data_path: str,
    servers: ModelServers,
    scrape: bool,
    drain_grace: float,
) -> None:
    """Serve the endpoint-picker protocol (Envoy ext_proc) for one or more InferencePools."""
    if not pools and objects is None:
        raise click.UsageError(
            "name the InferencePool to serve, --pool NS/NAME, or a file with pools, --objects FILE"
        )
    options: dict[str, Any] = {
        "client_ca": client_ca,
        "request_timeout": request_timeout,
        "grpc_address": grpc_address,
        "metrics_address": metrics_address,
        "health_address": health_address,
        "secure_serving": secure_serving,
        "certificates": cert_path,
        "unready": Unready(unready),
        "restore_model": restore_model_name,
        "keep_streams": keep_streams,
        "variant_header": variant_header,
        "data_path": DataPath(data_path),
        "servers": servers,
        "scrape": scrape,
        "drain_grace": drain_grace,
    }
    try:
        options["budget"] = budget_of(memory_limit or cgroup_limit() or DEFAULT_LIMIT)
        run(pools=pools, objects=objects, kubeconfig=kubeconfig, options=options)
    except (ValueError, OSError, ObjectsUnreadable) as error:
        raise click.ClickException(printable(str(error))) from error


@click.command("picker-check")
@click.argument("address", metavar="HOST:PORT")
@click.option("--model", default="travelhelper", show_default=True, help="Model name to ask for.")
@click.option("--tls/--no-tls", default=True, show_default=True, help="TLS, with any certificate.")
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for a reply.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def picker_check(address: str, model: str, tls: bool, timeout: float, output: str) -> None:
    """Drive the endpoint picker at HOST:PORT as Envoy would, and print what it does right.

    The picker must have at least one ready pod. The exit code is 1 when any case goes wrong.
    """
    from rollouts.picker.conformance.report import check_picker, render  # Envoy's messages: the extra `check`

    try:
        results = asyncio.run(check_picker(address, model=model, tls=tls, timeout=timeout))
    except OSError as error:
        raise click.ClickException(printable(f"cannot reach {address}: {error}")) from error
    if output == "json":
        document(json.dumps([result.as_dict() for result in results], indent=1))
    else:
        console().print(render(results))
        say(f"{sum(result.passed for result in results)} of {len(results)} cases are right")
    sys.exit(0 if all(result.passed for result in results) else 1)
