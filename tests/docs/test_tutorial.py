"""The tutorial, typed into a shell from beginning to end; then the README's first Rollout, in the same lab."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rollouts.lab.gateway.envoy import EnvoyNotInstalledError, find_envoy
from tests.docs.pages import ROOT, blocks

pytestmark = [pytest.mark.gateway, pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a checkout, in which the reader may write."""
    try:
        find_envoy()
    except EnvoyNotInstalledError as error:
        pytest.skip(str(error))
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    folder = tmp_path / "checkout"
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in (".git", "build"):
            (folder / entry.name).symlink_to(entry)
    return folder


def script(page: Path, *, before_the_end: str) -> str:
    """All commands of the page, its files written where they are shown; ``before_the_end`` ahead of the last block."""
    parts: list[str] = []
    for block in blocks(page):
        if block.title:
            parts.append(f"cat > {block.title} <<'END-OF-FILE'\n{block.text}END-OF-FILE")
        elif block.language == "sh":
            parts.append(block.text)
    return "\n".join(["set -euo pipefail", *parts[:-1], before_the_end, parts[-1]])


def first_rollout_of_the_readme() -> str:
    """Its manifest as it is written, applied, and its one line changed."""
    manifest = next(block.text for block in blocks(ROOT / "README.md") if "kind: Rollout" in block.text)
    assert yaml.safe_load(manifest)["metadata"]["name"] == "mymodel"
    return f"""
echo "--- README"
cat > readme.yaml <<'END-OF-FILE'
{manifest}END-OF-FILE
kubectl apply -f readme.yaml
rollouts status mymodel --watch --timeout 60s
sed -i s/mymodel-pool-v1/mymodel-pool-v2/ readme.yaml
kubectl delete rollout travelhelper
kubectl patch rollout mymodel --type merge -p '{{"spec":{{"rollbackWindow":null,"allowMissingModels":true}}}}'
kubectl apply -f readme.yaml
kubectl wait rollout/mymodel --for=jsonpath='{{.status.phase}}'=Paused --timeout=90s
rollouts get
"""


def test_the_tutorial_ends_with_an_aborted_and_a_promoted_rollout(checkout: Path, tmp_path: Path):
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "COLUMNS": "200",
    }
    text = script(ROOT / "docs" / "tutorial.md", before_the_end=first_rollout_of_the_readme())
    try:
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=checkout,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=400,
            check=False,
        )
    finally:
        subprocess.run(
            [sys.executable, "-m", "rollouts.cli", "lab", "down"],
            env=environment,
            cwd=ROOT,
            check=False,
            timeout=60,
        )
    said = done.stdout
    assert done.returncode == 0, said
    tutorial, _, readme = said.partition("--- README")
    assert "Aborted mymodel-pool-v2" in tutorial
    assert "exit status 1" in tutorial
    assert "mymodel-pool-v1 100\nmymodel-pool-v2 0\n" in tutorial
    assert "Healthy: mymodel-pool-v2" in tutorial
    assert '[{"name":"travel-helper-v2","weight":100}]' in tutorial
    assert "Paused" in readme
    assert "1%" in readme
