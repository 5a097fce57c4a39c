"""Completion as shells and kubectl ask for it; and the line that says that a command still works."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from rollouts.cli.main import COMMANDS, main
from rollouts.cli.progress import progress
from rollouts.objects import kinds
from tests.kit.served import ROLLOUT, Server, stored_status

BIN = Path(sys.executable).parent


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    running.within(lambda api: api.create(kinds.ROLLOUT, "default", ROLLOUT, manager="test"))
    running.patch_status(stored_status())
    yield running
    running.stop()


def said(program: list[str], **env: str) -> str:
    found = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **env}
    return subprocess.run(program, env=found, capture_output=True, text=True, timeout=60, check=True).stdout


def kubectl(*words: str, **env: str) -> list[str]:
    """What kubectl is answered: its program is the entry point of that name."""
    program = "import sys; from rollouts.cli.completion import kubectl_complete; kubectl_complete()"
    return said([sys.executable, "-c", program, *words], **env).splitlines()


def test_bash_completes_commands_and_names(server):
    script = """\
source <(rollouts completion bash)
COMP_WORDS=(rollouts "$@") COMP_CWORD=$#
_rollouts_completion rollouts
printf '%s\\n' "${COMPREPLY[@]}"
"""
    env = {"KUBECONFIG": str(server.kubeconfig)}

    assert said(["bash", "-c", script, "bash", "pro"]) == "promote\n"
    assert said(["bash", "-c", script, "bash", "abort", "d"], **env) == "demo\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_its_script(shell):
    result = CliRunner().invoke(main, ["completion", shell])

    assert result.exit_code == 0
    assert f"_ROLLOUTS_COMPLETE={shell}_complete" in result.output


def test_kubectl_is_answered_as_cobra_answers(server):
    env = {"KUBECONFIG": str(server.kubeconfig)}

    assert [line.partition("\t")[0] for line in kubectl("")] == [*COMMANDS, ":4"]
    assert kubectl("get", "d", **env) == ["demo\tPaused", ":4"]
    assert kubectl("get", "-n", "elsewhere", "", **env) == [":4"]
    assert kubectl("get", "--out") == ["--output", ":4"]
    assert kubectl("lint", "") == [":0"]


def test_a_server_that_is_away_completes_nothing(tmp_path):
    assert kubectl("get", "", KUBECONFIG=str(tmp_path / "nothing")) == [":4"]


class Screen:
    """A terminal that says when something was written."""

    def __init__(self, *, terminal: bool = True) -> None:
        self.text, self.written, self._terminal = "", threading.Event(), terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self.text += text
        self.written.set()
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""


def test_silence_is_broken_on_a_terminal_and_the_line_is_taken_away():
    screen = Screen()
    with progress("asking the API server", file=screen, silence=0.01):  # type: ignore[arg-type]
        assert screen.written.wait(10)

    assert screen.text.startswith("\r\x1b[Kasking the API server ... (")
    assert screen.text.endswith("\r\x1b[K")


@pytest.mark.parametrize(("terminal", "silence"), [(False, 0.0), (True, 60.0)])
def test_nothing_is_shown_in_a_pipe_or_when_it_was_quick(terminal, silence):
    screen = Screen(terminal=terminal)
    with progress("asking", file=screen, silence=silence):  # type: ignore[arg-type]
        pass

    assert screen.text == ""
