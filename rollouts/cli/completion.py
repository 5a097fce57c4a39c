"""What a shell may put after what was typed: ``rollouts completion``, and kubectl's way for its plugins.

bash, zsh and fish ask through click's own scripts. kubectl (since 1.26) asks a program called
``kubectl_complete-PLUGIN`` with the words after the plugin's name and reads cobra's answer: a value and its description
a line, then ``:4`` (complete no files). Source: kubernetes.io, "kubectl plugins", cobra's ``ShellCompDirective``.
"""

from __future__ import annotations

import sys

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from rollouts.terminal import document, printable

__all__ = ["completion", "kubectl_complete", "rollout_names"]

_PROGRAM = "rollouts"
_VARIABLE = "_ROLLOUTS_COMPLETE"
_SECONDS = 2.0
"""A shell waits for the answer: a server that is slower completes nothing."""
_MOST = 200
_NO_FILES = 4


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options and names: `source <(rollouts completion bash)`.

    For `kubectl rollouts`, kubectl's own completion asks kubectl_complete-rollouts, which is installed beside it.
    """
    from rollouts.cli.main import main

    found = get_completion_class(shell)
    assert found is not None
    document(found(main, {}, _PROGRAM, _VARIABLE).source())


def rollout_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Rollouts of the namespace that the options so far choose, with their phases; none where nobody tells."""
    import asyncio

    from rollouts.cli.connect import default_namespace
    from rollouts.kube.errors import KubeError
    from rollouts.kube.http import open_client
    from rollouts.kube.kubeconfig import ContextChoice
    from rollouts.objects import kinds
    from rollouts.objects.fields import map_of, metadata_of

    given = ctx.params
    choice = ContextChoice(context=given.get("context"), cluster=given.get("cluster"), user=given.get("user"))

    async def names() -> list[CompletionItem]:
        space = given.get("namespace") or default_namespace(given.get("kubeconfig"), choice)
        async with await open_client(given.get("kubeconfig"), choice, deadline=_SECONDS) as client:
            page = await client.list_page(kinds.ROLLOUT, space)
        found = [
            (str(metadata_of(obj).get("name")), map_of(obj.get("status")).get("phase")) for obj in page.items
        ]
        return [
            CompletionItem(name, help=printable(str(phase or "New")))
            for name, phase in found
            if name.startswith(incomplete)
        ][:_MOST]

    try:
        return asyncio.run(names())
    except (KubeError, click.ClickException):
        return []


def kubectl_complete() -> None:
    """The program ``kubectl_complete-rollouts``: the words typed so far are its arguments, the last may be half."""
    from rollouts.cli.main import main

    *words, incomplete = sys.argv[1:] or [""]
    items = ShellComplete(main, {}, _PROGRAM, _VARIABLE).get_completions(words, incomplete)
    for item in items:
        if item.type == "plain":
            document(f"{item.value}\t{item.help}" if item.help else str(item.value))
    document(f":{_NO_FILES if all(item.type == 'plain' for item in items) else 0}")
