"""The group of all commands. Each module below registers one idea; import costs are paid on use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from rollouts.terminal import printable_lines

__all__ = ["COMMANDS", "main"]

COMMANDS: Mapping[str, str] = {
    "controller": "rollouts.cli.controller:controller",
    "crds": "rollouts.cli.crds:crds",
    "get": "rollouts.cli.operator:get",
    "watch": "rollouts.cli.operator:watch",
    "status": "rollouts.cli.operator:status",
    "promote": "rollouts.cli.verbs:promote",
    "abort": "rollouts.cli.verbs:abort",
    "retry": "rollouts.cli.verbs:retry",
    "pause": "rollouts.cli.verbs:pause",
    "resume": "rollouts.cli.verbs:resume",
    "lab": "rollouts.cli.lab:lab",
    "picker": "rollouts.picker.command:picker",
    "picker-manifest": "rollouts.cli.picker_manifest:picker_manifest",
    "picker-check": "rollouts.picker.command:picker_check",
    "explain": "rollouts.cli.explain:explain",
    "lint": "rollouts.cli.lint:lint",
    "doctor": "rollouts.cli.doctor:doctor",
    "plan": "rollouts.cli.analysis_commands:plan_command",
    "record": "rollouts.cli.record:record",
    "backtest": "rollouts.cli.analysis_commands:backtest_command",
}
"""Command name to ``module:attribute``. Add a command here."""

_EXTRAS = "'inference-rollouts[lab]', or '[check]' for picker-check alone"
"""Where what a plain installation lacks comes from."""


class _Lazy(click.Group):
    """Imports a command's module when it is called or listed: ``rollouts get`` must not load gRPC."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, attribute = target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """What a command fails with may quote an object: it is printed like everything else."""
        try:
            return super().invoke(ctx)
        except click.UsageError:
            raise  # quotes what the user typed
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "envoy":
                raise
            raise click.ClickException(f"Envoy's messages are not installed: pip install {_EXTRAS}") from None
        except click.ClickException as error:
            same = type("Told", (click.ClickException,), {"exit_code": error.exit_code})
            raise same(printable_lines(error.message)) from error


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="inference-rollouts")
def main() -> None:
    """Progressive delivery of LLM base models and LoRA adapters on Kubernetes."""
