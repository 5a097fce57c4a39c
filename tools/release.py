"""``make release VERSION=1.2.3``: version, changelog, wheels, SBOM, krew, checksums, commit and tag. Pushes nothing.

The wheel of the native data path is for the machine that releases; those for others come from ``make wheel``, and each
has its own SBOM of crates inside (PEP 770). ``--pure`` leaves it out, where another machine builds it.
SBOM: CycloneDX 1.6 (ECMA-424) of the locked runtime dependencies, which is what images are built of and tests run with.
krew: krew.sigs.k8s.io, "Plugin manifest"; its archive is a script that hands over to the installed command.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tools.native import NativeBuildError, make_wheel

__all__ = ["ReleaseError", "krew_archive", "krew_manifest", "new_texts", "sbom"]

NAME = "inference-rollouts"
NATIVE_FILES = ("native/Cargo.toml", "native/Cargo.lock", "native/python/pyproject.toml")
"""The extra ``native`` asks for the same version."""
HOME = "https://inferencerollouts.dev"
_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}")
_UNRELEASED = "## Unreleased\n"
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)((?:.*\\\n)?(?:\s+--hash=.*\n)*)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_SCRIPT = """\
#!/bin/sh
command -v rollouts >/dev/null && exec rollouts "$@"
echo "kubectl rollouts needs the command rollouts: pipx install inference-rollouts" >&2
exit 127
"""


class ReleaseError(Exception):
    """The release cannot be cut; the text says why and what to do."""


def new_texts(texts: dict[str, str], version: str, day: str) -> dict[str, str]:
    """The files of a release, by path, with its version and its part of the changelog. Raises ReleaseError."""
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"VERSION={version!r} is not X.Y.Z: write make release VERSION=1.2.3")
    project, chart, log = (
        texts["pyproject.toml"],
        texts["charts/inference-rollouts/Chart.yaml"],
        texts["CHANGELOG.md"],
    )
    (current,) = re.findall(r'^version = "(.+)"$', project, re.MULTILINE)
    if _numbers(version) < _numbers(current):
        raise ReleaseError(
            f"{version} is older than {current}, the version of pyproject.toml: choose a newer one"
        )
    if f"## {version} " in log:
        raise ReleaseError(f"{version} is in CHANGELOG.md already: choose a newer one")
    news = log.partition(_UNRELEASED)[2].partition("\n## ")[0].strip()
    if not news:
        raise ReleaseError("nothing stands under Unreleased in CHANGELOG.md: say what changed")
    native = {name: texts[name] for name in NATIVE_FILES if name in texts}
    return {
        "pyproject.toml": re.sub(
            r'(?m)^(version = "|native = \["inference-rollouts-native==)[^"]+', rf"\g<1>{version}", project
        ),
        **{name: native_version(text, version) for name, text in native.items()},
        "charts/inference-rollouts/Chart.yaml": re.sub(
            r'(?m)^(version: |appVersion: ")[^"\n]+', rf"\g<1>{version}", chart
        ),
        "CHANGELOG.md": log.replace(_UNRELEASED, f"{_UNRELEASED}\n## {version} ({day})\n", 1),
    }


def native_version(text: str, version: str) -> str:
    """A manifest or the lock of ``native/`` with our own crates and distribution at ``version``."""
    text = re.sub(r'(?m)^(name = "rollouts-\w+"\nversion = ")[^"]+', rf"\g<1>{version}", text)
    return re.sub(
        r'(?m)^(\[(?:workspace\.package|project)\]\n(?:name = .+\n)?version = ")[^"]+',
        rf"\g<1>{version}",
        text,
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall("[0-9]+", version)[:3])


def sbom(lock: str, version: str) -> dict[str, Any]:
    """The locked dependencies as a CycloneDX document."""
    root = {
        "type": "application",
        "name": NAME,
        "version": version,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    components = [_component(*found) for found in _LOCKED.findall(lock)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root},
        "components": components,
    }


def _component(name: str, version: str, more: str) -> dict[str, Any]:
    """A package; its files' hashes are references, as one component has one hash per algorithm and no wheel is all."""
    purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
    files = [
        {
            "type": "distribution",
            "url": f"https://pypi.org/project/{name}/{version}/",
            "hashes": [_sha256(one)],
        }
        for one in _HASH.findall(more)
    ]
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "externalReferences": files,
    }


