"""Whether strangers can reach a picker's gRPC port: its figures are evidence, and whoever speaks to it makes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rollouts.cli.findings import Check, fine, warn

__all__ = ["exposure_checks"]

Object = Mapping[str, Any]


def exposure_checks(
    service: Object, pods: Iterable[Object], policies: Iterable[Object] | None
) -> Iterator[Check]:
    """For pods of our pickers behind a Service. ``policies`` None: NetworkPolicies may not be read."""
    meta = service.get("metadata") or {}
    selector = (service.get("spec") or {}).get("selector") or {}
    chosen = [
        pod for pod in pods if selector and selector.items() <= _labels(pod).items() and _arguments(pod)
    ]
    if not chosen:
        return
    where = f"picker Service {meta.get('name')}"
    if all(_asks_for_certificates(pod) for pod in chosen):
        yield fine(f"{where}: only clients with a certificate may connect")
        return
    if policies is None:
        return
    restricting = [policy for policy in policies if _restricts_ingress(policy)]
    if all(any(_selects(policy, pod) for policy in restricting) for pod in chosen):
        yield fine(f"{where}: a NetworkPolicy says who may connect")
        return
    yield warn(
        f"{where}: any pod of the cluster may connect and forge the figures that gates read",
        "chart: networkPolicy.pickers, or clientCaSecret of the picker where the gateway sends a certificate",
    )


def _labels(pod: Object) -> Mapping[str, str]:
    return (pod.get("metadata") or {}).get("labels") or {}


def _arguments(pod: Object) -> list[str]:
    """Arguments of our picker's container; nothing for others."""
    for container in (pod.get("spec") or {}).get("containers") or []:
        arguments = [
            str(item) for item in (*(container.get("command") or []), *(container.get("args") or []))
        ]
        if "picker" in arguments and any(item.startswith("--pool") for item in arguments):
            return arguments
    return []


def _asks_for_certificates(pod: Object) -> bool:
    return any(item.split("=")[0] == "--client-ca" for item in _arguments(pod))


def _restricts_ingress(policy: Object) -> bool:
    """A policy that lets everybody in restricts nobody."""
    spec = policy.get("spec") or {}
    if "Ingress" not in (spec.get("policyTypes") or ["Ingress"]):
        return False
    return all(
        rule.get("from") or not _may_be_grpc(rule.get("ports") or []) for rule in spec.get("ingress") or []
    )


def _may_be_grpc(ports: list[Object]) -> bool:
    return not ports or any(port.get("port") in ("grpc", 9002, None) for port in ports)


def _selects(policy: Object, pod: Object) -> bool:
    selector = (policy.get("spec") or {}).get("podSelector") or {}
    if selector.get("matchExpressions"):
        return False  # not worth an evaluator of its own: then the warning stands
    return (selector.get("matchLabels") or {}).items() <= _labels(pod).items()
