"""A cluster of plain objects: an in-memory API server, pods, a gateway that reports, and people who edit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from rollouts.api.crds import all_crds
from rollouts.api.parsing import COMMAND_ANNOTATION
from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.errors import KindNotServed, NotFound
from rollouts.lab.controlplane import minimal
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.lab.kserve import answer
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.objects.llm_services import pods_of_service, read_llm_service
from rollouts.objects.pods import METRICS_PORT_ANNOTATION, is_ready
from rollouts.runtime.clock import Clock
from tests.kit.clock import Timeline, VirtualClock
from tests.kit.faults.deployments import Deployments

__all__ = ["CONTROLLER", "GATEWAY", "NAMESPACE", "POOL_GROUP", "USER", "Cluster", "installed_crds"]

Object = dict[str, Any]

NAMESPACE = "default"
CONTROLLER = "inference-rollouts"
GATEWAY = "envoy-gateway"
KSERVE = "llmisvc-controller-manager"
USER = "kubectl"
POOL_GROUP = kinds.POOL_X.group


@functools.cache
def installed_crds() -> tuple[Object, ...]:
    """What the simulated API server serves."""
    upstream = (*minimal.GATEWAY, *minimal.INFERENCE_ALPHA, *minimal.INFERENCE_V1, *minimal.KSERVE)
    return (*all_crds(), *upstream)


def as_it_is(crd: Object) -> Object:
    """No change of a CRD."""
    return crd


@functools.cache
def _server(reshape: Callable[[Object], Object]) -> MemoryApi:
    """A server with nothing but the CRDs, to be copied: installing them took a seventh of a plan's time."""
    api = MemoryApi(clock=VirtualClock(Timeline()))
    for crd in installed_crds():
        api.create(CRDS, None, reshape(crd), manager=USER)
    return api


