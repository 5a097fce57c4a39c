"""What ``make lint`` asks of the crates: a planted one with a wrong licence or a banned name is refused."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("inference_rollouts_native", reason="the native data path is not built here")

from tools.native import NATIVE, PLATFORMS, NativeBuildError, check_crates

if shutil.which("cargo") is None:
    pytest.skip("cargo is not on the PATH", allow_module_level=True)


def plant(folder: Path, name: str, version: str, terms: str) -> Path:
    """A copy of the workspace whose core needs one crate more."""
    workspace = folder / "native"
    shutil.copytree(NATIVE, workspace, ignore=shutil.ignore_patterns("target"))
    crate = workspace / "planted"
    (crate / "src").mkdir(parents=True)
    (crate / "src" / "lib.rs").touch()
    about = f'name = "{name}"\nversion = "{version}"\nedition = "2024"\n{terms}\npublish = false\n'
    (crate / "Cargo.toml").write_text(f"[package]\n{about}", "utf-8")
    core = workspace / "core" / "Cargo.toml"
    needed = f'planted = {{ package = "{name}", path = "../planted" }}\n'
    core.write_text(core.read_text("utf-8").replace("[dependencies]\n", f"[dependencies]\n{needed}"), "utf-8")
    write_lock = ["cargo", "update", "--quiet", "--offline", "--workspace"]
    subprocess.run(write_lock, cwd=workspace, check=True)
    return workspace


@pytest.mark.parametrize(
    ("name", "version", "terms", "said"),
    [
        ("planted", "1.0.0", 'license = "MIT AND GPL-3.0-only"', "license is not explicitly allowed"),
        ("planted", "1.0.0", "", "planted = 1.0.0 is unlicensed"),
        ("openssl-sys", "1.0.0", 'license = "MIT"', "crate 'openssl-sys = 1.0.0' is explicitly banned"),
        ("memchr", "1.0.0", 'license = "MIT"', "found 2 duplicate entries for crate 'memchr'"),
    ],
)
def test_a_crate_that_may_not_be_used_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, version: str, terms: str, said: str
) -> None:
    with pytest.raises(NativeBuildError, match="cargo-deny"):
        check_crates(plant(tmp_path, name, version, terms))
    assert said in capfd.readouterr().err


def test_one_that_may_be_used_is_not(tmp_path: Path) -> None:
    check_crates(plant(tmp_path, "planted", "1.0.0", 'license = "MIT OR GPL-3.0-only"'))


def test_the_crates_of_every_platform_are_looked_at() -> None:
    targets = tomllib.loads((NATIVE / "deny.toml").read_text("utf-8"))["graph"]["targets"]
    wanted = {
        f"{machine}-unknown-linux-{libc}" for machine in ("x86_64", "aarch64") for libc in PLATFORMS.values()
    }
    assert wanted <= set(targets)
