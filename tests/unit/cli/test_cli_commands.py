"""The commands as a person types them, against an API server over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from rollouts.api.crds import crd_files
from rollouts.api.parsing import COMMAND_ANNOTATION
from rollouts.api.status import write_status
from rollouts.cli.main import COMMANDS, HELP, main
from rollouts.kube.client import PatchKind
from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.objects import kinds
from tests.kit.served import ROLLOUT, Server
from tests.kit.world import World, analysis, pause, spec, weight


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    yield running
    running.stop()


def paused() -> World:
    world = World(spec=spec(weight(10), pause()))
    world.settle()
    return world


def aborted() -> World:
    world = World(spec=spec(weight(10), analysis()))
    world.settle()
    world.say("abort")
    return world


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_is_there_and_explains_itself(name):
    result = CliRunner().invoke(main, [name, "--help"])

    assert result.exit_code == 0
    assert isinstance(main.get_command(click.Context(main), name), click.Command)
    assert len(result.output.splitlines()) > 3


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_it_says_of_itself(name):
    command = main.get_command(click.Context(main), name)

    assert command is not None
    assert command.get_short_help_str(limit=200) == HELP[name]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("promot", "did you mean promote?"),
        ("undo", "revert the commit"),
        ("describe", "rollouts get NAME"),
        ("demo", "rollouts lab demo base-model"),
        ("xyz", ""),
    ],
)
def test_a_command_that_is_none_is_answered_with_the_one_that_was_meant(word, meant):
    result = CliRunner().invoke(main, [word])

    assert result.exit_code == 2
    assert f"No such command '{word}'." in result.output
    assert meant in result.output
    assert ("did you mean" in result.output) == meant.startswith("did you mean")


def test_an_interrupt_while_a_command_is_loaded_is_130(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(main), "get_command", interrupted)

    assert CliRunner().invoke(main, ["get"]).exit_code == 130


@pytest.mark.parametrize("words", [("controller",), ("picker", "--pool", "default/chat"), ("get",)])
def test_without_a_kubeconfig_every_command_says_so_in_a_line(words, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    result = CliRunner().invoke(main, list(words))

    assert result.exit_code == 3
    assert f"Error: there is no kubeconfig {tmp_path}/.kube/config" in result.output


def test_listing_the_commands_imports_none_of_them():
    program = (
        "import sys; from click.testing import CliRunner; from rollouts.cli.main import main; "
        "CliRunner().invoke(main, ['--help']); "
        "print(sorted({'pydantic', 'aiohttp', 'kubernetes', 'grpc', 'celpy'} & sys.modules.keys()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert ended.stdout == "[]\n"


def test_crds_prints_what_the_repository_holds():
    result = CliRunner().invoke(main, ["crds"])

    names = {document["metadata"]["name"] for document in yaml.safe_load_all(result.output)}
    assert names == {name.removesuffix(".yaml") for name, _ in crd_files()}


def test_get_shows_a_table_and_one_in_full(server):
    server.store(paused())

    table = server.call("get")
    one = server.call("get", "demo")

    assert [word for word in ("demo", "Paused", "2/2", "10%", "v1", "v2") if word not in table.output] == []
    assert "set weight 10%" in one.output
    assert "pause until promoted" in one.output


def test_get_json_and_yaml_say_the_same(server):
    server.store(paused())

    shown = json.loads(server.call("get", "demo", "-o", "json").output)

    assert yaml.safe_load(server.call("get", "demo", "-o", "yaml").output) == shown
    assert (shown["phase"], shown["weight"]["applied"], shown["step"]) == ("Paused", 10.0, 1)


def test_explain_tells_what_moves_it(server):
    server.store(paused())
    result = server.call("explain", "demo")

    assert result.exit_code == 0
    assert "Moves it  `promote` leaves the pause" in result.output


def test_doctor_ends_with_1_when_something_is_missing(server):
    server.store(paused())
    result = server.call("doctor", "demo")

    assert result.exit_code == 1
    assert "problem:  HTTPRoute route does not exist\n            -> create it" in result.output


@pytest.mark.parametrize(("make", "code"), [(paused, 0), (aborted, 1)])
def test_status_says_by_its_exit_status_how_it_stands(server, make, code):
    server.store(make())

    assert server.call("status", "demo").exit_code == code


def test_status_watch_gives_up_in_time(server):
    server.store(paused())

    assert server.call("status", "demo", "--watch", "--timeout", "1s").exit_code == 4


def test_an_unknown_rollout_is_named(server):
    result = server.call("get", "nothing")

    assert result.exit_code == 2
    assert "there is no Rollout nothing in namespace default" in result.output


def test_a_server_that_is_not_there_is_said(tmp_path):
    write_kubeconfig(tmp_path / "kubeconfig", server="http://127.0.0.1:1")
    result = CliRunner().invoke(main, ["get", "--kubeconfig", str(tmp_path / "kubeconfig")])

    assert result.exit_code == 3


@pytest.mark.parametrize(("result", "code"), [("Done", 0), ("Rejected", 1)])
def test_a_verb_is_bound_to_revision_and_step_and_tells_how_it_ended(server, result, code):
    world = paused()
    server.store(world)
    seen: dict[str, Any] = {}

    def controller(change: Any) -> None:
        """Stands in for the controller: answers the command when it is written."""
        found = server.api.get(kinds.ROLLOUT, "default", "demo")
        raw = (found["metadata"].get("annotations") or {}).get(COMMAND_ANNOTATION)
        if raw and not seen:
            seen.update(json.loads(raw))
            record = {
                "raw": raw,
                "action": "promote",
                "result": result,
                "message": "m",
                "at": "2026-01-01T00:00:00Z",
            }
            server.patch_status({"lastCommand": record})

    server.api.observers.append(controller)
    answer = server.call("promote", "demo")

    assert answer.exit_code == code
    assert f"promote {result.lower()}: m" in answer.output
    assert (seen["action"], seen["revision"], seen["step"]) == ("promote", world.status.canary.hash, 1)
    assert seen["attempt"] == world.status.attempt == 1


def test_a_table_shows_every_rollout_however_many_pages(server):
    for number in range(1203):
        copy = {**ROLLOUT, "metadata": {"name": f"r{number}", "namespace": f"team-{number % 3}"}}
        server.api.create(kinds.ROLLOUT, copy["metadata"]["namespace"], copy, manager="test")

    one, every = server.call("get", "-n", "team-1", "-o", "json"), server.call("get", "-A")

    assert len(json.loads(one.output)) == 401
    lines = every.output.splitlines()
    assert lines[0].split()[:2] == ["NAMESPACE", "NAME"]
    assert len([line for line in lines if line.startswith("team-")]) == 1203


def test_a_verb_acts_in_the_namespace_of_the_merged_context_and_says_so(server, tmp_path, monkeypatch):
    world = paused()
    for namespace in ("default", "team-b"):
        copy = {**ROLLOUT, "metadata": {"name": "demo", "namespace": namespace}}
        server.api.create(kinds.ROLLOUT, namespace, copy, manager="test")
        status = {"status": write_status(world.status)}
        place = (kinds.ROLLOUT, namespace, "demo", status)
        server.api.patch(*place, content_type=PatchKind.MERGE.value, subresource="status", manager="test")
    second = yaml.safe_load(server.kubeconfig.read_text())
    name = second.pop("current-context")
    second["contexts"][0]["context"]["namespace"] = "team-b"
    (tmp_path / "a").write_text(yaml.safe_dump({"kind": "Config", "current-context": name, "contexts": []}))
    (tmp_path / "b").write_text(yaml.safe_dump(second))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'a'}:{tmp_path / 'missing'}:{tmp_path / 'b'}")
    monkeypatch.setattr("rollouts.cli.verbs._WAIT", 0.1)

    result = CliRunner().invoke(main, ["pause", "demo"])

    def command(namespace: str) -> object:
        return server.api.get(kinds.ROLLOUT, namespace, "demo")["metadata"].get("annotations")

    assert "team-b/demo: pause" in result.output
    assert command("team-b")
    assert not command("default")


# --- names, and where the output goes ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "rollout/demo",
        "rollouts/demo",
        "iro/demo",
        "rollout.inferencerollouts.dev/demo",  # what `kubectl get iro -o name` prints
        "rollouts.inferencerollouts.dev/demo",
        "rollout.v1alpha1.inferencerollouts.dev/demo",
        "rollouts.v1alpha1.inferencerollouts.dev/demo",
    ],
)
def test_a_name_may_have_its_kind_before_it(server, name):
    server.store(paused())
    result = server.call("status", name)

    assert (result.exit_code, "Paused" in result.output) == (0, True)


@pytest.mark.parametrize("name", ["", "rollout/"])
@pytest.mark.parametrize("command", ["abort", "promote", "status", "get", "explain", "report"])
def test_a_name_that_is_empty_is_wrong_usage(server, command, name):
    """A script whose variable is not set must not act on whatever a list begins with, nor read it as an abort."""
    server.store(paused())
    result = server.call(command, name)

    assert (result.exit_code, "it is empty" in result.output) == (2, True)


PLAN = f"plan {Path(__file__).resolve().parents[3] / 'examples' / 'base-model' / 'rollout.yaml'}"
FULL = "Error: the output cannot be written: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("crds >/dev/full", 74, FULL),
        ("--help >/dev/full", 74, FULL),
        ("status --help >/dev/full", 74, FULL),
        ("crds >/dev/full 2>&1", 74, ""),
        ("crds >/dev/full 2>&-", 74, ""),
        ("nosuch 2>/dev/full", 74, ""),
        ("--help >&-", 0, ""),
        (f"{PLAN} >&-", 0, ""),
    ],
)
def test_an_output_that_cannot_be_written_is_no_verdict(words, code, said):
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m rollouts.cli {words}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("words", ["--help", PLAN])
def test_a_pipe_that_nobody_reads_ends_a_command_as_sigpipe_does(words):
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-m", "rollouts.cli", *words.split()],
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writes)

    assert (done.returncode, done.stderr) == (141, "")


class _Copies(type(main)):  # type: ignore[misc]
    """The group of all commands with one that copies a file, as a disk may fail in the middle of any."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        @click.command
        @click.argument("source")
        @click.argument("target")
        def copy(source: str, target: str) -> None:
            with Path(source).open("rb") as file:
                Path(target).write_bytes(file.read(1))

        return copy


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("/proc/self/mem", "copy", "a file cannot be read or written: Input/output error"),
        (__file__, "/dev/full", "a file cannot be read or written: No space left on device"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="needs files that cannot be read or written")
def test_a_disk_that_fails_is_not_taken_for_the_output(tmp_path, monkeypatch, source, target, said):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(_Copies("rollouts"), ["copy", source, target])

    assert (result.exit_code, result.output) == (74, f"Error: {said}\n")


def test_a_terminal_without_our_signs_is_written_to_all_the_same(server):
    server.store(paused())
    done = subprocess.run(
        [sys.executable, "-m", "rollouts.cli", "get", "--kubeconfig", str(server.kubeconfig)],
        env={"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, "Paused" in done.stdout) == (0, True), done.stderr


def test_a_standard_input_that_is_closed_is_said():
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m rollouts.cli lint - <&-"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr.strip()) == (2, "Error: standard input is closed")
