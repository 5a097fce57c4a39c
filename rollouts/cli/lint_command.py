"""``rollouts lint``: files, folders and standard input, checked with or without a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any

import click

from rollouts.analysis.forecasting import Forecast
from rollouts.cli.connect import connection_options, default_namespace, with_client
from rollouts.cli.lint import lint_documents, placed_objects
from rollouts.cli.lint_findings import Finding, Severity, at_document, hint, problem
from rollouts.cli.lint_gateways import GATEWAYS, gateway_findings
from rollouts.cli.lint_kinds import API_VERSION, is_ours, objects_in
from rollouts.cli.lint_live import Live, ask_cluster
from rollouts.cli.lint_output import OUTPUTS, Placed
from rollouts.cli.lint_promql import QueryParsers
from rollouts.cli.progress import progress
from rollouts.cli.yaml_source import MAX_BYTES, Document, read_yaml
from rollouts.kube.kubeconfig import ContextChoice

__all__ = ["lint"]

_ENDINGS = (".yaml", ".yml", ".json")
_STDIN = "-"
_PATH = click.Path(exists=True, allow_dash=True)
_SHOWN_STDIN = "<stdin>"


class _Unreadable(click.ClickException):
    """A file cannot be read; exit status 2, as for other problems of the files."""

    exit_code = 2


def _files(path: FilePath) -> list[FilePath]:
    """A file, or what is in a folder and below it; hidden ones left out."""
    if not path.is_dir():
        return [path]
    found = (file for file in path.rglob("*") if file.suffix in _ENDINGS and file.is_file())
    return sorted(
        file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def _texts(names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(name, text) of the files, of those in the folders, and of standard input; a little more than the limit."""
    for name in names:
        if name == _STDIN:
            if sys.stdin is None:  # closed by the caller (<&-)
                raise _Unreadable("standard input is closed")
            yield _SHOWN_STDIN, sys.stdin.buffer.read(MAX_BYTES + 1)
            continue
        for file in _files(FilePath(name)):
            try:
                with file.open("rb") as text:
                    yield str(file), text.read(MAX_BYTES + 1)
            except OSError as error:
                raise _Unreadable(f"{file}: {error.strerror}") from None


def _read(names: Sequence[str]) -> tuple[list[tuple[str, Document]], list[Placed]]:
    """Documents with their files, and what cannot be read of the files."""
    documents: list[tuple[str, Document]] = []
    unread: list[Placed] = []
    for name, text in _texts(names):
        found, faults = read_yaml(text)
        documents += ((name, one) for one in found)
        for fault in faults:
            finding = problem("", fault.text, rule="yaml")
            unread.append(Placed(finding=finding, file=name, line=fault.line, column=fault.column))
    return documents, unread


def _placed(finding: Finding, documents: Sequence[tuple[str, Document]]) -> Placed:
    if finding.document < 0:
        return Placed(finding=finding, file="", line=1, column=1)
    file, document = documents[finding.document]
    line, column = document.place(finding.path, key=finding.named)
    return Placed(finding=finding, file=file, line=line, column=column)


def _of_gateway(values: list[Any], gateway: str) -> Iterator[Finding]:
    """What is known of the gateway, at the objects that it concerns."""
    for index, value in enumerate(values):
        for prefix, obj in objects_in(value):
            for where, text, bad in gateway_findings([obj], gateway):
                make = problem if bad else hint
                yield at_document(make(where, text, rule="gateway"), index, prefix)


def _named(source: str) -> tuple[str, str]:
    """``NAME=URL``, as the controller takes it. Raises UsageError."""
    name, _, url = source.partition("=")
    if not name or not url.startswith(("http://", "https://")):
        raise click.UsageError("--source: write NAME=http://...")
    return name, url


def _ask(values: list[Any], namespace: str | None, kubeconfig: str | None, context: ContextChoice) -> Live:
    """What the cluster says."""
    where = namespace or default_namespace(kubeconfig, context)
    return with_client(
        kubeconfig,
        context,
        lambda client: ask_cluster(client, placed_objects(values), where),
        doing="asking the cluster",
    )


@click.command("lint")
@click.argument("files", nargs=-1, type=_PATH)
@click.option("-f", "--filename", "named", multiple=True, type=_PATH, help="One of FILES, as kubectl has it.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=20.0, show_default=True)
@click.option("--stable-pods", type=click.IntRange(min=1), help="Also say what gates cannot prove.")
@click.option("--canary-pods", type=click.IntRange(min=1), help="Else what the weight asks for.")
@click.option("--gateway", type=click.Choice(GATEWAYS), help="Also say what is known of this gateway.")
@click.option(
    "--live", is_flag=True, help="Also ask the cluster: what is named, a server-side dry run, its CRDs."
)
@connection_options
@click.option(
    "--source", "sources", multiple=True, metavar="NAME=URL", help="A Prometheus that parses queries."
)
@click.option("-o", "--output", type=click.Choice(tuple(OUTPUTS)), default="text", show_default=True)
def lint(
    files: tuple[str, ...],
    named: tuple[str, ...],
    live: bool,
    sources: tuple[str, ...],
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
    rate: float,
    stable_pods: int | None,
    canary_pods: int | None,
    gateway: str | None,
    output: str,
) -> None:
    """Check Rollouts and templates in FILES, folders, or - for standard input.

    By the controller's own rules, and strictly: fields that nobody reads are named. The files are taken together:
    templates, pools and routes that Rollouts name, and Argo CD's sync waves. No cluster is asked without --live.

    Exit status: 0 fine or hints only, 2 problems, or nothing of ours in the files, 3 no answer of the API server.
    """
    if not files and not named:
        raise click.UsageError("name files, folders, or - for standard input")
    documents, placed = _read((*files, *named))
    values = [document.value for _, document in documents]
    traffic = Forecast(rate=rate, stable_pods=stable_pods, canary_pods=canary_pods) if stable_pods else None
    parsers = QueryParsers(dict(_named(one) for one in sources))
    told = _ask(values, namespace, kubeconfig, context) if live else None
    with progress("checking"):
        found = [
            *lint_documents(values, traffic, live=told, parse=parsers),
            *(_of_gateway(values, gateway) if gateway else ()),
        ]
    found += (hint("", f"--source {name}: {why}", rule="promql") for name, why in parsers.troubles.items())
    placed += (_placed(finding, documents) for finding in found)
    count = sum(is_ours(obj) for one in values for _, obj in objects_in(one))
    if not count and not placed:
        finding = problem("", f"no object of {API_VERSION} in these files", rule="nothing")
        placed.append(Placed(finding=finding, file="", line=1, column=1))
    bad = sum(one.finding.severity is Severity.PROBLEM for one in placed)
    placed.sort(key=lambda one: (one.file, one.line, one.column))
    OUTPUTS[output](placed, {"objects": count, "problems": bad, "hints": len(placed) - bad})
    if bad or not count:
        sys.exit(2)
