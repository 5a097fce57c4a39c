"""The wheel of the native data path: what is in it, and for which machines it can be built."""

from __future__ import annotations

import json
import tomllib
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("inference_rollouts_native", reason="the native data path is not built here")

from tools.native import NATIVE, PLATFORMS, NativeBuildError, make_wheel


def test_it_brings_the_list_of_its_crates() -> None:
    files = distribution("inference-rollouts-native").files or []
    (bom,) = [file for file in files if file.name.endswith(".cyclonedx.json")]
    listed = {one["name"]: one["version"] for one in json.loads(bom.read_text())["components"]}
    locked = {
        (crate["name"], crate["version"])
        for crate in tomllib.loads((NATIVE / "Cargo.lock").read_text("utf-8"))["package"]
    }

    assert set(listed.items()) <= locked
    assert {"rollouts-core", "rollouts-server", "rustls", "h2", "zstd-sys"} <= set(listed)


@pytest.mark.skipif(find_spec("ziglang") is not None, reason="ziglang is installed here")
@pytest.mark.parametrize("platform", PLATFORMS)
def test_one_for_other_machines_says_what_it_needs(tmp_path: Path, platform: str) -> None:
    with pytest.raises(NativeBuildError, match=f"{platform} is linked by zig: pip install ziglang"):
        make_wheel(tmp_path, platform)


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.skipif(find_spec("ziglang") is None, reason="needs `pip install ziglang`")
@pytest.mark.parametrize("platform", PLATFORMS)
def test_one_is_built_for_other_machines(tmp_path: Path, platform: str) -> None:
    assert platform in make_wheel(tmp_path, platform).name
