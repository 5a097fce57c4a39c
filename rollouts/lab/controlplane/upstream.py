"""CRDs of the Gateway API, its Inference Extension, Istio and LeaderWorkerSet: from their Go modules, not from here."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import structlog
import yaml

from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import KindNotServed, NotFound
from rollouts.lab.controlplane import minimal
from rollouts.lab.controlplane.errors import ControlPlaneError
from rollouts.objects import kinds

__all__ = [
    "CRDS",
    "EVERYTHING",
    "POLICIES",
    "POLICY_BINDINGS",
    "Upstream",
    "install_crds",
    "install_upstream_crds",
    "upstream_crds",
]

Object = dict[str, Any]
CRDS = kinds.CRD
_ADMISSION = "admissionregistration.k8s.io"
POLICIES = Resource(
    _ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", namespaced=False
)
POLICY_BINDINGS = Resource(
    _ADMISSION,
    "v1",
    "validatingadmissionpolicybindings",
    "ValidatingAdmissionPolicyBinding",
    namespaced=False,
)
_log = structlog.get_logger(__name__)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The CRD of a LeaderWorkerSet has 1.2 MB."""
_EXTENSION = "sigs.k8s.io/gateway-api-inference-extension"
_DOWNLOAD_SECONDS = 300.0
_ESTABLISHED_SECONDS = 30.0


class Upstream(Enum):
    """Sets of CRDs. REWRITE_SPLIT and INFERENCE_V1 define the same InferenceModelRewrite differently."""

    GATEWAY = "gateway"
    INFERENCE_ALPHA = "inference-alpha"
    INFERENCE_V1 = "inference-v1"
    REWRITE_SPLIT = "rewrite-split"
    LLM_D = "llm-d"
    ISTIO = "istio"
    LEADER_WORKER_SET = "leader-worker-set"


EVERYTHING = (Upstream.GATEWAY, Upstream.INFERENCE_ALPHA, Upstream.INFERENCE_V1)
# Module, folder in it, and how the names of the wanted files end. The group llm-d.ai has no module.
_MODULES: Mapping[Upstream, tuple[str, str, tuple[str, ...]]] = {
    Upstream.GATEWAY: (
        "sigs.k8s.io/gateway-api@v1.5.1",
        "config/crd/standard",
        ("_gatewayclasses.yaml", "_gateways.yaml", "_httproutes.yaml", "_referencegrants.yaml"),
    ),
    Upstream.INFERENCE_ALPHA: (
        f"{_EXTENSION}@v0.5.1",
        "config/crd/bases",
        ("_inferencepools.yaml", "_inferencemodels.yaml"),
    ),
    Upstream.INFERENCE_V1: (
        f"{_EXTENSION}@v1.5.0",
        "config/crd/bases",
        (
            "inference.networking.k8s.io_inferencepools.yaml",
            "_inferencemodelrewrites.yaml",
            "_inferenceobjectives.yaml",
        ),
    ),
    Upstream.REWRITE_SPLIT: (
        f"{_EXTENSION}@v1.2.1",
        "config/crd/bases",
        ("_inferencemodelrewrites.yaml",),
    ),
    Upstream.ISTIO: ("istio.io/api@v1.31.4", "kubernetes", ("customresourcedefinitions.gen.yaml",)),
    Upstream.LEADER_WORKER_SET: ("sigs.k8s.io/lws@v0.7.0", "config/crd/bases", ("_leaderworkersets.yaml",)),
}
_MINIMAL: Mapping[Upstream, tuple[Object, ...]] = {
    Upstream.GATEWAY: minimal.GATEWAY,
    Upstream.INFERENCE_ALPHA: minimal.INFERENCE_ALPHA,
    Upstream.INFERENCE_V1: minimal.INFERENCE_V1,
    Upstream.REWRITE_SPLIT: minimal.REWRITE_SPLIT,
    Upstream.LLM_D: minimal.LLM_D,
    Upstream.ISTIO: minimal.ISTIO,
    Upstream.LEADER_WORKER_SET: minimal.LEADER_WORKER_SET,
}


async def _module_folder(module: str) -> Path:
    """Where Go keeps a module, downloaded if need be. Raises ControlPlaneError."""
    go = shutil.which("go")
    if not go:
        raise ControlPlaneError("Go is not on the PATH")
    # Outside of any module, so that no go.mod of ours has a say.
    process = await asyncio.create_subprocess_exec(
        go,
        "mod",
        "download",
        "-json",
        module,
        cwd="/",
        env={**os.environ, "GOFLAGS": "-mod=mod"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_DOWNLOAD_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise ControlPlaneError(f"{module} did not arrive within {_DOWNLOAD_SECONDS:g} s") from None
    if process.returncode:
        reason = (output or errors).decode(errors="replace").strip()[-500:]
        raise ControlPlaneError(f"go mod download {module} failed: {reason}")
    return Path(json.loads(output)["Dir"])


def _crds_of(folder: Path, endings: tuple[str, ...]) -> list[Object]:
    found: list[Object] = []
    for ending in endings:
        files = sorted(file for file in folder.iterdir() if file.name.endswith(ending))
        if not files:
            raise ControlPlaneError(f"{folder} has no file *{ending}")
        for file in files:
            documents = yaml.load_all(file.read_text(encoding="utf-8"), _LOADER)  # a safe one
            found += [item for item in documents if item and item["kind"] == CRDS.kind]
    return found


async def upstream_crds(which: Upstream) -> list[Object]:
    """The CRDs of one set: upstream's own where Go can fetch them, else minimal ones, with a warning."""
    if which not in _MODULES:
        return list(_MINIMAL[which])
    module, folder, endings = _MODULES[which]
    try:
        return _crds_of(await _module_folder(module) / folder, endings)
    except ControlPlaneError as error:
        _log.warning("upstream_crds_replaced_by_minimal_ones", module=module, reason=str(error))
        return list(_MINIMAL[which])


async def install_crds(client: KubeClient, crds: Iterable[Mapping[str, Any]]) -> None:
    """Server-side-apply CRDs and wait until each is established. Raises KubeError, ControlPlaneError."""
    names: list[str] = []
    for crd in crds:
        body = {key: value for key, value in crd.items() if key != "status"}
        names.append(str(body["metadata"]["name"]))
        await client.patch(CRDS, None, names[-1], body, kind=PatchKind.APPLY, force=True)
    try:
        async with asyncio.timeout(_ESTABLISHED_SECONDS):
            for name in names:
                while not await _established(client, name):  # noqa: ASYNC110 - the server's state
                    await asyncio.sleep(0.05)
    except TimeoutError:
        raise ControlPlaneError(f"{name} was not established within {_ESTABLISHED_SECONDS:g} s") from None


async def _established(client: KubeClient, name: str) -> bool:
    """Whether the API server serves the kind, in discovery's word: the condition comes a little early."""
    crd = await client.get(CRDS, None, name)
    conditions = (crd.get("status") or {}).get("conditions") or ()
    if not any(item["type"] == "Established" and item["status"] == "True" for item in conditions):
        return False
    spec = crd["spec"]
    served = [item["name"] for item in spec["versions"] if item["served"]]
    resource = Resource(spec["group"], served[0], spec["names"]["plural"], spec["names"]["kind"])
    try:
        await client.list_page(resource, None, limit=1)
    except (NotFound, KindNotServed):
        return False
    return True


async def install_upstream_crds(client: KubeClient, which: Collection[Upstream] = EVERYTHING) -> None:
    """Install the named sets. Raises KubeError, ControlPlaneError."""
    for item in which:
        await install_crds(client, await upstream_crds(item))
