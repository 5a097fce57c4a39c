"""What is known of model servers and tools: files are whole, and a server's page is read as its file says."""

from __future__ import annotations

import pytest

from rollouts.analysis.evidence.model import (
    Arm,
    CompareMetric,
    CountSeries,
    EvidenceSpec,
    GaugeSeries,
    HistogramSeries,
    Series,
)
from rollouts.analysis.exposition import parse_exposition
from rollouts.analysis.logical import wanted_of
from rollouts.analysis.offers import POD_OFFER
from rollouts.peers import gateway_peers
from rollouts.picker.core.scrape import UNKNOWN, parse_metrics
from tools.peer_pages import KINDS, OtherPeer, other_peers

PEERS = other_peers()
SERVERS = [peer for peer in PEERS if peer.kind == "servers"]


@pytest.mark.parametrize("peer", PEERS, ids=lambda one: one.key)
def test_a_file_says_what_was_looked_at_and_what_was_not_tried(peer: OtherPeer) -> None:
    assert peer.name
    assert peer.versions
    assert peer.seen
    assert peer.untried
    assert peer.sources
    assert peer.works or peer.says
    for lines in (peer.writes, peer.tried, peer.works, peer.says, peer.untried, peer.sources):
        assert all(isinstance(line, str) for line in lines)


def test_no_two_peers_share_a_page() -> None:
    keys = [peer.key for peer in PEERS] + [peer.key for peer in gateway_peers()]

    assert len(set(keys)) == len(keys)
    assert {peer.kind for peer in PEERS} == set(KINDS)


def read(peer: OtherPeer, series: Series) -> object:
    """The page through one logical series."""
    metric = CompareMetric(name="m", series=series, margin=0.0, tolerance=1.0)
    wanted = wanted_of(EvidenceSpec(metrics=(metric,)))
    raw = parse_exposition(peer.page["text"].encode(), wanted.raw_names(POD_OFFER))
    return wanted.sample(raw, POD_OFFER, Arm.CANARY, "p", None)


@pytest.mark.parametrize("peer", SERVERS, ids=lambda one: one.key)
def test_a_page_of_a_server_is_read_as_its_file_says(peer: OtherPeer) -> None:
    counters = dict(peer.page["counters"])
    events = [name for name in counters if name != "requests"]
    for name in events:
        sample = read(peer, CountSeries(errors=name, of="requests"))
        assert sample.counters == {name: counters[name], "requests": counters["requests"]}  # type: ignore[attr-defined]
    for name, value in peer.page["gauges"].items():
        assert read(peer, GaugeSeries(name=name)).gauges == {name: pytest.approx(value)}  # type: ignore[attr-defined]
    for name, (below, total, seconds) in peer.page["histograms"].items():
        found = read(peer, HistogramSeries(name=name)).histograms[name]  # type: ignore[attr-defined]
        assert (found.cumulative, found.sum) == ((below, total), seconds)
    assert events


@pytest.mark.parametrize("peer", SERVERS, ids=lambda one: one.key)
def test_the_picker_reads_the_load_of_a_server_as_its_file_says(peer: OtherPeer) -> None:
    load = parse_metrics(peer.page["text"], UNKNOWN)
    found = {"running": load.running, "waiting": load.waiting, "kv": load.kv_usage}

    assert found == peer.page["picker"]


@pytest.mark.parametrize("peer", gateway_peers(), ids=lambda one: one.key)
def test_a_gateways_file_says_what_was_not_tried(peer: object) -> None:
    assert peer.untried  # type: ignore[attr-defined]
