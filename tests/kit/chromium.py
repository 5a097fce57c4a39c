"""Where Chromium comes from: Debian's packages, unpacked into a cache folder and never installed.

First that is there: ``chromium`` on the path; the cache (``$XDG_CACHE_HOME/inference-rollouts/chromium``); the package
and what this machine lacks of its dependencies, by ``apt-get`` and ``dpkg -x``, which need no root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rollouts.lab.cache import cache_folder

__all__ = ["Chromium", "ChromiumMissingError", "find_chromium"]

_PROGRAM = Path("usr/lib/chromium/chromium")
_DOWNLOAD_SECONDS = 300
_APT = ("apt-get", "-o", "Debug::NoLocking=1", "-y", "--no-install-recommends")


class ChromiumMissingError(Exception):
    """There is no Chromium, and none could be had; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Chromium:
    """The program, and the folder that it was unpacked to (None: it is installed)."""

    program: Path
    unpacked: Path | None = None

    @property
    def env(self) -> dict[str, str]:
        """The environment that it starts in: what came with it is found there, libraries, fonts and their settings."""
        env = dict(os.environ)
        if self.unpacked is None:
            return env
        folders = (self.unpacked / "usr" / "lib").glob("*-linux-gnu")
        libraries = [folder / below for folder in folders for below in ("", "nss", "pulseaudio")]
        env["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
        fonts = self.unpacked / "etc" / "fonts"
        if fonts.is_dir():
            env |= {"FONTCONFIG_PATH": str(fonts), "XDG_DATA_HOME": str(self.unpacked / "usr" / "share")}
        return env


def find_chromium() -> Chromium:
    """Chromium, downloaded on the first call (100 MB). Raises ChromiumMissingError."""
    on_path = shutil.which("chromium")
    if on_path is not None:
        return Chromium(Path(on_path))
    cache = cache_folder() / "chromium"
    if not (cache / _PROGRAM).is_file():
        _unpack(cache)
    return Chromium(cache / _PROGRAM, cache)


def _unpack(cache: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise ChromiumMissingError("no chromium on the path, and no apt-get to download it: install Chromium")
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
        missing = _missing(folder)
        if not missing:
            _run(["apt-get", "update"], folder)  # an image without package lists; it needs root, and says so
            missing = _missing(folder)
        _run([*_APT, "download", *missing], folder)
        unpacked = Path(folder) / "unpacked"
        packages = sorted(Path(folder).glob("*.deb"))
        done = [_run(["dpkg", "-x", str(package), str(unpacked)], folder) is not None for package in packages]
        if not (missing and len(packages) == len(missing) and all(done)):
            raise ChromiumMissingError(
                "Debian's chromium could not be downloaded: run `apt-get update`, or install Chromium"
            )
        if not cache.exists():  # another process may have been faster
            unpacked.rename(cache)


def _missing(folder: str) -> list[str]:
    """Names of the packages that an installation would add."""
    told = _run([*_APT, "install", "--simulate", "chromium"], folder) or ""
    lines = [line.split() for line in told.splitlines()]
    return [words[1] for words in lines if len(words) > 1 and words[0] == "Inst"]


def _run(command: list[str], folder: str) -> str | None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, timeout=_DOWNLOAD_SECONDS, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
