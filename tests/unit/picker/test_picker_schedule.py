"""Which pod wins, and how a new one is let in."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from rollouts.picker.core.endpoints import Endpoint
from rollouts.picker.core.prefix import BLOCK, MAX_PREFIX, PrefixIndex, block_hashes
from rollouts.picker.core.schedule import Load, ScheduleConfig, ScheduledPod, Scheduler
from rollouts.picker.core.scrape import ModelList, ScrapeConfig, parse_metrics, parse_models, wait_for

A, B, C = (Endpoint(f"10.0.0.{n}:8000", f"10.0.0.{n}", 8000, f"pod-{n}", "pool", 1.0) for n in (1, 2, 3))


def make_scheduler(*loads: Load, endpoints: tuple[Endpoint, ...] = (A, B)) -> Scheduler:
    scheduler = Scheduler()
    scheduler.sync(endpoints, 1000.0, 1000.0)
    for endpoint, load in zip(endpoints, loads, strict=False):
        scheduler.observe(endpoint.address, load, 1000.0)
    return scheduler


def both(scheduler: Scheduler) -> list[ScheduledPod]:
    return scheduler.candidates(None)


def pick(scheduler: Scheduler) -> Endpoint:
    return scheduler.choose(both(scheduler), "m", (), 1000.0)


def is_saturated(scheduler: Scheduler, now: float) -> bool:
    return scheduler.saturated(both(scheduler), now)


@pytest.mark.parametrize(
    ("sentence", "loads", "want"),
    [
        ("the shorter queue", (Load(waiting=9), Load(waiting=1)), B),
        ("the emptier cache", (Load(kv_usage=0.9), Load(kv_usage=0.2)), B),
        ("fewer requests in flight", (Load(running=5), Load(running=1)), B),
        (
            "the adapter at work",
            (Load(max_adapters=2), Load(active_adapters=frozenset({"m"}), max_adapters=2)),
            B,
        ),
        (
            "a free adapter slot",
            (Load(active_adapters=frozenset({"x"}), max_adapters=1), Load(max_adapters=1)),
            B,
        ),
    ],
)
def test_preference(sentence: str, loads: tuple[Load, ...], want: Endpoint) -> None:
    assert pick(make_scheduler(*loads)) == want


def test_equal_pods_take_turns() -> None:
    scheduler = make_scheduler()

    chosen = Counter(scheduler.choose(both(scheduler), "m", (), 1000.0).pod for _ in range(100))

    assert chosen == {"pod-1": 50, "pod-2": 50}


def test_a_burst_between_two_scrapes_is_spread_by_the_own_count() -> None:
    scheduler = make_scheduler(Load(running=10), Load(running=0))

    chosen = Counter(scheduler.choose(both(scheduler), "m", (), 1000.0).pod for _ in range(10))

    assert chosen["pod-2"] >= 9
    assert scheduler.dispatched(B.address) == chosen["pod-2"]
    scheduler.observe(B.address, Load(running=3), 1001.0, before=chosen["pod-2"] - 2)
    assert scheduler.dispatched(B.address) == 2
    scheduler.observe(B.address, Load(running=3), 1001.0, before=9)
    assert scheduler.dispatched(B.address) == 0
    scheduler.choose([both(scheduler)[1]], "m", (), 1001.0)
    scheduler.observe(B.address, Load(running=3), 1001.0, before=0)
    assert scheduler.dispatched(B.address) == 1
    assert scheduler.busy(B.address)


def test_a_prompt_goes_where_its_beginning_has_been() -> None:
    scheduler = make_scheduler()
    hashes = block_hashes("m", b"x" * BLOCK * 4)
    first = scheduler.choose(both(scheduler), "m", hashes, 1000.0)

    assert {scheduler.choose(both(scheduler), "m", hashes, 1000.0) for _ in range(5)} == {first}


def test_prefixes_match_from_the_start_and_per_model() -> None:
    index = PrefixIndex()
    index.add("a", block_hashes("m", b"x" * BLOCK * 4))
    index.add("b", block_hashes("m", b"x" * BLOCK * 2 + b"y" * BLOCK * 2))

    assert index.match(block_hashes("m", b"x" * BLOCK * 4)) == {"a": 4, "b": 2}
    assert index.match(block_hashes("m", b"x" * BLOCK * 3 + b"z" * BLOCK)) == {"a": 3, "b": 2}
    assert index.match(block_hashes("other", b"x" * BLOCK * 4)) == {}
    assert index.match(block_hashes("m", b"y" + b"x" * BLOCK * 4)) == {}
    assert block_hashes("m", b"x" * (BLOCK - 1)) == ()


def test_long_prompts_have_few_blocks_and_the_rest_of_them_is_not_looked_at() -> None:
    prompt = b"x" * MAX_PREFIX

    assert len(block_hashes("m", prompt)) == 10
    assert block_hashes("m", prompt + b"y" * 9000) == block_hashes("m", prompt)
    assert block_hashes("m", prompt[:-1]) == block_hashes("m", prompt)[:-1]


def test_a_new_pod_is_let_in_by_degrees_and_an_old_one_at_once() -> None:
    scheduler = make_scheduler()
    new = C._replace(ready_since=1000.0)
    scheduler.sync((A, B, new), 1000.0, 1000.0)
    shares = []
    for second in (1000.0, 1015.0, 1029.0, 1031.0):
        for endpoint in (A, B, new):
            scheduler.observe(endpoint.address, Load(), second)
        chosen = Counter(scheduler.choose(both(scheduler), "m", (), second).pod for _ in range(90))
        shares.append(chosen["pod-3"])

    assert shares[0] <= 9
    assert shares == sorted(shares)
    assert shares[-1] == 30


def test_a_restarted_picker_does_not_take_the_pool_for_new() -> None:
    config = ScheduleConfig()
    scheduler = Scheduler(config)
    unknown = [e._replace(ready_since=0.0) for e in (A, B)]
    scheduler.sync([unknown[0], B._replace(ready_since=999.0 - config.slow_start)], 1000.0, 1000.0)

    assert Counter(scheduler.choose(both(scheduler), "m", (), 1000.0).pod for _ in range(20)) == {
        "pod-1": 10,
        "pod-2": 10,
    }


def test_a_pool_of_new_pods_only_serves() -> None:
    scheduler = Scheduler()
    scheduler.sync([A._replace(ready_since=1000.0)], 1000.0, 1000.0)

    assert scheduler.choose(both(scheduler), "m", (), 1000.0).pod == "pod-1"


def test_saturation_needs_fresh_figures_of_every_pod() -> None:
    full = Load(waiting=6)
    assert is_saturated(make_scheduler(full, Load(kv_usage=0.81)), 1000.0)
    assert not is_saturated(make_scheduler(full, Load()), 1000.0)
    assert not is_saturated(make_scheduler(full, full), 1011.0)
    assert not is_saturated(make_scheduler(full), 1000.0)


EXPOSITION = """# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="mymodel"} 3.0
vllm:num_requests_running{engine="1",model_name="mymodel"} 1.0
vllm:num_requests_waiting{engine="0",model_name="mymodel"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="mymodel",reason="capacity"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="mymodel"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="mymodel"} 0.5
vllm:lora_requests_info{max_lora="2",running_lora_adapters="v1,v2",waiting_lora_adapters=""} 1.7e+09
vllm:lora_requests_info{max_lora="2",running_lora_adapters="v2",waiting_lora_adapters="v2"} 1.8e+09
"""


SGLANG_PRIORITIES = """sglang:num_running_reqs{priority="",tp_rank="0"} 14.0
sglang:num_running_reqs{priority="0",tp_rank="0"} 11.0
sglang:num_running_reqs{priority="5",tp_rank="0"} 3.0
sglang:num_queue_reqs{priority="",tp_rank="0"} 2.0
sglang:num_queue_reqs{priority="0",tp_rank="0"} 2.0
"""

SGLANG_RANKS = "".join(
    f'sglang:{name}{{dp_rank="{rank // 2}",moe_ep_rank="{rank}",pp_rank="{stage}",tp_rank="{rank}"}} {count}\n'
    for name, counts in (
        ("num_running_reqs", (6, 2)),
        ("num_queue_reqs", (1, 0)),
        ("token_usage", (0.4, 0.2)),
    )
    for rank in range(4)
    for stage in range(2)
    for count in counts[rank // 2 : rank // 2 + 1]
)


@pytest.mark.parametrize(
    ("sentence", "text", "want"),
    [
        (
            "vLLM with two engines and the newest adapter series",
            EXPOSITION,
            Load(running=4, waiting=2, kv_usage=0.5, active_adapters=frozenset({"v2"}), max_adapters=2),
        ),
        ("the old cache name", "vllm:gpu_cache_usage_perc 0.5\n", Load(kv_usage=0.5)),
        (
            "SGLang",
            "sglang:num_running_reqs 2\nsglang:num_queue_reqs 1\nsglang:token_usage 0.1\n",
            Load(running=2, waiting=1, kv_usage=0.1),
        ),
        (
            "SGLang with a series per priority beside their sum",
            SGLANG_PRIORITIES,
            Load(running=14, waiting=2),
        ),
        (
            "SGLang with ranks that share their requests, and data parallel ones that do not",
            SGLANG_RANKS,
            Load(running=8, waiting=1, kv_usage=0.4),
        ),
        ("nothing", "", Load()),
        ("garbage", "vllm:num_requests_running NaN\nvllm:kv_cache_usage_perc -1\n<html>", Load()),
        ("infinity", "vllm:num_requests_waiting +Inf\nvllm:kv_cache_usage_perc 7\n", Load(kv_usage=1.0)),
    ],
)
def test_metrics_are_read(sentence: str, text: str, want: Load) -> None:
    assert parse_metrics(text, ModelList()) == want


@pytest.mark.parametrize(
    ("body", "want"),
    [
        (b'{"data":[{"id":"a"},{"id":"b"},{"x":1},3]}', ModelList(frozenset({"a", "b"}))),
        (
            b'{"data":[{"id":"mymodel","parent":null},{"id":"v1","parent":"mymodel"},{"id":[]}]}',
            ModelList(frozenset({"mymodel", "v1"}), frozenset({"v1"})),
        ),
        (b'{"data":{}}', ModelList()),
        (b"[]", ModelList()),
        (b"nope", ModelList()),
        (b"[" * 100_000, ModelList()),
    ],
)
def test_model_lists_are_read(body: bytes, want: ModelList) -> None:
    assert parse_models(body) == want


def test_only_busy_pods_are_scraped_fast() -> None:
    config = ScrapeConfig()

    assert wait_for(config, busy=True, failures=0) == config.busy
    assert wait_for(config, busy=False, failures=0) == config.idle
    waits = [wait_for(config, busy=True, failures=count) for count in (1, 2, 3, 50)]
    assert waits == [0.5, 1.0, 2.0, config.idle]


@pytest.mark.parametrize("count", [1, 4, 12])
@pytest.mark.parametrize("slots", [0, 4], ids=["without adapters", "with adapter slots"])
@pytest.mark.parametrize("known", [True, False], ids=["list known", "list not known"])
def test_a_base_model_is_spread_evenly_over_idle_pods(count: int, slots: int, known: bool) -> None:
    """Requests of different prompts, ``count`` in flight, on 8 pods whose figures are read after each."""
    load = Load(models=frozenset({"base", "v1"}) if known else None, max_adapters=slots)
    load = replace(load, adapters=frozenset({"v1"}) if known else frozenset())
    pool = Pods(8, load)

    seen = pool.serve(160, count, prompt=lambda number: block_hashes("base", b"%08d" % number * BLOCK))

    assert seen == {f"p{number}": 20 for number in range(8)}


def test_turns_are_taken_among_those_that_are_equal() -> None:
    """A turn that passes over a busy pod is not its neighbour's."""
    scheduler = make_scheduler(Load(), Load(running=5), Load(), endpoints=(A, B, C))

    seen = Counter()
    for _ in range(60):
        chosen = pick(scheduler)
        scheduler.observe(chosen.address, Load(), 1000.0)
        seen[chosen] += 1

    assert seen == {A: 30, C: 30}


