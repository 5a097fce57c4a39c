"""Options that say how model servers are called, the same for every command that calls them itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rollouts.runtime.modelservers import ModelServers

__all__ = ["model_server_options"]


def model_server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--model-server-...``, and ``servers``: what they say together. Wrong together they are a UsageError."""

    @functools.wraps(command)
    def called(
        *args: Any,
        model_server_scheme: str,
        model_server_ca: Path | None,
        model_server_name: str,
        model_server_insecure_skip_verify: bool,
        model_server_api_key_file: Path | None,
        **kwargs: Any,
    ) -> Any:
        servers = ModelServers(
            scheme=model_server_scheme,
            ca=model_server_ca,
            server_name=model_server_name,
            verify=not model_server_insecure_skip_verify,
            api_key_file=model_server_api_key_file,
        )
        try:
            servers.check()
        except ValueError as error:
            raise click.ClickException(str(error)) from None
        return command(*args, servers=servers, **kwargs)

    result: Callable[..., Any] = called
    for option in reversed(_OPTIONS):
        result = option(result)
    return result


_OPTIONS = (
    click.option(
        "--model-server-scheme",
        type=click.Choice(["http", "https"]),
        default="http",
        show_default=True,
        help="How the pods are asked for metrics and models. What the gateway sends them is the gateway's matter.",
    ),
    click.option(
        "--model-server-ca",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="PEM file: the authorities of the pods' certificates; else those of the system. Read again when it "
        "changes.",
    ),
    click.option(
        "--model-server-name",
        default="",
        metavar="NAME",
        help="The name in the pods' certificates, as they are called by address.",
    ),
    click.option(
        "--model-server-insecure-skip-verify", is_flag=True, help="Take any certificate from the pods."
    ),
    click.option(
        "--model-server-api-key-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="File with the key that the pods ask for (vLLM's --api-key). Read again when it changes.",
    ),
)
