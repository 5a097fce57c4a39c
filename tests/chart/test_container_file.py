"""The container build file: what it copies is there and let through, and everything it installs has a hash."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")
COPIED = [
    source
    for line in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE)
    for source in line.split()[:-1]
]


@pytest.mark.parametrize("source", COPIED)
def test_a_copied_path_exists_and_is_in_the_build_context(source: str) -> None:
    assert (ROOT / source).exists()
    rules = (ROOT / ".containerignore").read_text(encoding="utf-8").split()
    assert rules[0] == "*"
    assert any(fnmatch(source, rule.removeprefix("!")) for rule in rules if rule.startswith("!"))


def test_products_of_the_crates_stay_out_of_the_build_context() -> None:
    rules = (ROOT / ".containerignore").read_text(encoding="utf-8").split()
    assert rules.index("native/target") > rules.index("!native")  # the last that matches holds


def test_a_stage_copies_what_an_earlier_one_makes() -> None:
    made: dict[str, list[str]] = {}
    stage = ""
    for word, rest in _instructions():
        if word == "FROM":
            stage = rest.partition(" AS ")[2]
            made[stage] = []
        elif word == "RUN":
            made[stage] += re.findall(r"(?:venv|--target-dir) (/\S+)", rest)
        elif found := re.match(r"--from=(\w+) (\S+) ", rest):
            origin, path = found.groups()
            assert origin != stage
            assert any(Path(path).is_relative_to(folder) for folder in made[origin]), path


def test_the_base_images_are_new_enough_for_the_code() -> None:
    images = dict(re.findall(r"^ARG (\w+)=\S+:([\d.]+)-", TEXT, re.MULTILINE))
    python = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "requires-python"
    ]
    native = tomllib.loads((ROOT / "native" / "Cargo.toml").read_text(encoding="utf-8"))
    assert Version(images["PYTHON_IMAGE"]) in SpecifierSet(python)
    assert Version(images["RUST_IMAGE"]) >= Version(native["workspace"]["package"]["rust-version"])


def test_the_extension_is_called_what_cargo_calls_it() -> None:
    crate = tomllib.loads((ROOT / "native" / "python" / "Cargo.toml").read_text(encoding="utf-8"))["lib"][
        "name"
    ]
    assert f"/lib{crate}.so " in TEXT
    assert f"/{crate}.abi3.so" in TEXT


def test_the_build_tool_is_locked_with_hashes() -> None:
    lock = (ROOT / "requirements" / "dev.lock").read_text(encoding="utf-8")
    assert "setuptools==" in TEXT
    assert re.search(r"^setuptools==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE)


def test_every_installation_is_bound_to_hashes_or_to_our_own_wheel() -> None:
    installations = re.findall(r"pip (?:install|wheel) [^&\n]+", TEXT)
    assert len(installations) == 4
    assert all("--require-hashes" in line or "--no-deps" in line for line in installations)


def test_it_runs_our_command_as_nobody() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (entry,) = re.findall(r'^ENTRYPOINT \["(.+)"\]$', TEXT, re.MULTILINE)
    assert entry in project["scripts"]
    assert re.findall(r"^USER (.+)$", TEXT, re.MULTILINE) == ["65532:65532"]


def _instructions() -> list[tuple[str, str]]:
    """(word, rest) of each instruction, continued lines joined."""
    text = re.sub(r"\\\n", " ", "\n".join(line for line in TEXT.splitlines() if not line.startswith("#")))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


@pytest.mark.full
@pytest.mark.timeout(3000)
@pytest.mark.skipif(shutil.which("cargo") is None, reason="one stage builds the native data path")
def test_every_step_works_without_a_container(tmp_path: Path) -> None:
    """The stages one after the other in a folder for each, with its own root in place of ``/``.

    What this cannot see is what the base images lack; packages come from where pip's and cargo's settings say.
    """
    stages: dict[str, Path] = {}
    root = tmp_path

    def placed(text: str) -> str:
        return re.sub(r"(?<![\w./])/(?=(?:src|opt|tmp)\b)", f"{root}/", text)

    def run(command: str) -> str:
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=root / "src",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
        return done.stdout

    for word, rest in _instructions():
        if word == "FROM":
            root = tmp_path / f"stage-{len(stages)}"
            stages[rest.partition(" AS ")[2] or "last"] = root
            for folder in ("src", "opt", "tmp"):
                (root / folder).mkdir(parents=True)
            path = f"{Path(sys.executable).resolve().parent}:{os.environ['PATH']}"
            environment = {**os.environ, "PATH": path}
        elif word == "COPY":
            source, *sources, target = re.sub(r"^--from=\w+ ", "", rest).split()
            origin = stages[found[1]] if (found := re.match(r"--from=(\w+) ", rest)) else ROOT
            for one in (source, *sources):
                to = Path(placed(target)) if target.startswith("/") else root / "src" / target
                to = to / Path(one).name if target.endswith("/") else to
                to.parent.mkdir(parents=True, exist_ok=True)
                place = origin / one.removeprefix("/")
                if place.is_dir():
                    ignored = shutil.ignore_patterns("target", "__pycache__")
                    shutil.copytree(place.resolve(), to, dirs_exist_ok=True, symlinks=True, ignore=ignored)
                else:
                    shutil.copy(place, to)
        elif word == "RUN":
            run(placed(rest))
    build = stages["build"] / "opt" / "rollouts" / "bin"
    said = run(f"{build}/python -m rollouts.cli picker --help")
    assert "--data-path" in said
    assert run(f"{build}/python -c 'import inference_rollouts_native as n; print(n.__version__)'").strip()