def _sha256(content: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": content}


def krew_archive(license_text: str) -> bytes:
    """The plugin as krew unpacks it, the same bytes whenever it is made."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text, mode in (("kubectl-rollouts", _SCRIPT, 0o755), ("LICENSE", license_text, 0o644)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), mode
            archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def krew_manifest(version: str, archive: bytes) -> dict[str, Any]:
    """The manifest of the plugin ``rollouts`` for a krew index."""
    platform = {
        "selector": {"matchExpressions": [{"key": "os", "operator": "In", "values": ["linux", "darwin"]}]},
        "uri": f"{HOME}/releases/v{version}/kubectl-rollouts.tar",
        "sha256": hashlib.sha256(archive).hexdigest(),
        "bin": "kubectl-rollouts",
    }
    return {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "rollouts"},
        "spec": {
            "version": f"v{version}",
            "homepage": HOME,
            "shortDescription": "Progressive delivery of LLMs on Kubernetes",
            "description": "Shows, promotes and aborts rollouts of base models and LoRA adapters.\n",
            "caveats": "Needs the command: pipx install inference-rollouts\n",
            "platforms": [platform],
        },
    }


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _build(root: Path, version: str, *, native: bool) -> Iterator[Path]:
    """The files of the release, in an empty ``dist``."""
    dist = root / "dist"
    dist.mkdir(exist_ok=True)
    if any(dist.iterdir()):
        raise ReleaseError(f"{dist} holds files of another release: remove it")
    _run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(dist),
        ".",
    )
    if native:
        make_wheel(dist)
    archive = krew_archive((root / "LICENSE").read_text(encoding="utf-8"))
    bom = sbom((root / "requirements/runtime.lock").read_text(encoding="utf-8"), version)
    (dist / "sbom.cdx.json").write_text(json.dumps(bom, indent=2), encoding="utf-8")
    (dist / "kubectl-rollouts.tar").write_bytes(archive)
    (dist / "krew.yaml").write_text(
        yaml.safe_dump(krew_manifest(version, archive), sort_keys=False), encoding="utf-8"
    )
    yield from sorted(dist.iterdir())


def release(root: Path, version: str, *, native: bool = True) -> None:
    """Write, build, commit and tag. Raises ReleaseError before anything is written."""
    if native and shutil.which("cargo") is None:
        raise ReleaseError(
            "cargo is not on the PATH, and the extra `native` asks for a wheel of this version: "
            "install it, or leave the wheel to another machine with PURE=1"
        )
    if _run("git", "status", "--porcelain"):
        raise ReleaseError("the working tree has changes: commit or put them away first")
    names = ("pyproject.toml", "charts/inference-rollouts/Chart.yaml", "CHANGELOG.md", *NATIVE_FILES)
    texts = {name: (root / name).read_text(encoding="utf-8") for name in names}
    for name, text in new_texts(texts, version, datetime.now(UTC).date().isoformat()).items():
        (root / name).write_text(text, encoding="utf-8")
    built = list(_build(root, version, native=native))
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in built)
    (root / "dist" / "SHA256SUMS").write_text(sums, encoding="utf-8")
    _run("git", "commit", "--quiet", "--all", "--message", f"Release {version}")
    _run("git", "tag", "--annotate", f"v{version}", "--message", f"Release {version}")
    sys.stdout.write(
        f"{sums}Committed and tagged v{version}. Publish: git push --follow-tags, and what is in dist.\n"
    )


if __name__ == "__main__":
    try:
        versions = [word for word in sys.argv[1:] if word != "--pure"]
        release(Path.cwd(), "".join(versions[:1]), native="--pure" not in sys.argv)
    except (ReleaseError, NativeBuildError) as error:
        sys.exit(f"{error}")
