"""Installs vLLM for the CPU into the cache, once, from the lock beside this file."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rollouts.lab.cache import cache_folder

__all__ = ["VERSION", "VllmInstallError", "installed", "vllm_python"]

VERSION = "0.32.0"
_HERE = Path(__file__).resolve().parent
_LOCK = _HERE / "requirements.lock"
_SECONDS = 60 * 60


class VllmInstallError(Exception):
    """It cannot be installed; the text says what pip said."""


def _folder() -> Path:
    """Where it is, installed or not: one folder per lock."""
    return cache_folder() / "vllm" / hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:16]


def installed() -> Path | None:
    """Its Python, None where it is not installed."""
    folder = _folder()
    return folder / "bin" / "python" if (folder / "complete").exists() else None


def vllm_python(say: Callable[[str], None] = print) -> Path:
    """The Python that can import vLLM; installs it where need be. Raises VllmInstallError."""
    if found := installed():
        return found
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # dies with its holder
        if found := installed():
            return found
        say(
            f"installing vLLM {VERSION} for the CPU into {folder}: 2.5 GB to download, 6 GB on the disk, once"
        )
        begin = time.monotonic()
        _run(sys.executable, "-m", "venv", str(folder))
        python = folder / "bin" / "python"
        _run(
            str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(_LOCK)
        )
        (folder / "complete").touch()
    say(f"installed vLLM {VERSION} in {time.monotonic() - begin:.0f} s")
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise VllmInstallError(f"{' '.join(command)} failed:\n{tail}")
