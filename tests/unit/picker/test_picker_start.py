"""What the command needs to be told, and what it says when it is not enough."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rollouts.picker.command import picker as command
from rollouts.picker.core.objects import PoolName
from rollouts.picker.filesource import ObjectsUnreadable
from rollouts.picker.main import Picker, PickerConfig


def started(file: Path, *pools: PoolName) -> Picker:
    return Picker(
        PickerConfig(
            pools=pools, objects=file, grpc_address="127.0.0.1:0", metrics_address="127.0.0.1:0",
            secure_serving=False, scrape=False, drain_grace=0.0,
        )
    )  # fmt: skip


def write(path: Path, *objects: Any) -> Path:
    path.write_text(yaml.safe_dump_all(objects))
    return path


async def test_a_file_alone_is_enough_all_its_pools_are_served(tmp_path: Path, objects: Any) -> None:
    pools = [objects.pool("a"), objects.pool("b", v1=True)]
    file = write(
        tmp_path / "o.yaml", *pools, objects.pod("10.0.0.1", pool="a"), objects.pod("10.0.0.2", pool="b")
    )
    running = started(file)
    await running.start()
    try:
        snapshot = running.router.snapshot
        ready = running.ready
        running.take([objects.pool("c"), objects.pod("10.0.0.3", pool="c")])
        later = running.router.snapshot
    finally:
        await running.stop()

    assert ([pool.name for pool in snapshot.pools], ready) == (["a", "b"], True)
    assert [endpoint.host for endpoint in snapshot.endpoints] == ["10.0.0.1", "10.0.0.2"]
    assert [endpoint.host for endpoint in later.endpoints] == ["10.0.0.3"]


async def test_named_pools_are_the_only_ones(tmp_path: Path, objects: Any) -> None:
    file = write(tmp_path / "o.yaml", objects.pool("a"), objects.pool("b"))
    running = started(file, PoolName("default", "b"))
    await running.start()
    try:
        assert [pool.name for pool in running.router.snapshot.pools] == ["b"]
    finally:
        await running.stop()


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="the limit is read from /proc")
def test_the_command_takes_as_many_open_files_as_it_may(tmp_path: Path, objects: Any) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    arguments = ["--pool=default/a", f"--objects={write(tmp_path / 'o.yaml', objects.pool('a'))}"]
    ports = ["--grpc-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0", "--drain-grace=0", "--no-scrape"]
    limited = f"ulimit -S -n 128; exec {sys.executable} -m rollouts.picker {' '.join((*arguments, *ports))}"
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(["sh", "-c", limited], text=True, **output) as process:
        assert process.stdout is not None
        assert any("picker_serving" in line for line in process.stdout)
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        os.kill(process.pid, signal.SIGTERM)

    found = re.search(r"Max open files +(\d+|unlimited)", limits)
    assert found is not None
    assert found[1] == ("unlimited" if most == resource.RLIM_INFINITY else str(most))


@pytest.mark.parametrize(
    "pools", [[], [{"kind": "InferencePool", "apiVersion": "inference.networking.k8s.io/v1"}]]
)
async def test_a_file_without_a_pool_is_said_at_the_start(
    tmp_path: Path, objects: Any, pools: list[Any]
) -> None:
    running = started(write(tmp_path / "o.yaml", *pools, objects.pod("10.0.0.1")))
    try:
        with pytest.raises(ObjectsUnreadable, match="no InferencePool"):
            await running.start()
    finally:
        await running.stop()


def test_neither_pool_nor_file_is_said_with_both_ways_out() -> None:
    result = CliRunner().invoke(command, [])

    assert result.exit_code == 2
    assert "--pool NS/NAME" in result.output
    assert "--objects FILE" in result.output
