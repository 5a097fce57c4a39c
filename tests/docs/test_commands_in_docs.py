"""Every command that the documentation shows exists, with these options; every path that it names is there."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from rollouts.cli.main import main
from tests.docs.pages import ROOT, Block, blocks, pages

SHELL = {
    "cd",
    "curl",
    "echo",
    "export",
    "for",
    "git",
    "grep",
    "kustomize",
    "pip",
    "pipx",
    "sed",
    "seq",
    "sh",
    "sort",
    "tail",
    "uniq",
    "uv",
    "xargs",
}
"""Commands of other people that pages may show; `kubectl` and `helm` are looked at below."""

KUBECTL = {"annotate", "apply", "delete", "get", "logs", "patch", "scale", "wait"}

ASSIGNMENT = re.compile(r"\w+=")

THE_READERS = {"deploy/", "deploy/rollout.yaml", "rollout.yaml", "-"}
"""Files of whoever reads: the tutorial's, and a folder of manifests."""


def commands(block: Block) -> Iterator[list[str]]:
    """The simple commands of a block of shell: words, without redirections and variables set before them."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;()"):
                yield from [words] if words else []
                words = []
            elif words or not (word in ("do", "done") or ASSIGNMENT.match(word)):
                words.append(word)


def shown() -> list[tuple[Block, list[str]]]:
    return [
        (block, words)
        for page in pages()
        for block in blocks(page)
        if block.language == "sh"
        for words in commands(block)
    ]


def ours(words: list[str]) -> list[str] | None:
    """The arguments of `rollouts`, where the command is ours."""
    for prefix in (["rollouts"], ["kubectl", "rollouts"], ["python", "-m", "rollouts.cli"]):
        if words[: len(prefix)] == prefix:
            return words[len(prefix) :]
    return None


def parse(arguments: list[str]) -> None:
    """As the command line would, down to the subcommand; a file that is not there is the reader's own."""
    command: click.Command = main
    context = click.Context(main, info_name="rollouts")
    while isinstance(command, click.Group):
        name = arguments.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name}"
        command = found
    try:
        command.make_context(command.name, arguments, parent=context)
    except click.BadParameter as error:
        if "does not exist" not in error.message:
            raise


def without_redirection(words: list[str]) -> list[str]:
    return words[: words.index(">")] if ">" in words else words


def check(words: list[str], folder: Path = ROOT) -> None:
    """Raises where the command is none, or names a file that is neither in the checkout nor in ``folder``."""
    words = without_redirection(words)
    arguments = ours(words)
    if arguments is not None:
        parse(arguments)
    elif words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), words[2]
    elif words[0] == "helm":
        chart(words)
    elif words[0] == "kubectl":
        verb = next(word for word in words[1:] if word in KUBECTL)
        assert verb
        for flag, value in itertools.pairwise(words):
            if flag in ("-f", "--patch-file"):
                assert value in THE_READERS or (ROOT / value).exists() or (folder / value).exists(), value
    else:
        assert words[0] in SHELL, f"nobody looks at {words[0]}: add a check here"


def chart(words: list[str]) -> None:
    """The chart is there, and knows each value that is set."""
    assert words[1] in ("install", "upgrade", "uninstall", "template")
    if words[1] == "uninstall":
        return
    place = next(word for word in words[2:] if word.startswith("charts/"))
    values = yaml.safe_load((ROOT / place / "values.yaml").read_text())
    for flag, setting in itertools.pairwise(words):
        for one in setting.split(",") if flag == "--set" else []:
            assert re.split(r"[.\[=]", one)[0] in values, one


def test_commands_are_shown_at_all():
    """Without this an empty list below would pass."""
    assert len(shown()) > 40
    assert {ours(words)[0] for _, words in shown() if ours(words)} >= {
        "get",
        "status",
        "lint",
        "retry",
        "lab",
    }


@pytest.mark.parametrize(
    ("block", "words"), shown(), ids=lambda value: value.place if isinstance(value, Block) else ""
)
def test_a_command_in_the_docs_exists(block: Block, words: list[str]):
    check(list(words), block.page.parent)


@pytest.mark.parametrize(
    "words",
    [
        ["rollouts", "status", "mymodel", "--wacht"],
        ["rollouts", "lab", "demo", "base-modle"],
        ["kubectl", "rollouts", "stauts", "mymodel"],
        ["make", "tset"],
        ["python", "-m", "benchmarks.nowhere"],
        ["helm", "install", "x", "charts/inference-rollouts", "--set", "wacht.allNamespaces=true"],
        ["kubectl", "apply", "-f", "examples/nowhere.yaml"],
        ["rm", "-rf", "/"],
    ],
)
def test_a_wrong_command_would_be_found(words: list[str]):
    with pytest.raises((AssertionError, click.UsageError)):
        check(words)


NAMED = re.compile(r"`((?:docs|examples|charts|analysis|benchmarks|crds|tests|rollouts|tools)/[\w./-]+)`")


def test_every_path_that_a_page_names_is_there():
    named = [(page, path) for page in pages() for path in NAMED.findall(page.read_text(encoding="utf-8"))]

    missing = [
        f"{page.relative_to(ROOT)}: {path}"
        for page, path in named
        if not any((folder / path).exists() for folder in (ROOT, ROOT / "rollouts"))
    ]

    assert len(named) > 50
    assert missing == []


LINK = re.compile(r"(?<!!)\]\(([^)#\s]+)(?:#[^)]*)?\)")


def test_every_link_of_pages_outside_the_site_leads_somewhere():
    """Those inside are checked when the site is built."""
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages()
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]

    assert broken == []


def test_every_page_is_reached_from_the_site_or_its_folder():
    site = (ROOT / "mkdocs.yml").read_text()
    pages_of_site = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")]

    lost = [str(page) for page in pages_of_site if str(page) not in site and page.parent == Path()]

    assert lost == []
