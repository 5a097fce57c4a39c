"""The group of all commands. Each module below registers one idea; import costs are paid on use."""

from __future__ import annotations

import difflib
import errno
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from rollouts.cli.outputs import UNWRITABLE, guarded_outputs
from rollouts.kube.errors import NotConfigured
from rollouts.terminal import printable_lines

__all__ = ["COMMANDS", "HELP", "main"]

COMMANDS: Mapping[str, str] = {
    "controller": "rollouts.cli.controller:controller",
    "crds": "rollouts.cli.crds:crds",
    "get": "rollouts.cli.operator:get",
    "watch": "rollouts.cli.watch:watch",
    "status": "rollouts.cli.status:status",
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
    "lint": "rollouts.cli.lint_command:lint",
    "doctor": "rollouts.cli.doctor:doctor",
    "report": "rollouts.cli.report:report",
    "dashboard": "rollouts.cli.dashboard:dashboard",
    "plan": "rollouts.cli.plan:plan_command",
    "record": "rollouts.cli.record:record",
    "backtest": "rollouts.cli.backtest:backtest_command",
    "completion": "rollouts.cli.completion:completion",
}
"""Command name to ``module:attribute``. Add a command here."""

HELP: Mapping[str, str] = {
    "controller": "Run the controller until SIGTERM or SIGINT.",
    "crds": "Print the CRDs, ready for `kubectl apply --server-side -f -`.",
    "get": "Show all Rollouts as a table, or one in full.",
    "watch": "Show one Rollout live, until interrupted.",
    "status": "Print the phase of a Rollout; with --watch wait for its end.",
    "promote": "Leave the current pause or gate.",
    "abort": "Give all traffic to stable; terminal for this revision until `retry`.",
    "retry": "Start a new attempt at an aborted revision.",
    "pause": "Hold the steps; analysis and aborts go on.",
    "resume": "Release what `pause`, a manual override or a missed deadline holds.",
    "lab": "API server, Envoy gateway, simulated vLLM pods and the controller, on this machine; from a checkout.",
    "picker": "Serve the endpoint-picker protocol (Envoy ext_proc) for one or more InferencePools.",
    "picker-manifest": "Print what runs an endpoint picker for POOL, under the Service name that the pool gives.",
    "picker-check": "Drive the endpoint picker at HOST:PORT as Envoy would, and print what it does right.",
    "explain": "Say why Rollout NAME is where it is, what comes next and what would move it.",
    "lint": "Check Rollouts and templates in FILES, folders, or - for standard input.",
    "doctor": "Say what is missing in the cluster and the GitOps set-up, for NAME or all Rollouts of the namespace.",
    "dashboard": "Serve the list of Rollouts and a live page of each, on loopback unless --address says otherwise.",
    "report": "Write what is known of an attempt of Rollout NAME to standard output.",
    "plan": "Say how long each gate of the Rollouts in FILE will take and the smallest regression it can prove.",
    "record": "Record NAME's raw counters for `rollouts backtest`: until its end, --duration or Ctrl-C.",
    "backtest": "Replay RECORDING through the compare gates: verdict, time of decision, effect with interval.",
    "completion": "Print what makes SHELL complete commands, options and names: `source <(rollouts completion bash)`.",
}
"""What ``rollouts --help`` says of each: the first sentence of its docstring, here so that listing imports nothing."""

_EXTRAS = "'inference-rollouts[lab]', or '[check]' for picker-check alone"
"""Where what a plain installation lacks comes from."""


_BACK = (
    "revert the commit; within `rollbackWindow` that skips steps and gates. `rollouts abort` ends an attempt."
)
_ELSEWHERE: Mapping[str, str] = {
    "list": "`rollouts get` lists them.",
    "demo": "`rollouts lab demo base-model` tells one, from a checkout.",
    "up": "`rollouts lab up` starts a lab, from a checkout.",
    "describe": "`rollouts get NAME` shows all of it, `rollouts explain NAME` says why.",
    "set": "`spec.target` is changed in Git, or by `kubectl edit`.",
    "undo": _BACK,
    "rollback": _BACK,
    "restart": "pods are those of your Deployment: `kubectl rollout restart`. Another attempt is `rollouts retry`.",
    "terminate": "`rollouts abort` ends the attempt with its analysis.",
    "history": "`rollouts get NAME` has it at its end, `rollouts report NAME --attempt N` all of one attempt.",
    "version": "`rollouts --version` says it.",
    "validate": "`rollouts lint` checks files.",
}
"""What kubectl, Argo Rollouts' plugin and others call something of ours."""


_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""A full disk, a quota, a limit of sizes, a broken disk."""


class _DiskError(click.ClickException):
    """Whoever waits for a verdict must not take this for one: the exit status of an output that cannot be written."""

    exit_code = UNWRITABLE


class _NoServer(click.ClickException):
    """There is no API server to ask; the exit status of all commands that cannot ask it."""

    exit_code = 3


class _Lazy(click.Group):
    """Imports a command's module when it is called: ``rollouts get`` must not load gRPC, nor ``--help`` anything."""

    def main(self, *args: Any, **options: Any) -> Any:
        """As click, where outputs can be written."""
        with guarded_outputs():
            return super().main(*args, **options)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, and what was meant by a name that is none."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            word = args[0] if args else ""
            close = difflib.get_close_matches(word, COMMANDS, n=1)
            meant = _ELSEWHERE.get(word) or (f"did you mean {close[0]}?" if close else "")
            raise click.UsageError(f"{error.message} {meant}".strip(), ctx) from None

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

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands, without importing them."""
        found = [name for name in COMMANDS if name.startswith(incomplete)]
        return [CompletionItem(name, help=HELP[name]) for name in found] or super().shell_complete(
            ctx, incomplete
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, HELP[name]) for name in COMMANDS])

    def invoke(self, ctx: click.Context) -> Any:
        """What a command fails with may quote an object: it is printed like everything else."""
        try:
            return super().invoke(ctx)
        except click.UsageError:
            raise  # quotes what the user typed
        except KeyboardInterrupt:
            sys.exit(130)  # as shells have it, also where a command is still being loaded
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "envoy":
                raise
            raise click.ClickException(f"Envoy's messages are not installed: pip install {_EXTRAS}") from None
        except (
            NotConfigured
        ) as error:  # of what runs for good; other commands have words of their own around it
            raise _NoServer(printable_lines(str(error))) from None
        except OSError as error:
            if error.errno not in _DISK:
                raise
            file = "a file cannot be read or written" if error.filename is None else error.filename
            raise _DiskError(printable_lines(f"{file}: {error.strerror}")) from None
        except click.ClickException as error:
            same = type("Told", (click.ClickException,), {"exit_code": error.exit_code})
            raise same(printable_lines(error.message)) from error


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="inference-rollouts")
def main() -> None:
    """Progressive delivery of LLM base models and LoRA adapters on Kubernetes."""
