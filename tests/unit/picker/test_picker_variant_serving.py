"""A running picker with a PoolSplit: what goes over the wire, what its pages and its log say, and what it may read."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
import yaml
from click.testing import CliRunner
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from rollouts.api.crds import all_crds
from rollouts.kube.client import ListPage
from rollouts.kube.errors import Forbidden
from rollouts.lab.controlplane import install_crds, minimal
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.objects.picker_pages import (
    CONFIGURED_WEIGHT,
    POOL_SPLITS_READ,
    SPLIT_WITHOUT_PODS,
    UNMATCHED_POD,
)
from rollouts.picker.command import picker as command
from rollouts.picker.core.messages import (
    BodyMode,
    BodyReply,
    HeadersReply,
    Outgoing,
    Protocol,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    Side,
)
from rollouts.picker.core.objects import PoolName, read_snapshot
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.protocol import Exchange
from rollouts.picker.core.routing import Refusal, Request, Router, Unready
from rollouts.picker.core.schedule import Scheduler
from rollouts.picker.main import Picker, PickerConfig
from rollouts.picker.metrics import PickerMetrics
from rollouts.picker.watching import WatchSource
from tests.kit.clock import VirtualClock, virtual_time
from tests.kit.memory_client import MemoryKubeClient
from tests.unit.picker.conftest import Objects

pytestmark = pytest.mark.usefixtures("data_path")
BOTH = ("Exchange", "Router")

POOL = PoolName("default", "pool")
OBJECTS = [
    Objects.pool(),
    Objects.variant_pod("127.0.1.1", "v1"),
    Objects.variant_pod("127.0.2.1", "v2"),
    Objects.variant_pod("127.0.9.1", "old"),
    Objects.pool_split({"v1": 3, "v2": 1}, models={"v2": "m-2"}, modelName="m"),
]


@pytest.fixture
async def picker(tmp_path: Path) -> AsyncIterator[Picker]:
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(OBJECTS))
    config = PickerConfig(
        pools=(POOL,),
        objects=file,
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        secure_serving=False,
        scrape=False,
        drain_grace=1.0,
        variant_header="x-variant",
    )
    running = Picker(config)
    await running.start()
    yield running
    await running.stop()


async def one_request(channel: Any) -> tuple[str, str, str]:
    """Host, model as sent, and the header of the response."""
    head, tail, answer, end = (ext_proc.ProcessingRequest() for _ in range(4))
    head.request_headers.headers.headers.add(key=":method", raw_value=b"POST")
    head.protocol_config.request_body_mode = head.protocol_config.response_body_mode = 4  # full duplex
    tail.request_body.body, tail.request_body.end_of_stream = b'{"model":"m","messages":[]}', True
    answer.response_headers.headers.headers.add(key=":status", raw_value=b"200")
    stream = external_processor_pb2_grpc.ExternalProcessorStub(channel).Process()
    await stream.write(head)
    await stream.write(tail)
    routed, body = await stream.read(), await stream.read()
    end.response_body.end_of_stream = True
    await stream.write(answer)
    response = await stream.read()
    await stream.write(end)
    await stream.read()
    assert await stream.read() is grpc.aio.EOF
    address = routed.request_headers.response.header_mutation.set_headers[0].header.raw_value.decode()
    sent = json.loads(body.request_body.response.body_mutation.streamed_response.body)
    named = response.response_headers.response.header_mutation.set_headers[0].header
    assert named.key == "x-variant"
    return address.partition(":")[0], sent["model"], named.raw_value.decode()


async def page(picker: Picker, path: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{picker.exposition.port}{path}") as response,
    ):
        return await response.text()


async def test_a_split_is_on_the_wire_in_the_metrics_and_on_its_own_page(picker: Picker) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{picker.server.port}") as channel:
        seen = Counter([await one_request(channel) for _ in range(20)])
    text = await page(picker, "/metrics")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    (said,) = json.loads(await page(picker, "/splits"))["poolSplits"]

    assert seen == {("127.0.1.1", "m", "v1"): 15, ("127.0.2.1", "m-2", "v2"): 5}
    for variant, target, count in (("v1", "m", 15), ("v2", "m-2", 5)):
        labels = {"model": "m", "target_model": target, "pool": "pool", "variant": variant, "code": ""}
        labels |= {"split": "s"}
        labels["pod"] = f"pod-127.0.{variant[1]}.1"
        assert samples[("inference_picker_requests_total", *sorted(labels.items()))] == count
        place = (("model", "m"), ("pool", "pool"), ("split", "s"), ("variant", variant))
        assert samples[(CONFIGURED_WEIGHT, *place)] == count / 20
        assert samples[("inference_picker_observed_share", *place)] == count / 20
    assert samples[(POOL_SPLITS_READ,)] == 1
    assert samples[(SPLIT_WITHOUT_PODS, ("model", "m"), ("pool", "pool"))] == 0
    assert samples[(UNMATCHED_POD, ("model", "m"), ("pod", "pod-127.0.9.1"), ("pool", "pool"))] == 1
    assert said == {
        "namespace": "default",
        "name": "s",
        "pool": "pool",
        "modelName": "m",
        "variants": [
            {"name": "v1", "weight": 3, "readyPods": ["pod-127.0.1.1"], "requests": 15},
            {"name": "v2", "weight": 1, "readyPods": ["pod-127.0.2.1"], "requests": 5},
        ],
        "unmatchedPods": ["pod-127.0.9.1"],
        "withoutPods": False,
        "problems": [],
    }


async def test_each_thing_is_said_once_and_its_end_too(picker: Picker) -> None:
    wrong = Objects.pool_split({"v1": 1, "v2": 1}, modelName="m")
    wrong["spec"]["variants"][1]["labels"] = {"app": "pool"}  # all pods are
    lost = Objects.pool_split({"v3": 1}, modelName="m")
    with capture_logs() as logs:
        for split in (OBJECTS[-1], wrong, wrong, lost, lost, OBJECTS[-1]):
            picker.take([*OBJECTS[:-1], split])
        picker.take(OBJECTS[:-1])

    told = [(entry["event"], entry.get("pods"), entry.get("weights")) for entry in logs]
    pods = [f"pod-127.0.{n}.1" for n in (1, 2, 9)]
    assert told == [
        ("pool_split_loaded", None, {"v1": 1, "v2": 1}),
        ("unmatched_pods", pods[:1], None),
        ("pool_split_problem", None, None),
        ("pool_split_loaded", None, {"v3": 1}),
        ("unmatched_pods", pods[1:], None),
        ("split_without_pods", None, None),
        ("pool_split_loaded", None, {"v1": 3, "v2": 1}),
        ("split_has_pods", None, None),
        ("pool_split_gone", None, None),
    ]


def test_a_shed_request_is_counted_under_its_variant() -> None:
    router = Router(Scheduler(), unready=Unready.SHED)
    router.update(read_snapshot([POOL], [*OBJECTS[:2], OBJECTS[-1]]), 0.0, 0.0)
    metrics = PickerMetrics(router)
    for _ in range(8):
        outcome = router.route(Request({}, "m", has_body=True), 1.0)
        (metrics.refused if isinstance(outcome, Refusal) else metrics.dispatched)(outcome)

    place = {"model": "m", "pool": "pool"}
    counted = {
        (sample.labels["split"], sample.labels["variant"], sample.labels["code"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "inference_picker_requests_total" and place.items() <= sample.labels.items()
    }
    assert counted == {("s", "v1", ""): 6, ("s", "v2", "503"): 2}


def test_a_header_that_means_something_to_proxies_is_refused() -> None:
    for name in ("content-length", ":status", "x", "X variant", "x-a\nb"):
        result = CliRunner().invoke(command, ["--pool", "default/p", "--variant-header", name])

        assert result.exit_code == 2
        assert "x-variant" in result.output


# --- the stream ------------------------------------------------------------------------------------------------


def exchange(*objects: Any, header: bytes = b"x-variant") -> Exchange:
    router = Router(Scheduler(), unready=Unready.SPILL)
    router.update(read_snapshot([POOL], [*OBJECTS[:4], *objects]), 0.0, 0.0)
    return Exchange(router, PickerMetrics(router), BufferBudget(), variant_header=header)


def replies(stream: Exchange, *, method: bytes = b"POST") -> list[Outgoing]:
    modes = Protocol(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED)
    found = list(stream.receive(RequestHeaders({b":method": method} if method else {}, protocol=modes), 1.0))
    return found + list(stream.receive(RequestBody(b'{"model":"m"}', True), 2.0))


def test_a_stream_stays_for_the_header_and_then_to_the_end_of_the_response() -> None:
    """Envoy sends chunks without waiting: whoever leaves behind the headers takes them along."""
    stream = exchange(OBJECTS[-1])

    assert [type(reply) for reply in replies(stream)] == [HeadersReply, BodyReply]
    (answer,) = stream.receive(ResponseHeaders({b":status": b"200"}), 3.0)
    assert answer == HeadersReply(Side.RESPONSE, ((b"x-variant", b"v1"),))
    for chunk in (b"a", b"b"):
        assert not stream.closing
        assert list(stream.receive(ResponseBody(chunk, chunk == b"b"), 4.0)) == [
            BodyReply(Side.RESPONSE, chunk, chunk == b"b")
        ]
    assert stream.closing


@pytest.mark.parametrize(
    ("objects", "header", "method"),
    [([], b"x-variant", b"POST"), (OBJECTS[-1:], b"", b"POST"), (OBJECTS[-1:], b"x-variant", b"")],
    ids=["no split", "no header", "nobody who shows a response"],
)
def test_a_stream_without_a_header_to_set_leaves_at_once(
    objects: list[Any], header: bytes, method: bytes
) -> None:
    stream = exchange(*objects, header=header)

    replies(stream, method=method)

    assert stream.closing


# --- what it may read --------------------------------------------------------------------------------------------


class Guarded(MemoryKubeClient):
    """A server whose role for the picker is from before there were PoolSplits."""

    allowed = True

    async def list_page(self, resource: Any, *args: Any, **kwargs: Any) -> ListPage:
        if resource == kinds.POOL_SPLIT and not self.allowed:
            raise Forbidden("poolsplits is forbidden", status=403)
        return await super().list_page(resource, *args, **kwargs)


async def server(*, crds: bool = True) -> Guarded:
    made = Guarded(MemoryApi())
    ours = [crd for crd in all_crds() if crd["spec"]["names"]["kind"] == "PoolSplit" and crds]
    await install_crds(made, (*minimal.INFERENCE_ALPHA, *minimal.INFERENCE_V1, *ours))
    if crds:
        split = Objects.pool_split({"v1": 1, "v2": 0})
        split["metadata"].pop("creationTimestamp")
        await made.create(kinds.POOL_SPLIT, "default", split)
    made.allowed = not crds
    return made


async def watched(client: Guarded, *, grant: bool = False) -> list[tuple[float, bool, list[str]]]:
    """(seconds, whether PoolSplits are read, their names) at each change."""
    seen: list[tuple[float, bool, list[str]]] = []
    clock = VirtualClock()

    def look(objects: list[Any]) -> None:
        names = [obj["metadata"]["name"] for obj in objects if obj["kind"] == "PoolSplit"]
        seen.append((clock.monotonic(), source.reads_pool_splits(), names))

    source = WatchSource(client, ["default"], look, clock=clock)
    running = asyncio.create_task(source.run())
    await clock.sleep(60)
    client.allowed = grant
    await clock.sleep(60)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return seen


def test_a_role_without_pool_splits_keeps_nobody_from_serving_and_is_said() -> None:
    with virtual_time() as loop, capture_logs() as logs:
        client = loop.run_until_complete(server())
        (first, *later) = loop.run_until_complete(watched(client, grant=True))

    assert first[0] < 10
    assert first[1:] == (False, [])
    assert later[-1][1:] == (True, ["s"])  # once the right was granted, without a restart
    assert [entry["log_level"] for entry in logs if entry["event"] == "pool_splits_not_read"] == ["warning"]


def test_a_server_that_forbids_once_is_asked_again_before_anything_is_served() -> None:
    with virtual_time() as loop:
        client = loop.run_until_complete(server())
        loop.call_later(1.0, setattr, client, "allowed", True)
        first = loop.run_until_complete(watched(client, grant=True))[0]

    assert first[1:] == (True, ["s"])


def test_a_server_without_the_kind_has_no_pool_splits_to_obey() -> None:
    with virtual_time() as loop:
        client = loop.run_until_complete(server(crds=False))
        first = loop.run_until_complete(watched(client, grant=True))[0]

    assert first[1:] == (False, [])