@pytest.mark.parametrize(
    ("count", "least", "most"),
    [(1, 200, 200), (4, 200, 200), (8, 200, 200), (64, 20, 60)],
    ids=lambda value: str(value),
)
def test_a_prefix_in_common_wins_until_load_does(count: int, least: int, most: int) -> None:
    """All requests have one beginning, as under one system prompt: the busiest of 8 pods gets so many of 200."""
    pool = Pods(8, Load(models=frozenset({"base"})))
    hashes = block_hashes("base", b"x" * BLOCK * 4)

    seen = pool.serve(200, count, prompt=lambda number: hashes)

    assert least <= max(seen.values()) <= most
    assert count <= 8 or len(seen) == 8


def test_without_figures_a_prefix_in_common_does_not_fill_one_pod() -> None:
    """``--no-scrape``, or pods that answer no scrape: only what was dispatched is known."""
    scheduler = make_scheduler(endpoints=(A, B, C))
    hashes = block_hashes("m", b"x" * BLOCK * 4)

    seen = Counter(scheduler.choose(both(scheduler), "m", hashes, 1000.0).pod for _ in range(90))

    assert max(seen.values()) <= 40


def test_an_adapter_stays_where_it_is_loaded_and_its_base_model_does_not() -> None:
    listed = Load(models=frozenset({"base", "v1"}), adapters=frozenset({"v1"}), max_adapters=4)
    pool = Pods(8, listed)

    assert len(pool.serve(40, 1, model="v1")) == 1
    assert len(pool.serve(40, 1, model="base")) == 8


