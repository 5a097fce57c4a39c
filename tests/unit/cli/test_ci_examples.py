"""The CI examples of the docs, run by the shell that would run them: real git, a real API server's paths over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.api.parsing import COMMAND_ANNOTATION
from rollouts.objects import kinds
from tests.kit.served import ROLLOUT, Server, stored_status

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
PAUSED = stored_status()
ENDS = {code: stored_status(saying=said) for code, said in ((0, "promoteFull"), (1, "abort"))}
FILE = """\
apiVersion: inferencerollouts.dev/v1alpha1
kind: Rollout
metadata:
  name: mymodel
  namespace: default
  annotations:
    inferencerollouts.dev/commit: "0000000"
spec:
  target:
    pool: {name: v1}
  traffic:
    httpRoutes: [{name: route}]
  strategy:
    canary:
      steps: [{setWeight: 10}, {pause: {}}]
"""
OPTIONS = {"github": ["--noprofile", "--norc", "-eo", "pipefail"], "gitlab": ["-eo", "pipefail"]}
"""How either starts bash: GitHub's `shell: bash`, GitLab's runner."""


class Repository:
    """A clone in which CI works, its origin, which Argo CD or Flux reads, and the API server they write to."""

    def __init__(self, directory: Path, server: Server) -> None:
        self.server, self.clone, self._origin = server, directory / "clone", directory / "origin"
        who = {
            f"GIT_{role}_{what}": "ci@example.com"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._env = {**who, "PATH": path, "HOME": str(directory), "KUBECONFIG": str(server.kubeconfig)}
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self._origin), where=directory)
        self.git("clone", "--quiet", str(self._origin), str(self.clone), where=directory)
        (self.clone / "deploy").mkdir()
        (self.clone / "deploy" / "rollout.yaml").write_text(FILE, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=first")
        self.git("push", "--quiet", "origin", "HEAD:main")
        self._env["GITHUB_SHA"] = self.git("rev-parse", "HEAD").strip()

    def git(self, *words: str, where: Path | None = None) -> str:
        """What git says."""
        asked = ["git", *words]
        ended = subprocess.run(
            asked,
            cwd=where or self.clone,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return ended.stdout

    def sync(self) -> None:
        """Apply what is on main, as Argo CD and Flux do."""
        wanted = yaml.safe_load(self.git("show", "main:deploy/rollout.yaml", where=self._origin))
        patch = {"spec": wanted["spec"], "metadata": {"annotations": wanted["metadata"]["annotations"]}}
        self.server.patch(patch)

    def run(self, script: str, flavour: str, env: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start a script as the CI system does."""
        command = ["bash", *OPTIONS[flavour], "-c", script]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.clone, env={**self._env, **env}, stdout=pipe, stderr=pipe, text=True
        )


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    server = Server(tmp_path, name="mymodel")
    healthy = ENDS[0]
    server.within(
        lambda api: api.create(kinds.ROLLOUT, "default", {**ROLLOUT, **yaml.safe_load(FILE)}, manager="test")
    )
    server.patch_status({**healthy, "stable": {**healthy["stable"], "name": "v1"}, "observedGeneration": 1})
    yield Repository(tmp_path, server)
    server.stop()


def github(job: str) -> dict[str, str]:
    """Scripts of a job by name, but those that install."""
    steps = yaml.safe_load((EXAMPLES / "github-actions.yaml").read_text(encoding="utf-8"))["jobs"][job][
        "steps"
    ]
    return {step["name"]: step["run"] for step in steps if "run" in step and step["name"] != "Install"}


def gitlab(job: str) -> str:
    config = yaml.safe_load((EXAMPLES / "gitlab-ci.yaml").read_text(encoding="utf-8"))
    return "\n".join(config[job]["script"])


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    assert next((line for line in process.stdout if words in line), None) is not None, ended(process)


def test_github_asks_waits_for_the_pause_and_promotes(repository):
    scripts, server = github("ask"), repository.server
    code, said = ended(repository.run(scripts["Ask"], "github", {"TARGET": "v2"}))
    assert (code, "::error" in said) == (0, False)
    waiting = repository.run(scripts["Wait"], "github", {})
    wait_for(waiting, "waiting until commit")
    repository.sync()
    wait_for(waiting, "waiting for the controller")
    server.patch_status({**PAUSED, "observedGeneration": 2})
    assert ended(waiting)[0] == 0

    def controller(_: Any) -> None:
        """Stands in for the controller: the end of the steps is the answer to the command."""
        found = server.api.get(kinds.ROLLOUT, "default", "mymodel")
        raw = found["metadata"]["annotations"].get(COMMAND_ANNOTATION)
        if raw and found["status"].get("lastCommand", {}).get("raw") != raw:
            record = {
                **json.loads(raw),
                "raw": raw,
                "result": "Done",
                "message": "promoted",
                "at": "2026-01-01T00:00:00Z",
            }
            server.patch_status({**ENDS[0], "observedGeneration": 2, "lastCommand": record})

    server.within(lambda api: api.observers.append(controller))
    code, said = ended(repository.run(github("promote")["Promote"], "github", {}))

    assert (code, "promote done: promoted" in said, "Healthy" in said) == (0, True, True)


@pytest.mark.parametrize("code", ENDS)
def test_gitlab_waits_for_the_target_of_the_merged_file(repository, code):
    repository.clone.joinpath("deploy/rollout.yaml").write_text(FILE.replace("v1}", "v2}"), encoding="utf-8")
    repository.git("commit", "--quiet", "--all", "--message=v2")
    repository.git("push", "--quiet")
    assert ended(repository.run(gitlab("lint"), "gitlab", {}))[0] == 0
    waiting = repository.run(gitlab("rollout"), "gitlab", {})
    wait_for(waiting, "waiting until target v2 is asked for: now it is target v1")
    repository.sync()
    wait_for(waiting, "waiting for the controller")
    repository.server.patch_status({**ENDS[code], "observedGeneration": 2})

    assert ended(waiting)[0] == code
