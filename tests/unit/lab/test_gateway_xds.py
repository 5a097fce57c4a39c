"""The order in which Envoy is told: the session as a state machine, fed like Envoy feeds it."""

from __future__ import annotations

from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from rollouts.lab.gateway.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, XdsSnapshot
from rollouts.lab.gateway.xds import XdsStream


def snapshot(*, clusters: str = "", routes: str = "r=1", listeners: str = "l=1") -> XdsSnapshot:
    """Resources written as ``name=content`` words."""

    def read(words: str) -> dict[str, bytes]:
        return {name: value.encode() for name, _, value in (word.partition("=") for word in words.split())}

    found = read(clusters)
    return XdsSnapshot(
        resources={
            CLUSTER: found,
            ENDPOINTS: dict.fromkeys(found, b"endpoints"),
            LISTENER: read(listeners),
            ROUTES: read(routes),
        }
    )


class FakeEnvoy:
    """Subscribes and acknowledges as Envoy does; keeps what it was told, in order."""

    def __init__(self, session: XdsStream, *, refuse: str = "") -> None:
        self.session = session
        self.refuse = refuse
        self.told: list[tuple[str, set[str]]] = []
        self.clusters: set[str] = set()

    def subscribe(self, url: str, *names: str) -> None:
        self.session.receive(discovery_pb2.DiscoveryRequest(type_url=url, resource_names=names))

    def connect(self) -> None:
        self.subscribe(CLUSTER)
        self.subscribe(LISTENER)

    def run(self) -> list[tuple[str, set[str]]]:
        """Take and answer pushes until there are none; what came since the last call."""
        self.told = []
        while (push := self.session.next_push()) is not None:
            names = {resource.value.decode(errors="replace") for resource in push.resources}
            self.told.append((push.type_url.rpartition(".")[2], names))
            self.answer(push)
        return self.told

    def answer(self, push: discovery_pb2.DiscoveryResponse) -> None:
        request = discovery_pb2.DiscoveryRequest(type_url=push.type_url, response_nonce=push.nonce)
        state = self.session.types[push.type_url]
        if push.type_url == CLUSTER:
            names = set(state.told or {})
            if names - self.clusters:
                # Endpoints are asked for before the clusters are acknowledged.
                self.subscribe(ENDPOINTS, *sorted(names))
            self.clusters = names
        if push.type_url == LISTENER:
            self.subscribe(ROUTES, "r")
        request.resource_names.extend(sorted(state.names))
        if self.refuse and push.type_url.endswith(self.refuse):
            request.error_detail.CopyFrom(status_pb2.Status(message="no good"))
        self.session.receive(request)


def connected(first: XdsSnapshot) -> FakeEnvoy:
    envoy = FakeEnvoy(XdsStream(first))
    envoy.connect()
    envoy.run()
    assert envoy.session.settled()
    return envoy


def kinds(told: list[tuple[str, set[str]]]) -> list[str]:
    return [kind for kind, _ in told]


def test_clusters_and_endpoints_come_before_listeners_and_routes() -> None:
    envoy = FakeEnvoy(XdsStream(snapshot(clusters="a=1")))
    envoy.connect()

    assert kinds(envoy.run()) == ["Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration"]
    assert envoy.session.settled()


def test_endpoints_are_answered_before_the_clusters_are_acknowledged() -> None:
    session = XdsStream(snapshot(clusters="a=1"))
    envoy = FakeEnvoy(session)
    envoy.connect()
    assert session.next_push() is not None
    envoy.subscribe(ENDPOINTS, "a")
    push = session.next_push()

    assert push is not None
    assert push.type_url == ENDPOINTS


def test_a_new_weight_moves_the_routes_and_nothing_else() -> None:
    envoy = connected(snapshot(clusters="a=1 b=1", routes="r=90/10"))
    envoy.session.snapshot = snapshot(clusters="a=1 b=1", routes="r=50/50")

    assert envoy.run() == [("RouteConfiguration", {"50/50"})]


def test_nothing_is_sent_for_an_equal_snapshot() -> None:
    envoy = connected(snapshot(clusters="a=1"))
    envoy.session.snapshot = snapshot(clusters="a=1")

    assert envoy.run() == []


def test_a_cluster_goes_only_after_the_routes_that_used_it() -> None:
    envoy = connected(snapshot(clusters="old=old", routes="r=to-old"))
    envoy.session.snapshot = snapshot(clusters="new=new", routes="r=to-new")
    told = [(kind, names) for kind, names in envoy.run() if kind != "ClusterLoadAssignment"]

    assert told == [
        ("Cluster", {"old", "new"}),
        ("RouteConfiguration", {"to-new"}),
        ("Cluster", {"new"}),
    ]
    assert envoy.session.settled()


def test_a_refusal_is_kept_and_not_sent_again() -> None:
    session = XdsStream(snapshot(clusters="a=1"))
    envoy = FakeEnvoy(session, refuse="RouteConfiguration")
    envoy.connect()
    envoy.run()

    assert session.settled()
    assert session.errors() == "no good"
    assert envoy.run() == []


def test_refused_routes_keep_the_clusters_that_the_old_ones_use() -> None:
    envoy = connected(snapshot(clusters="old=old", routes="r=to-old"))
    envoy.refuse = "RouteConfiguration"
    envoy.session.snapshot = snapshot(clusters="new=new", routes="r=bad")
    envoy.run()

    assert envoy.clusters == {"old", "new"}
    assert envoy.session.settled()


def test_a_cluster_that_goes_alone_is_not_followed_by_endpoints_nobody_asks_for() -> None:
    envoy = connected(snapshot(clusters="a=1"))
    envoy.session.snapshot = snapshot()

    assert kinds(envoy.run()) == ["Cluster"]
    assert envoy.session.settled()


def test_a_changed_cluster_gets_its_endpoints_again() -> None:
    envoy = connected(snapshot(clusters="a=1 b=1"))
    envoy.session.snapshot = snapshot(clusters="a=2 b=1")

    assert kinds(envoy.run()) == ["Cluster", "ClusterLoadAssignment"]


def test_a_listener_without_its_routes_is_not_settled() -> None:
    session = XdsStream(snapshot())
    envoy = FakeEnvoy(session)
    envoy.connect()
    while (push := session.next_push()) is not None:
        session.receive(discovery_pb2.DiscoveryRequest(type_url=push.type_url, response_nonce=push.nonce))
    before = session.settled()
    envoy.subscribe(ROUTES, "r")
    envoy.run()

    assert (before, session.settled()) == (False, True)


def test_a_later_good_snapshot_clears_the_refusal() -> None:
    session = XdsStream(snapshot(clusters="a=1"))
    envoy = FakeEnvoy(session, refuse="RouteConfiguration")
    envoy.connect()
    envoy.run()
    envoy.refuse = ""
    session.snapshot = snapshot(clusters="a=1", routes="r=2")
    envoy.run()

    assert session.errors() == ""
    assert session.settled()


def test_an_answer_to_an_older_push_changes_nothing() -> None:
    session = XdsStream(snapshot(clusters="a=1"))
    envoy = FakeEnvoy(session)
    envoy.connect()
    first = session.next_push()
    assert first is not None
    stale = discovery_pb2.DiscoveryRequest(type_url=CLUSTER, response_nonce="stale")
    session.receive(stale)

    assert session.types[CLUSTER].in_flight
