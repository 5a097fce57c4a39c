"""What the network policies of the chart let controller and pickers reach, by the rules of NetworkPolicy."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.chart.conftest import Attempt, Objects, Render

Object = dict[str, Any]
NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Where a connection goes: a pod of a namespace, or an address outside."""

    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    address: str = "203.0.113.9"
    port: int = 8000
    protocol: str = "TCP"


def selects(selector: Object, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def is_peer(entry: Object, to: Peer, own: str) -> bool:
    """As the API reference of NetworkPolicyPeer says: without a namespaceSelector, the policy's own namespace."""
    if "ipBlock" in entry:
        return ip_address(to.address) in ip_network(entry["ipBlock"]["cidr"])
    if not to.namespace:
        return False
    inside = (
        selects(entry["namespaceSelector"], {NAME: to.namespace})
        if "namespaceSelector" in entry
        else to.namespace == own
    )
    return inside and selects(entry.get("podSelector", {}), to.labels)


def reaches(policy: Object, to: Peer) -> bool:
    """Whether pods of the policy may open this connection."""
    assert "Egress" in policy["spec"]["policyTypes"]
    for rule in policy["spec"]["egress"]:
        ports = rule.get("ports")
        fits = not ports or any(
            (port["port"], port.get("protocol", "TCP")) == (to.port, to.protocol) for port in ports
        )
        peers = rule.get("to")
        if fits and (
            not peers or any(is_peer(entry, to, policy["metadata"]["namespace"]) for entry in peers)
        ):
            return True
    return False


def values(**egress: Any) -> Object:
    gateways = [{"namespaceSelector": {"matchLabels": {NAME: "gateway-system"}}}]
    return {
        "pickers": [{"pool": "p", "service": "epp"}],
        "sources": {"default": {"url": "http://prometheus.monitoring:9090"}},
        "networkPolicy": {
            "enabled": True,
            "pickers": {"enabled": True, "gatewaysFrom": gateways},
            "egress": {
                "enabled": True,
                "metricSources": [{"namespaceSelector": {"matchLabels": {NAME: "monitoring"}}}],
                "gateways": gateways,
                **egress,
            },
        },
    }


def policies(objects: Objects) -> dict[str, Object]:
    found = {
        item["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: item
        for item in objects
        if item["kind"] == "NetworkPolicy"
    }
    assert set(found) == {"controller", "picker"}
    return found


DNS = [Peer(address="169.254.20.10", port=53, protocol=way) for way in ("UDP", "TCP")]
API_SERVER = Peer(address="10.0.0.1", port=6443)
MODEL_SERVER = Peer(namespace="serving", labels={"app": "vllm"}, port=8000)
PICKER = Peer(namespace="serving", labels={"app": "epp"}, port=9003)
PROMETHEUS = Peer(namespace="monitoring", port=9090)
GATEWAY = Peer(namespace="gateway-system", port=80)
STRANGER = Peer(namespace="elsewhere", port=8000)
OUTSIDE = Peer(port=80)


def test_the_controller_reaches_what_it_reads_and_nothing_else(render: Render) -> None:
    policy = policies(render(values()))["controller"]

    assert all(reaches(policy, to) for to in (*DNS, API_SERVER, MODEL_SERVER, PICKER, PROMETHEUS, GATEWAY))
    assert [to for to in (STRANGER, OUTSIDE) if reaches(policy, to)] == []


def test_a_picker_reaches_the_pods_of_its_namespace_and_the_api_server(render: Render) -> None:
    policy = policies(render(values()))["picker"]

    assert all(reaches(policy, to) for to in (*DNS, API_SERVER, MODEL_SERVER))
    assert [to for to in (STRANGER, OUTSIDE, PROMETHEUS, GATEWAY) if reaches(policy, to)] == []


def test_the_api_server_may_be_named_by_its_addresses(render: Render) -> None:
    found = policies(render(values(apiServer=[{"ipBlock": {"cidr": "10.0.0.1/32"}}], apiServerPorts=[6443])))

    for policy in found.values():
        assert reaches(policy, API_SERVER)
        assert not reaches(policy, Peer(address="10.0.0.2", port=6443))
        assert not reaches(policy, Peer(address="10.0.0.1", port=443))


def test_who_watches_everything_reaches_the_pods_of_every_namespace(render: Render) -> None:
    found = policies(render({**values(), "watch": {"allNamespaces": True}}))

    assert reaches(found["controller"], STRANGER)
    assert not reaches(found["controller"], OUTSIDE)


def test_further_rules_hold_for_both(render: Render) -> None:
    found = policies(render(values(extra=[{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}])))

    assert all(reaches(policy, OUTSIDE) for policy in found.values())


@pytest.mark.parametrize("left_out", ["metricSources", "gateways"])
def test_what_would_fail_in_silence_is_refused(attempt: Attempt, left_out: str) -> None:
    done = attempt(values(**{left_out: []}))

    assert done.returncode != 0
    assert f"networkPolicy.egress.{left_out}" in done.stderr


def test_pickers_that_nobody_may_reach_are_refused_and_not_open_to_everybody(attempt: Attempt) -> None:
    changed = values()
    del changed["networkPolicy"]["pickers"]["gatewaysFrom"]
    done = attempt(changed)

    assert done.returncode != 0
    assert "networkPolicy.pickers.gatewaysFrom" in done.stderr


def test_without_sources_and_probes_nothing_has_to_be_named(render: Render) -> None:
    plain = values(metricSources=[], gateways=[])
    policy = policies(render({**plain, "sources": {}, "pathProbe": {"enabled": False}}))["controller"]

    assert reaches(policy, MODEL_SERVER)
    assert not reaches(policy, PROMETHEUS)
