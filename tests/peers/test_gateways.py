"""What is known of gateways: each file is whole, ``doctor`` and ``lint --gateway`` say it, and nothing more."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.cli.doctor_gateways import gateway_checks, unread_pool
from rollouts.cli.findings import Level
from rollouts.cli.lint_gateways import GATEWAYS, gateway_findings
from rollouts.objects.pools import POOL_GROUPS, read_pool
from rollouts.peers import GatewayPeer, Holds, gateway_peers, peer_of, version_in

AI = "docker.io/envoyproxy/ai-gateway-controller:v0.9.0"
EG = "docker.io/envoyproxy/gateway:v1.8.1"


@pytest.mark.parametrize("peer", gateway_peers(), ids=lambda one: one.key)
def test_a_file_says_what_to_do_and_ends_in_a_row_without_conditions(peer: GatewayPeer) -> None:
    assert peer.seen
    assert peer.picker
    assert not peer.pools[-1].below
    assert not peer.pools[-1].beside
    assert all(row.says for row in peer.pools)
    assert [row for row in peer.pools if row.holds is not Holds.WORKS and not row.fix] == []
    assert set(peer.reads) <= {"v1", "v1alpha2"}


def test_no_two_files_are_about_one_controller() -> None:
    names = [name for peer in gateway_peers() for name in peer.controllers]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("controller", "images", "level", "part"),
    [
        (
            "istio.io/gateway-controller",
            ["docker.io/istio/pilot:1.29.2"],
            Level.WARN,
            "Istio, version 1.29.2; weights",
        ),
        (
            "istio.io/gateway-controller",
            ["istio/pilot:1.30.1@sha256:0"],
            Level.WARN,
            "1.30.1; patch releases",
        ),
        (
            "istio.io/gateway-controller",
            ["localhost:5000/istio/pilot"],
            Level.WARN,
            "unknown version; perhaps: weights",
        ),
        (
            "istio.io/gateway-controller",
            ["istio/pilot:latest"],
            Level.WARN,
            "latest; perhaps: patch releases",
        ),
        ("istio.io/gateway-controller", None, Level.WARN, "of unknown version; perhaps: patch releases"),
        (
            "gateway.envoyproxy.io/gatewayclass-controller",
            [EG, AI],
            Level.BAD,
            "v1.8.1; with Envoy AI Gateway",
        ),
        ("gateway.envoyproxy.io/gatewayclass-controller", [EG], Level.BAD, "knows no InferencePool"),
        ("gateway.envoyproxy.io/gatewayclass-controller", None, Level.WARN, "perhaps: with Envoy AI Gateway"),
        ("agentgateway.dev/agentgateway", [], Level.WARN, "--keep-streams"),
        ("gateway.nginx.org/nginx-gateway-controller", [], Level.FINE, "a picker of its own"),
        ("kgateway.dev/kgateway", ["cr.kgateway.dev/kgateway-dev/kgateway:v2.0.3"], Level.BAD, "answers 503"),
        (
            "kgateway.dev/kgateway",
            ["cr.kgateway.dev/kgateway-dev/kgateway:v2.3.0"],
            Level.WARN,
            "were not tried",
        ),
        ("networking.gke.io/gateway", None, Level.WARN, "nothing was tried"),
        ("example.com/another", None, Level.WARN, "nothing is known of the gateway"),
    ],
)
def test_doctor_says_which_row_holds(
    controller: str, images: list[str] | None, level: Level, part: str
) -> None:
    found = list(gateway_checks("route", controller, images))

    assert [check for check in found if part in check.text and check.level is level], found


def test_only_one_row_is_said_where_the_version_is_known() -> None:
    assert len(list(gateway_checks("r", "istio.io/gateway-controller", ["istio/pilot:1.28.0"]))) == 1


@pytest.mark.parametrize("image", ["x/notpilot:1", "istio/pilot-extra:1", "pilots:1"])
def test_a_like_name_is_another_image(image: str) -> None:
    assert version_in([image], "istio/pilot") is None


def pool(group: str) -> dict[str, Any]:
    return {"apiVersion": f"{group}/v1", "kind": "InferencePool", "metadata": {"name": "p"}, "spec": {}}


@pytest.mark.parametrize(
    ("group", "controller", "said"),
    [
        (POOL_GROUPS[1], "istio.io/gateway-controller", ["Istio reads only v1"]),
        (POOL_GROUPS[0], "istio.io/gateway-controller", []),
        (POOL_GROUPS[1], "kgateway.dev/kgateway", []),
    ],
)
def test_an_alpha_pool_on_a_gateway_that_reads_v1_alone(group: str, controller: str, said: list[str]) -> None:
    peer = peer_of(controller)
    assert peer is not None
    found = list(unread_pool(read_pool(pool(group)), [peer]))

    assert [part for check in found for part in said if part in check.text] == said
    assert len(found) == len(said)


def rollout(traffic: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "demo"},
        "spec": {
            "target": target,
            "traffic": traffic,
            "strategy": {"canary": {"steps": [{"setWeight": 10}]}},
        },
    }


POOLS = rollout({"httpRoutes": [{"name": "r"}]}, {"pool": {"name": "p"}})
ADAPTERS = rollout({"inferenceModel": {"name": "m", "modelName": "m"}}, {"adapter": {"name": "a"}})


@pytest.mark.parametrize(
    ("gateway", "problems", "hints"),
    [
        ("istio", 1, 2),
        ("envoy-gateway", 3, 0),
        ("kgateway", 0, 2),
        ("nginx-gateway-fabric", 0, 0),
        ("gke", 0, 1),
    ],
)
def test_lint_says_what_is_known_of_a_gateway(gateway: str, problems: int, hints: int) -> None:
    found = list(gateway_findings([POOLS, ADAPTERS, pool(POOL_GROUPS[1])], gateway))

    assert [bad for _, _, bad in found].count(True) == problems
    assert [bad for _, _, bad in found].count(False) == hints


def test_every_file_is_a_choice() -> None:
    assert set(GATEWAYS) == {peer.key for peer in gateway_peers()}