class Pods:
    """Pods that serve at once, each request for as long as ``count`` later ones take to come."""

    def __init__(self, pods: int, load: Load) -> None:
        self.scheduler, self.load, self.now = Scheduler(), load, 1000.0
        names = [Endpoint(f"10.0.0.{n}:8000", f"10.0.0.{n}", 8000, f"p{n}", "pool", 1.0) for n in range(pods)]
        self.scheduler.sync(names, self.now, 5000.0)
        for endpoint in names:
            self.scheduler.observe(endpoint.address, load, self.now)

    def serve(
        self,
        requests: int,
        count: int,
        *,
        model: str = "base",
        prompt: Callable[[int], tuple[int, ...]] = lambda number: (),
    ) -> Counter[str]:
        """Requests per pod with ``count`` in flight all the time."""
        flying: deque[Endpoint] = deque()
        seen: Counter[str] = Counter()
        for number in range(requests):
            self.now += 0.25
            able = self.scheduler.serving(self.scheduler.candidates(None), model)
            flying.append(self.scheduler.choose(able, model, prompt(number), self.now))
            seen[flying[-1].pod] += 1
            ended = flying.popleft() if len(flying) >= count else None
            for endpoint in {*flying, ended} - {None}:
                running = flying.count(endpoint)
                self.scheduler.observe(endpoint.address, replace(self.load, running=running), self.now + 0.1)
        return seen
