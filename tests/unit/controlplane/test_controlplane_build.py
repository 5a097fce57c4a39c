"""Building and choosing a control plane, with a pretend Go and pretend binaries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rollouts.kube.client import Resource
from rollouts.kube.http import open_client
from rollouts.lab.controlplane import Choice, ControlPlane, ControlPlaneError, Source
from rollouts.lab.controlplane import select as selecting
from rollouts.lab.controlplane.build import (
    API_SERVER,
    CONTROLLERS,
    binaries_directory,
    build,
    built_binaries,
)
from tests.kit.polling import eventually

_FAKE_GO = """#!{python}
import os, sys, time
if sys.argv[1] == "env":
    print("{version}")
    sys.exit(0)
with open("{log}", "a") as log:
    log.write(" ".join(sys.argv[1:]) + " CGO=" + os.environ["CGO_ENABLED"] + "\\n")
if {fail}:
    sys.exit("module not found")
time.sleep({seconds})
target = sys.argv[sys.argv.index("-o") + 1]
open(target, "w").write("#!/bin/sh\\nexit 1\\n")
os.chmod(target, 0o755)
"""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    (tmp_path / "bin").mkdir()


def fake_go(tmp_path: Path, *, version: str = "go1.99.0", fail: bool = False, seconds: float = 0) -> Path:
    log = tmp_path / "go.log"
    script = tmp_path / "bin" / "go"
    text = _FAKE_GO.format(python=sys.executable, version=version, log=log, fail=fail, seconds=seconds)
    script.write_text(text)
    script.chmod(0o755)
    return log


def test_all_programs_are_built_once_with_the_version_linked_in(tmp_path: Path) -> None:
    log = fake_go(tmp_path)
    said: list[str] = []
    folder = build(said.append)
    again = build(said.append)
    commands = log.read_text().splitlines()

    assert folder == again == built_binaries() == binaries_directory()
    assert [command.split()[-2].rsplit("/cmd/")[-1] for command in commands] == [
        "kube-apiserver",
        "go.etcd.io/etcd/server/v3",
        *CONTROLLERS,
    ]
    assert built_binaries(CONTROLLERS) == folder
    assert all("-X k8s.io/component-base/version.gitVersion=v1." in command for command in commands)
    assert all(command.endswith("CGO=0") for command in commands)
    assert "minutes" in said[0]
    assert said[-1].startswith("kube-apiserver, etcd, kube-controller-manager, kube-scheduler are built")


def test_a_failed_build_shows_what_go_said_and_leaves_nothing(tmp_path: Path) -> None:
    fake_go(tmp_path, fail=True)

    with pytest.raises(ControlPlaneError, match="module not found"):
        build(lambda _line: None)
    assert built_binaries() is None
    assert [item.name for item in binaries_directory().iterdir()] == ["build.lock"]


@pytest.mark.parametrize(
    ("version", "message"),
    [(None, "Go is not on the PATH"), ("go1.9.2", "too old"), ("devel", "too old")],
)
def test_without_a_usable_go_the_way_out_is_named(tmp_path: Path, version: str | None, message: str) -> None:
    if version:
        fake_go(tmp_path, version=version)

    with pytest.raises(ControlPlaneError, match=f"{message}.*KUBEBUILDER_ASSETS"):
        build(lambda _line: None)


def test_two_builders_build_once(tmp_path: Path) -> None:
    log = fake_go(tmp_path, seconds=0.3)
    program = "from rollouts.lab.controlplane.build import build; build()"
    builders = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [builder.communicate(timeout=50)[0] for builder in builders]

    assert [builder.returncode for builder in builders] == [0, 0]
    assert len(log.read_text().splitlines()) == len((*API_SERVER, *CONTROLLERS))
    assert all("built" in output for output in outputs)


def test_the_folder_is_named_by_the_pinned_versions(tmp_path: Path) -> None:
    folder = binaries_directory()

    assert folder.parent == tmp_path / "cache" / "inference-rollouts" / "controlplane"
    assert len(folder.name) == 16


async def test_auto_takes_memory_where_nothing_else_is_and_never_builds(tmp_path: Path) -> None:
    log = fake_go(tmp_path)
    async with ControlPlane(tmp_path / "plane") as plane:
        async with await open_client(str(plane.kubeconfig)) as client:
            assert await client.ready()
        assert (plane.source, plane.real) == (Source.MEMORY, False)
        assert "no CEL" in plane.description
        with pytest.raises(ControlPlaneError, match="impersonate"):
            plane.write_user_kubeconfig("u", tmp_path / "k")
    assert not log.exists()


async def test_real_builds_what_is_missing_and_says_why_it_does_not_start(tmp_path: Path) -> None:
    fake_go(tmp_path)
    plane = ControlPlane(tmp_path / "plane", choice=Choice.REAL, say=lambda _line: None)

    with pytest.raises(ControlPlaneError, match="ended with code 1"):
        await plane.start()
    assert plane.source is None


async def test_broken_binaries_are_passed_over_for_the_next_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_go(tmp_path)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(build(lambda _line: None)))

    async with ControlPlane(tmp_path / "plane", choice=Choice.AUTO) as plane:
        assert plane.source is Source.MEMORY


async def test_a_given_cluster_that_does_not_answer_is_an_error_not_a_reason_for_another(
    tmp_path: Path,
) -> None:
    config = tmp_path / "nothing"

    with pytest.raises(ControlPlaneError, match="given kubeconfig"):
        await ControlPlane(tmp_path / "plane", kubeconfig=config).start()


async def test_a_given_cluster_is_used_and_left_running(tmp_path: Path) -> None:
    async with ControlPlane(tmp_path / "one", choice=Choice.MEMORY) as running:
        async with ControlPlane(tmp_path / "two", kubeconfig=running.kubeconfig) as plane:
            assert (plane.source, plane.real) == (Source.GIVEN, True)
            with pytest.raises(ControlPlaneError, match="compacted"):
                await plane.compact()
        async with await open_client(str(running.kubeconfig)) as client:
            assert await client.ready()


async def test_the_in_memory_server_has_controllers_of_its_own(tmp_path: Path) -> None:
    deployments = Resource("apps", "v1", "deployments", "Deployment")
    pods = Resource("", "v1", "pods", "Pod")
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "a"}}, "template": template}
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec}
    async with ControlPlane(tmp_path / "plane", choice=Choice.MEMORY) as plane:
        await plane.start_controllers()
        async with await open_client(str(plane.kubeconfig)) as client:
            await client.create(deployments, "default", body)

            async def two() -> bool:
                return len((await client.list_page(pods, "default")).items) == 2

            assert await eventually(two)


async def test_a_control_plane_that_was_not_started_has_no_controllers(tmp_path: Path) -> None:
    with pytest.raises(ControlPlaneError, match="not started"):
        await ControlPlane(tmp_path / "plane", choice=Choice.MEMORY).start_controllers()


async def test_assets_without_controllers_name_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_go(tmp_path)
    folder = build(lambda _line: None, API_SERVER)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(folder))

    assert built_binaries() == folder
    assert built_binaries(CONTROLLERS) is None
    plane = ControlPlane(tmp_path / "plane", choice=Choice.REAL)
    plane.source, plane._backend = Source.ASSETS, plane._from_binaries(folder)
    with pytest.raises(ControlPlaneError, match="no kube-controller-manager and no kube-scheduler"):
        await plane.start_controllers()


def test_assets_need_both_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    (tmp_path / "etcd").touch(mode=0o755)

    assert selecting._assets() is None