class Cluster:
    """The API server's content and the actors around the controller."""

    def __init__(self, clock: Clock, *, reshape: Callable[[Object], Object] = as_it_is) -> None:
        """``reshape`` changes every CRD before it is installed; each is kept for ever, so have few of them."""
        self.clock = clock
        self.api = _server(reshape).copy(clock=clock)
        self.gateway_works = True
        self.kserve_works = True
        """Whether KServe's controller says what it made of LLMInferenceServices."""
        self.collects_garbage = True
        """Whether what a deleted Rollout owned goes with it; a real collector takes its time."""
        self.deployments: Deployments | None = None
        """Makes the pods of Deployments, where a scenario has some."""
        self.more_labels: dict[str, dict[str, str]] = {}
        """Of the pods of a release."""
        self._reacted_to = -1
        self._stopped: dict[str, int] = {}
        """By release: the Ready pods that a service of KServe had when it was stopped."""

    # --- reading ---

    def get(self, resource: Resource, name: str) -> Object | None:
        """One object, or None."""
        try:
            return self.api.get(resource, NAMESPACE, name)
        except (NotFound, KindNotServed):
            return None

    def all(self, resource: Resource) -> list[Object]:
        """Every object of a kind, by name."""
        return self.api.list_page(resource, None).items

    # --- what people and tools do ---

    def create(self, resource: Resource, obj: Mapping[str, Any], *, manager: str = USER) -> Object:
        """Create an object."""
        return self.api.create(resource, NAMESPACE, obj, manager=manager)

    def merge(self, resource: Resource, name: str, patch: Mapping[str, Any], *, manager: str = USER) -> None:
        """Merge-patch an object; nothing happens when it does not exist."""
        if self.get(resource, name) is not None:
            self.api.patch(
                resource, NAMESPACE, name, patch, content_type=PatchKind.MERGE.value, manager=manager
            )

    def write_status(self, resource: Resource, name: str, status: Any, *, manager: str = USER) -> None:
        """Merge-patch an object's status."""
        self.api.patch(
            resource,
            NAMESPACE,
            name,
            {"status": status},
            content_type=PatchKind.MERGE.value,
            manager=manager,
            subresource="status",
        )

    def delete(self, resource: Resource, name: str, *, manager: str = USER) -> None:
        """Delete an object if it exists."""
        if self.get(resource, name) is not None:
            self.api.delete(resource, NAMESPACE, name, manager=manager)

    def command(self, action: str, *, tag: str = "") -> None:
        """Write the command annotation, bound to the current revision, as our CLI does."""
        rollout = self.get(kinds.ROLLOUT, "mymodel") or {}
        status = rollout.get("status") or {}
        revision = (status.get("canary") or status.get("stable") or {}).get("hash", "")
        attempt = status.get("attempt", 0)
        raw = f'{{"action":"{action}","revision":"{revision}","attempt":{attempt},"at":"{tag}","by":"ann"}}'
        self.merge(kinds.ROLLOUT, "mymodel", {"metadata": {"annotations": {COMMAND_ANNOTATION: raw}}})

    # --- pods ---

    def scale(self, release: str, ready: int, *, unready: int = 0) -> None:
        """Make the pods of a release: ``ready`` Ready ones, then ``unready`` others; the rest goes."""
        present = {pod["metadata"]["name"]: pod for pod in self.all(kinds.POD)}
        wanted = {f"{release}-{i}": i < ready for i in range(ready + unready)}
        for name in present:
            if name.startswith(f"{release}-") and name not in wanted:
                self.delete(kinds.POD, name, manager="kubelet")
        for index, (name, ready_now) in enumerate(wanted.items()):
            if name not in present:
                self._make_pod(release, name, index)
            self._set_ready(name, ready=ready_now)

    def _make_pod(self, release: str, name: str, index: int) -> None:
        labels = {"app": "custom-serving", "release": release, **self.more_labels.get(release, {})}
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {"containers": [{"name": "vllm", "image": "vllm"}]},
        }
        self.create(kinds.POD, pod, manager="kubelet")
        self.write_status(kinds.POD, name, {"podIP": f"127.0.1.{index + 1}"}, manager="kubelet")

    def _set_ready(self, name: str, *, ready: bool) -> None:
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        self.write_status(kinds.POD, name, {"conditions": [condition]}, manager="kubelet")

    def crash(self, release: str) -> None:
        """Every container of a release dies and is started again, as the kubelet counts it; Ready stays."""
        for pod in self.all(kinds.POD):
            name = pod["metadata"]["name"]
            if name.startswith(f"{release}-"):
                known = (pod.get("status") or {}).get("containerStatuses") or [{}]
                count = known[0].get("restartCount", 0) + 1
                statuses = [
                    {"name": "vllm", "image": "vllm", "imageID": "", "ready": True, "restartCount": count}
                ]
                self.write_status(kinds.POD, name, {"containerStatuses": statuses}, manager="kubelet")

    def set_picker(self, pool: str, *, ready: bool, number: int = 0) -> None:
        """Make a pod behind a pool's picker Service, the only one at first, or change whether it is Ready."""
        name = f"{pool}-epp-{number}"
        if self.get(kinds.POD, name) is None:
            pod: Object = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": NAMESPACE,
                    "labels": {"app": f"{pool}-epp"},
                    "annotations": {METRICS_PORT_ANNOTATION: "9090"},
                },
                "spec": {"containers": [{"name": "epp", "image": "epp"}]},
            }
            self.create(kinds.POD, pod, manager="kubelet")
            self.write_status(kinds.POD, name, {"podIP": f"127.0.2.{number + 1}"}, manager="kubelet")
        self._set_ready(name, ready=ready)

    # --- the gateway and the garbage collector ---

    def react(self) -> None:
        """What other controllers do about the present state: the gateway's report, garbage collection."""
        if self.deployments is not None:
            self.deployments.react()
        if self.api.revision == self._reacted_to:
            return
        if self.gateway_works:
            for route in self.all(kinds.HTTP_ROUTE):
                self._report(route)
        if self.kserve_works:
            self._answer_services()
        if self.collects_garbage:
            self._collect_garbage()
        self._reacted_to = self.api.revision

    def _answer_services(self) -> None:
        services = self.all(kinds.LLM_SERVICE)
        if not services:
            return
        self._stop_services(services)
        ready = {
            str(one["metadata"]["name"]): sum(
                is_ready(pod)
                for pod in self.all(kinds.POD)
                if pods_of_service(one).selects(pod["metadata"].get("labels") or {})
            )
            for one in services
        }
        for name, status in answer(services, ready).statuses.items():
            live = next(one for one in services if one["metadata"]["name"] == name).get("status") or {}
            if any(live.get(field) != value for field, value in status.items()):
                self.write_status(kinds.LLM_SERVICE, name, status, manager=KSERVE)

    def _stop_services(self, services: list[Object]) -> None:
        """KServe deletes the workload of a stopped service, and makes it anew when that is over."""
        for one in services:
            mine = dict(pods_of_service(one).selector).items()
            release = next((name for name, labels in self.more_labels.items() if mine <= labels.items()), "")
            if release and read_llm_service(one).stopped:
                ready = sum(map(is_ready, self._pods_of(release)))
                self._stopped.setdefault(release, ready)
                self.scale(release, 0)
            elif release in self._stopped:
                self.scale(release, self._stopped.pop(release))

    def _pods_of(self, release: str) -> list[Object]:
        return [pod for pod in self.all(kinds.POD) if pod["metadata"]["name"].startswith(f"{release}-")]

    def set_kserve(self, *, works: bool) -> None:
        """Whether KServe's controller runs."""
        self.kserve_works = works
        self._reacted_to = -1

    def _collect_garbage(self) -> None:
        rollouts = {obj["metadata"]["uid"] for obj in self.all(kinds.ROLLOUT)}
        for resource in (kinds.ANALYSIS_RUN, kinds.JOB):
            for obj in self.all(resource):
                owners = obj["metadata"].get("ownerReferences") or []
                if owners and not any(owner["uid"] in rollouts for owner in owners):
                    self.delete(resource, obj["metadata"]["name"], manager="garbage-collector")

    def _report(self, route: Object) -> None:
        """Accepted and ResolvedRefs on every parent, as gateways do it: the entry of a controller that was there before
        is left behind, and the living one says of one condition only which generation it is about."""
        generation = route["metadata"]["generation"]
        old = {"status": "False", "reason": "Pending", "observedGeneration": 10**6, "message": "gone"}
        gone = [
            {
                "parentRef": parent,
                "controllerName": "example.com/gone",
                "conditions": [{"type": "Accepted", "lastTransitionTime": "2029-01-01T00:00:00Z", **old}],
            }
            for parent in (route.get("spec") or {}).get("parentRefs") or []
        ]
        parents = gone + [
            {
                "parentRef": parent,
                "controllerName": "example.com/gateway",
                "conditions": [
                    {
                        "type": name,
                        "status": "True",
                        "reason": name,
                        "observedGeneration": generation if name == "Accepted" else 0,
                        "lastTransitionTime": "2030-01-01T00:00:00Z",
                        "message": "",
                    }
                    for name in ("Accepted", "ResolvedRefs")
                ],
            }
            for parent in (route.get("spec") or {}).get("parentRefs") or []
        ]
        if (route.get("status") or {}).get("parents") != parents:
            self.write_status(
                kinds.HTTP_ROUTE, route["metadata"]["name"], {"parents": parents}, manager=GATEWAY
            )

    def set_gateway(self, *, works: bool) -> None:
        """Whether the gateway reports on routes."""
        self.gateway_works = works
        self._reacted_to = -1

    def finish_job(self, name: str, *, succeeded: bool) -> None:
        """End a Job."""
        condition = {"type": "Complete" if succeeded else "Failed", "status": "True"}
        self.write_status(kinds.JOB, name, {"conditions": [condition]}, manager="job-controller")
