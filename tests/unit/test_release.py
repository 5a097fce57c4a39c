"""A release is cut by one command: from a clone, without network, as a person would."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from tools.release import NATIVE_FILES, ReleaseError, krew_archive, krew_manifest, new_texts, release, sbom

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {
    "pyproject.toml": '[project]\nname = "x"\nversion = "0.1.0"\n',
    "charts/inference-rollouts/Chart.yaml": 'apiVersion: v2\nversion: 0.1.0\nappVersion: "0.1.0"\n',
    "CHANGELOG.md": "# Changelog\n\n## Unreleased\n\n- News.\n\n## 0.0.9 (2026-01-01)\n\n- Old.\n",
}


def test_version_and_changelog_move_together():
    found = new_texts(TEXTS, "1.2.3", "2026-12-01")

    chart = yaml.safe_load(found["charts/inference-rollouts/Chart.yaml"])
    assert tomllib.loads(found["pyproject.toml"])["project"]["version"] == "1.2.3"
    assert (chart["version"], chart["appVersion"], chart["apiVersion"]) == ("1.2.3", "1.2.3", "v2")
    assert "## Unreleased\n\n## 1.2.3 (2026-12-01)\n\n- News.\n\n## 0.0.9" in found["CHANGELOG.md"]


def test_the_native_data_path_has_the_version_that_its_extra_asks_for():
    names = ("pyproject.toml", *NATIVE_FILES)
    texts = {**TEXTS, **{name: (ROOT / name).read_text(encoding="utf-8") for name in names}}
    found = {
        name: tomllib.loads(text)
        for name, text in new_texts(texts, "1.2.3", "2026-12-01").items()
        if name in names
    }
    ours = {crate["name"]: crate["version"] for crate in found["native/Cargo.lock"]["package"]}
    before = {
        crate["name"]: crate["version"] for crate in tomllib.loads(texts["native/Cargo.lock"])["package"]
    }

    assert found["pyproject.toml"]["project"]["optional-dependencies"]["native"] == [
        "inference-rollouts-native==1.2.3"
    ]
    assert found["native/Cargo.toml"]["workspace"]["package"]["version"] == "1.2.3"
    assert found["native/python/pyproject.toml"]["project"]["version"] == "1.2.3"
    assert {name for name, version in ours.items() if version != before[name]} == {
        "rollouts-core",
        "rollouts-python",
        "rollouts-server",
    }


@pytest.mark.parametrize(
    ("version", "log", "words"),
    [
        ("1.2", None, "is not X.Y.Z"),
        ("0.0.8", None, "is older than 0.1.0"),
        (
            "0.1.0",
            "# Changelog\n\n## Unreleased\n\n- A.\n\n## 0.1.0 (2026-01-01)\n",
            "in CHANGELOG.md already",
        ),
        (
            "0.2.0",
            "# Changelog\n\n## Unreleased\n\n## 0.1.0 (2026-01-01)\n\n- A.\n",
            "nothing stands under Unreleased",
        ),
    ],
)
def test_what_cannot_be_released_is_said_before_anything_is_written(version, log, words):
    with pytest.raises(ReleaseError, match=words):
        new_texts({**TEXTS, **({"CHANGELOG.md": log} if log else {})}, version, "2026-12-01")


def test_the_sbom_lists_every_locked_package_once():
    lock = (ROOT / "requirements" / "runtime.lock").read_text(encoding="utf-8")
    found = sbom(lock, "1.0.0")

    names = [one["purl"] for one in found["components"]]
    assert len(names) == len(set(names)) == sum("==" in line for line in lock.splitlines())
    assert [one["name"] for one in found["components"] if not one["externalReferences"]] == []
    assert "pkg:pypi/aiohttp@" in " ".join(names)


def test_krew_finds_the_plugin_that_it_is_told_of():
    archive = krew_archive("the license")
    manifest = krew_manifest("1.2.3", archive)

    (platform,) = manifest["spec"]["platforms"]
    with tarfile.open(fileobj=io.BytesIO(archive)) as unpacked:
        member = unpacked.getmember(platform["bin"])
    assert member.mode & 0o111
    assert platform["sha256"] == hashlib.sha256(krew_archive("the license")).hexdigest()
    assert manifest["spec"]["version"] == "v1.2.3"


def test_without_cargo_nothing_is_released_unless_the_native_wheel_comes_from_elsewhere(
    tmp_path, monkeypatch
):
    """``pip install 'inference-rollouts[native]'`` of that version would find nothing to install."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ReleaseError, match=r"cargo is not on the PATH.*PURE=1"):
        release(tmp_path, "1.2.3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_release_is_cut_from_a_clone(tmp_path):
    clone, env = tmp_path / "clone", {**os.environ, "HOME": str(tmp_path)}
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": "a", f"GIT_{role}_EMAIL": "a@example.com"}

    def run(*command: str, where: Path = clone) -> str:
        return subprocess.run(
            command, cwd=where, env=env, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    run("git", "clone", "--quiet", "--no-tags", "--depth", "1", f"file://{ROOT}", str(clone), where=tmp_path)
    said = run(sys.executable, "-m", "tools.release", "7.0.0", "--pure")

    dist = clone / "dist"
    built = {file.name for file in dist.iterdir()}
    assert built >= {"inference_rollouts-7.0.0-py3-none-any.whl", "sbom.cdx.json", "krew.yaml", "SHA256SUMS"}
    assert "git push --follow-tags" in said
    assert run("git", "log", "-1", "--format=%s").strip() == "Release 7.0.0"
    assert run("git", "tag").split() == ["v7.0.0"]
    assert run("git", "status", "--porcelain", "--untracked-files=no") == ""
    run("sha256sum", "--check", "--quiet", "SHA256SUMS", where=dist)
    assert json.loads((dist / "sbom.cdx.json").read_text())["metadata"]["component"]["version"] == "7.0.0"
