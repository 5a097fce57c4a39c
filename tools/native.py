"""Builds, checks and packs ``native/``, the picker's data path in Rust, where cargo is.

    python -m tools.native build|lint|test|miri|wheel [PLATFORM]

``wheel`` is for this machine's libc, or, with the package ``ziglang`` (from PyPI, for this alone) as linker, for a
PLATFORM: ``manylinux2014``, which runs on any glibc since 2.17, or ``musllinux_1_2`` (Alpine).
Without cargo each says so and ends well, for the picker then runs on its Python path; in CI (the variable ``CI``) it
is required, and fails. Build products are kept in the user's cache (or ``CARGO_TARGET_DIR``), so that a fresh checkout
in the same place compiles the crates of the project alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from platform import machine

from rollouts.lab.cache import cache_folder

__all__ = ["COMMANDS", "PLATFORMS", "NativeBuildError", "check_crates", "has_miri", "make_wheel", "miri"]

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "native"
_PLACE = hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]  # crates of two checkouts have the same names
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or cache_folder() / "native" / _PLACE)
WHEELS = ROOT / "build" / "wheels"
PLATFORMS = {"manylinux2014": "gnu", "musllinux_1_2": "musl"}
"""Those of wheels for other machines than this, with their libc."""
_FOR_BUILDS = {
    "CARGO_TARGET_DIR": str(TARGET),
    "CARGO_INCREMENTAL": "0",
    "CARGO_ZIGBUILD_PYTHON_PATH": sys.executable,  # whose ziglang links; else that of the first python3 on the PATH
}


class NativeBuildError(Exception):
    """A step failed, or cargo is not there where it has to be."""


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _run(*command: str | Path, folder: Path = NATIVE, **variables: str) -> None:
    """Raises NativeBuildError when it does not end well."""
    line = [str(word) for word in command]
    ended = subprocess.run(line, cwd=folder, env={**os.environ, **_FOR_BUILDS, **variables}, check=False)
    if ended.returncode:
        raise NativeBuildError(f"`{' '.join(line)}` in native/ ended with {ended.returncode}")


def _tool(name: str) -> Path:
    """A command that the development lock brings into the virtual environment."""
    return Path(sys.executable).parent / name


def make_wheel(folder: Path, platform: str = "") -> Path:
    """The abi3 wheel of the extension, into ``folder``, for this machine or a platform. Raises NativeBuildError."""
    command: list[str | Path] = [_tool("maturin"), "build", "--quiet", "--release", "--locked"]
    if platform:
        if find_spec("ziglang") is None:
            raise NativeBuildError(f"a wheel for {platform} is linked by zig: pip install ziglang")
        command += ["--zig", "--compatibility", platform]
        if PLATFORMS[platform] == "musl":
            command += ["--target", f"{machine()}-unknown-linux-musl"]
    with tempfile.TemporaryDirectory() as fresh:
        _run(*command, "--manifest-path", "python/Cargo.toml", "--out", fresh)
        (wheel,) = Path(fresh).glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, folder / wheel.name))


def build() -> None:
    """Build the extension and install it into this environment."""
    begun = time.monotonic()
    _say("building the native data path of the picker: once per change of native/, about two minutes")
    wheel = make_wheel(TARGET / "wheels")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    ended = subprocess.run([*command, "--force-reinstall", str(wheel)], check=False)
    if ended.returncode:
        raise NativeBuildError(f"pip did not install {wheel.name}")
    _say(f"native data path built and installed in {time.monotonic() - begun:.0f} s")


def lint() -> None:
    """Style, clippy without a warning, licences, sources and bans of all crates."""
    _run("cargo", "fmt", "--check")
    _run("cargo", "clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings")
    _run("cargo", "fetch", "--quiet", "--locked")
    check_crates()


def check_crates(folder: Path = NATIVE) -> None:
    """What ``deny.toml`` asks of the crates of a workspace, from what cargo has fetched. Raises NativeBuildError."""
    deny = (_tool("cargo-deny"), "--log-level", "error", "--offline", "--locked")
    _run(*deny, "check", "bans", "licenses", "sources", folder=folder)


def test() -> None:
    """The tests of the crates."""
    _run("cargo", "test", "--quiet", "--locked", "-p", "rollouts-core", "-p", "rollouts-server")


def has_miri() -> bool:
    """Whether rustup has a nightly toolchain with Miri."""
    asked = ["cargo", "+nightly", "miri", "--version"]
    return (
        bool(shutil.which("cargo")) and not subprocess.run(asked, capture_output=True, check=False).returncode
    )


def miri(*tests: str, folder: Path = NATIVE) -> None:
    """The tests of the core in Miri, which sees undefined behaviour of the crates below. Raises NativeBuildError."""
    if not has_miri():
        raise NativeBuildError("no Miri: rustup toolchain install nightly --component miri,rust-src")
    _run(
        "cargo",
        "+nightly",
        "miri",
        "test",
        "--quiet",
        "--locked",
        "-p",
        "rollouts-core",
        *tests,
        folder=folder,
        MIRIFLAGS="-Zmiri-disable-isolation",  # the recorded streams are in a file
    )


def wheel(platform: str = "") -> None:
    """The wheel for the extra ``native``, in ``build/wheels``."""
    make_wheel(WHEELS, platform)


COMMANDS: dict[str, Callable[..., None]] = {
    "build": build,
    "lint": lint,
    "test": test,
    "miri": miri,
    "wheel": wheel,
}


def main(name: str, *more: str) -> None:
    """Run one command. Raises NativeBuildError; KeyError or TypeError for what it does not know."""
    command = COMMANDS[name]
    if shutil.which("cargo") is None:
        missing = f"cargo is not on the PATH: `{name}` leaves native/ out, and the picker runs on its Python data path"
        if os.environ.get("CI"):
            raise NativeBuildError(f"{missing}; CI needs it")
        _say(f"{missing} (docs/native.md)")
        return
    command(*more)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except NativeBuildError as error:
        sys.exit(f"{error}")
    except (KeyError, TypeError):
        sys.exit(
            f"usage: python -m tools.native {'|'.join(COMMANDS)}; a wheel may be for {' or '.join(PLATFORMS)}"
        )
