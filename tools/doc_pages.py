"""Pages of the documentation that are written from code: commands, reasons, words of other tools."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from rollouts.cli.lint_words import FOREIGN
from rollouts.cli.main import COMMANDS, HELP
from rollouts.engine.reasons import Reason

__all__ = ["doc_pages", "troubleshooting"]

_DOCS = Path(__file__).resolve().parent.parent / "docs"


def doc_pages() -> Iterator[tuple[Path, str]]:
    """(path, text) of each."""
    yield _DOCS / "command-line.md", _command_line()
    yield _DOCS / "troubleshooting.md", troubleshooting()
    yield _DOCS / "words.md", _words()


def _command_line() -> str:
    lines = [
        "# Command line",
        "",
        "Generated from the commands by `make generate`. `rollouts` is installed as `kubectl-rollouts`, too, so that",
        "`kubectl rollouts get` works. Each command takes `-h`.",
        "",
        "| command | does |",
        "|---|---|",
        *(f"| [`{name}`](#{name}) | {_cell(HELP[name])} |" for name in sorted(COMMANDS)),
        "",
    ]
    for name in sorted(COMMANDS):
        module, attribute = COMMANDS[name].split(":")
        lines += _command(getattr(importlib.import_module(module), attribute), name, depth=2)
    return "\n".join(lines)


def _command(command: click.Command, path: str, *, depth: int) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    yield f"{'#' * depth} {path}"
    yield ""
    yield f"```text\nrollouts {' '.join([path, *command.collect_usage_pieces(context)])}\n```"
    yield ""
    yield from inspect.cleandoc((command.help or "").replace("\b", "")).splitlines()
    yield ""
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    if options:
        yield "| option | default | meaning |"
        yield "|---|---|---|"
        for option in options:
            yield f"| `{_cell(_written(option, context))}` | {_default(option)} | {_cell(option.help or '')} |"
        yield ""
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _command(command.commands[name], f"{path} {name}", depth=depth + 1)


def _written(option: click.Option, context: click.Context) -> str:
    names = ", ".join(option.opts)
    if option.secondary_opts:
        return f"{names} / {', '.join(option.secondary_opts)}"
    return names if option.is_flag else f"{names} {option.make_metavar(context)}"


def _default(option: click.Option) -> str:
    value = option.default
    if option.is_flag and not option.secondary_opts:
        return ""
    if value is None or callable(value) or value == () or not isinstance(value, str | int | float | Path):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value}`" if str(value) else ""


def troubleshooting() -> str:
    """The page of reasons."""
    lines = [
        "# Troubleshooting by reason",
        "",
        "Generated from `rollouts/engine/reasons.py` by `make generate`.",
        "",
        "Begin with `rollouts explain NAME`: why it is where it is, what would move it. Then `rollouts doctor NAME`:",
        "what is missing in the cluster and the GitOps set-up. The reason is in `status.reason`, in the conditions and",
        "in Events; the message beside it has the names and figures.",
        "",
        "| reason | means | what to do |",
        "|---|---|---|",
        *(
            f"| `{reason.value}` | {_cell(reason.meaning)} | {_cell(reason.remedy)} |"
            for reason in sorted(Reason, key=lambda reason: reason.value)
        ),
        "",
    ]
    return "\n".join(lines)


def _words() -> str:
    lines = [
        "# Words of Argo Rollouts and Flagger",
        "",
        "Generated from `rollouts/cli/lint_words.py` by `make generate`: what `rollouts lint` says of fields that are",
        "nobody's here. Their objects, given to `rollouts lint`, are answered with the same words.",
        "",
        "| field | what to do |",
        "|---|---|",
        *(f"| `{word}` | {_cell(meaning)} |" for word, meaning in FOREIGN.items()),
        "",
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
