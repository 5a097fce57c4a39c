"""Which data path runs, and what is said where the native one is missing."""

import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from rollouts.picker import datapath
from rollouts.picker.datapath import DataPath, choose

ROOT = Path(__file__).resolve().parents[3]


def test_python_is_taken_where_it_is_asked_for() -> None:
    assert choose(DataPath.PYTHON) is DataPath.PYTHON


def test_a_missing_native_path_is_said_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datapath, "MODULE", "not_installed_anywhere")

    with pytest.raises(
        ValueError, match=r"not installed: pip install 'inference-rollouts\[native\]'.*--data-path python"
    ):
        choose(DataPath.NATIVE)
    with capture_logs() as logs:
        assert choose(DataPath.AUTO) is DataPath.PYTHON
    assert "is not installed" in logs[0]["reason"]


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension that is there, as for another processor, and cannot be loaded."""
    suffix = EXTENSION_SUFFIXES[-1]
    (tmp_path / f"built_for_another{suffix}").write_bytes(b"\x7fELF of another machine")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(datapath, "MODULE", "built_for_another")


@pytest.mark.usefixtures("broken")
def test_a_native_path_that_cannot_be_loaded_is_said() -> None:
    with pytest.raises(ValueError, match=r"installed but cannot be loaded here.*--data-path python"):
        choose(DataPath.NATIVE)


@pytest.mark.usefixtures("broken")
def test_auto_falls_back_from_one_that_cannot_be_loaded_and_says_why() -> None:
    with capture_logs() as logs:
        assert choose(DataPath.AUTO) is DataPath.PYTHON

    assert [entry["event"] for entry in logs] == ["native_data_path_unavailable"]
    assert "cannot be loaded here" in logs[0]["reason"]


def test_one_of_another_version_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade of one of the two distributions, or an image that has a layer of the release before."""
    (tmp_path / "of_the_release_before.py").write_text('__version__ = "0.0.1"')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(datapath, "MODULE", "of_the_release_before")

    with pytest.raises(ValueError, match=r"is of version 0\.0\.1 and the picker of .*--data-path python"):
        choose(DataPath.NATIVE)
    with capture_logs() as logs:
        assert choose(DataPath.AUTO) is DataPath.PYTHON
    assert "is of version 0.0.1" in logs[0]["reason"]


@pytest.mark.skipif(find_spec(datapath.MODULE) is None, reason="the native data path is not built here")
def test_an_installed_native_path_is_taken() -> None:
    assert choose(DataPath.NATIVE) is choose(DataPath.AUTO) is DataPath.NATIVE


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_without_cargo_the_build_goes_on_but_not_in_ci(tmp_path: Path, ci: str, code: int) -> None:
    environment = {"PATH": str(tmp_path), "CI": ci}
    command = [sys.executable, "-m", "tools.native", "build"]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == code
    assert "cargo is not on the PATH" in ended.stdout + ended.stderr
    assert "Python data path" in ended.stdout + ended.stderr
