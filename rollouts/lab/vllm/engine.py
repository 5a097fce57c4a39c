"""The engine of a simulated server: queue, batch, adapters in the batch, tokens over time, metrics.

Times in the metrics are measured, not drawn: the model says how long to wait, the clock says how long it
took. What an event moves in the metrics follows vLLM: a client that leaves is counted nowhere but in the
first token and the tokens so far; a request that fails inside counts with reason ``error``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum

from rollouts.lab.vllm.knobs import Hang, Knobs
from rollouts.lab.vllm.latency import LatencyModel
from rollouts.lab.vllm.metrics import VllmMetrics

__all__ = ["Engine", "Finish", "Generation"]


class Finish(Enum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class Generation:
    """One request in the engine. ``on_token(n, last)`` is told of new tokens, ``cold`` seconds later than of others."""

    __slots__ = (
        "adapter",
        "arrived",
        "cold",
        "decode_step",
        "failing",
        "first_token_at",
        "max_tokens",
        "model",
        "on_end",
        "on_token",
        "param_max_tokens",
        "prompt_tokens",
        "scheduled_at",
        "streamed",
        "timer",
        "tokens",
        "until",
    )

    def __init__(
        self,
        *,
        model: str,
        adapter: str,
        prompt_tokens: int,
        max_tokens: int,
        param_max_tokens: int | None,
        ignore_eos: bool,
        natural_tokens: int,
        streamed: bool,
        cold: float = 0.0,
        on_token: Callable[[int, bool], None],
        on_end: Callable[[Finish], None],
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.param_max_tokens = param_max_tokens
        self.until = max_tokens if ignore_eos else min(max_tokens, natural_tokens)
        self.streamed = streamed
        self.cold = cold
        self.on_token = on_token
        self.on_end = on_end
        self.tokens = 0
        self.arrived = self.scheduled_at = self.first_token_at = 0.0
        self.decode_step = 0.0
        self.failing = False
        self.timer: asyncio.TimerHandle | None = None

    @property
    def finish(self) -> Finish:
        """How it ends when nothing goes wrong."""
        return Finish.LENGTH if self.until >= self.max_tokens else Finish.STOP


class Engine:
    """Batches up to ``max_num_seqs`` generations, with at most ``max_loras`` adapters among them."""

    def __init__(
        self,
        *,
        metrics: VllmMetrics,
        latency: LatencyModel,
        max_num_seqs: int,
        max_loras: int,
        max_queued: int,
        kv_tokens: int,
    ) -> None:
        self._knobs = Knobs()
        self._hanging: dict[Generation, Callable[[], None]] = {}
        self._metrics = metrics
        self._latency = latency
        self._max_num_seqs = max_num_seqs
        self._max_loras = max_loras
        self._max_queued = max_queued
        self._kv_tokens = kv_tokens
        self._kv_used = 0
        self._waiting: deque[Generation] = deque()
        self._running: dict[Generation, None] = {}
        self._adapters: dict[str, int] = {}

    @property
    def knobs(self) -> Knobs:
        """What was set. What hung goes on when it no longer has to."""
        return self._knobs

    @knobs.setter
    def knobs(self, knobs: Knobs) -> None:
        self._knobs = knobs
        for generation, go_on in list(self._hanging.items()):
            if not self._hangs(generation):
                del self._hanging[generation]
                go_on()

    @property
    def latency(self) -> LatencyModel:
        """The source of randomness."""
        return self._latency

    @property
    def running_requests(self) -> int:
        """Size of the batch."""
        return len(self._running)

    def submit(self, generation: Generation, *, failing: bool) -> bool:
        """Queue it; False when the queue limit refuses it. ``failing``: it will end with ERROR."""
        if self._max_queued and self._without_output() >= self._max_queued:
            self.refuse()
            return False
        loop = asyncio.get_running_loop()
        generation.arrived = loop.time()
        generation.failing = failing
        self._waiting.append(generation)
        if self.knobs.queue_seconds > 0:
            generation.timer = loop.call_later(self.knobs.queue_seconds, self._unhold, generation)
        else:
            self._schedule()
        return True

    def abort(self, generation: Generation) -> None:
        """The client is gone."""
        self._hanging.pop(generation, None)
        if generation.timer is not None:
            generation.timer.cancel()
            generation.timer = None
        if generation in self._running:
            if generation.first_token_at and not generation.streamed:
                self._count_unseen(generation)
            self._leave(generation)
        elif generation in self._waiting:
            self._waiting.remove(generation)
        self._schedule()

    def refuse(self) -> None:
        """A request that the queue limit refuses."""
        self._metrics.rejections["max_num_queued_reqs"].inc()

    def _hangs(self, generation: Generation) -> bool:
        return self._knobs.hang is not Hang.OFF and self._knobs.concerns(generation.model)

    def _held(self, generation: Generation, go_on: Callable[[], None]) -> bool:
        """Whether the generation stays as it is until the knob lets it go on."""
        if self._hangs(generation):
            generation.timer = None
            self._hanging[generation] = go_on
            return True
        return False

    def count_failure(self) -> None:
        """A request that fails before it gets a first token."""
        self._metrics.success[Finish.ERROR.value].inc()

    def stop(self) -> None:
        """Drop everything, as a killed process does."""
        for generation in (*self._running, *self._waiting):
            if generation.timer is not None:
                generation.timer.cancel()
        self._hanging.clear()
        self._running.clear()
        self._waiting.clear()
        self._adapters.clear()

    def update_gauges(self) -> None:
        """Bring the gauges up to date; called before a scrape. They come from the engine, unless it stopped."""
        if self._knobs.hang is Hang.ENGINE:
            return
        deferred = sum(1 for generation in self._waiting if self._deferred(generation))
        waiting = len(self._waiting) + self.knobs.waiting
        self._metrics.running.set(len(self._running))
        self._metrics.waiting.set(waiting)
        self._metrics.waiting_by_reason["capacity"].set(waiting - deferred)
        self._metrics.waiting_by_reason["deferred"].set(deferred)
        self._metrics.kv_cache.set(min(1.0, max(self.knobs.kv_cache, self._kv_used / self._kv_tokens)))

    def _without_output(self) -> int:
        """Requests that have not produced anything yet: what the admission limit counts."""
        return len(self._waiting) + sum(1 for generation in self._running if not generation.first_token_at)

    def _count_unseen(self, generation: Generation) -> None:
        """Tokens that an unstreamed answer has had until now, when its client left."""
        elapsed = asyncio.get_running_loop().time() - generation.first_token_at
        made = min(generation.until - 1, int(elapsed / max(generation.decode_step, 1e-9)))
        self._metrics.generation_tokens.inc(made)

    def _unhold(self, generation: Generation) -> None:
        generation.timer = None
        self._schedule()

    def _deferred(self, generation: Generation) -> bool:
        """Whether it waits for one of the batch's adapters to leave."""
        adapter = generation.adapter
        return bool(adapter) and adapter not in self._adapters and len(self._adapters) >= self._max_loras

    def _schedule(self) -> None:
        if not self._waiting:
            return
        kept: deque[Generation] = deque()
        while self._waiting and len(self._running) < self._max_num_seqs:
            generation = self._waiting.popleft()
            if generation.timer is not None or self._deferred(generation):
                kept.append(generation)
            else:
                self._enter(generation)
        self._waiting.extendleft(reversed(kept))

    def _enter(self, generation: Generation) -> None:
        loop = asyncio.get_running_loop()
        load = len(self._running) / self._max_num_seqs
        self._running[generation] = None
        self._kv_used += generation.prompt_tokens
        if generation.adapter:
            self._adapters[generation.adapter] = self._adapters.get(generation.adapter, 0) + 1
        generation.scheduled_at = loop.time()
        touched = self.knobs.concerns(generation.model)
        slower = (self.knobs.ttft, self.knobs.tpot) if touched else (1.0, 1.0)
        delay = self._latency.first_token(generation.prompt_tokens, load) * slower[0] + generation.cold
        generation.decode_step = self._latency.per_token(load) * slower[1]
        generation.timer = loop.call_later(delay, self._first_token, generation)

    def _leave(self, generation: Generation) -> None:
        del self._running[generation]
        self._kv_used -= generation.prompt_tokens + generation.tokens
        adapter = generation.adapter
        if adapter:
            self._adapters[adapter] -= 1
            if not self._adapters[adapter]:
                del self._adapters[adapter]
                self._metrics.note_adapters(tuple(self._adapters))

    def _first_token(self, generation: Generation) -> None:
        if self._held(generation, lambda: self._first_token(generation)):
            return
        if generation.failing:
            self._end(generation, Finish.ERROR)
            return
        loop = asyncio.get_running_loop()
        now = generation.first_token_at = loop.time()
        metrics = self._metrics
        metrics.ttft.observe(now - generation.arrived)
        metrics.prompt_tokens.inc(generation.prompt_tokens)
        metrics.prompt_by_source["local_compute"].inc(generation.prompt_tokens)
        metrics.prefix_queries.inc(generation.prompt_tokens)
        metrics.iteration_tokens.observe(generation.prompt_tokens + 1)
        # vLLM hears of adapters with the outputs, so a waiting one shows up only with its first token.
        metrics.note_adapters(tuple(self._adapters))
        self._count(generation, 1)
        if generation.until <= 1:
            self._end(generation, generation.finish)
        elif generation.streamed:
            generation.timer = loop.call_later(generation.decode_step, self._next_token, generation, now)
        else:
            remaining = generation.decode_step * (generation.until - 1)
            generation.timer = loop.call_later(remaining, self._all_tokens, generation)

    def _next_token(self, generation: Generation, before: float) -> None:
        if self._held(generation, lambda: self._next_token(generation, before)):
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._metrics.itl.observe(now - before)
        self._metrics.iteration_tokens.observe(max(1, len(self._running)))
        self._count(generation, 1)
        if generation.tokens >= generation.until:
            self._end(generation, generation.finish)
        else:
            generation.timer = loop.call_later(generation.decode_step, self._next_token, generation, now)

    def _all_tokens(self, generation: Generation) -> None:
        """The rest of an answer that is not streamed: nobody sees its single tokens, so they come at once."""
        if self._held(generation, lambda: self._all_tokens(generation)):
            return
        rest = generation.until - generation.tokens
        elapsed = asyncio.get_running_loop().time() - generation.first_token_at
        self._metrics.itl.observe(elapsed / rest, rest)
        self._metrics.iteration_tokens.observe(max(1, len(self._running)), rest)
        self._count(generation, rest)
        self._end(generation, generation.finish)

    def _count(self, generation: Generation, tokens: int) -> None:
        generation.tokens += tokens
        self._kv_used += tokens
        self._metrics.generation_tokens.inc(tokens)
        generation.on_token(tokens, generation.tokens >= generation.until)

    def _end(self, generation: Generation, finish: Finish) -> None:
        generation.timer = None
        self._leave(generation)
        self._record(generation, finish)
        generation.on_end(finish)
        self._schedule()

    def _record(self, generation: Generation, finish: Finish) -> None:
        now, metrics = asyncio.get_running_loop().time(), self._metrics
        metrics.success[finish.value].inc()
        first = generation.first_token_at or now
        decode = now - first
        metrics.e2e.observe(now - generation.arrived)
        metrics.queue.observe(generation.scheduled_at - generation.arrived)
        metrics.inference.observe(now - generation.scheduled_at)
        metrics.prefill.observe(first - generation.scheduled_at)
        metrics.decode.observe(decode)
        metrics.tpot.observe(decode / (generation.tokens - 1) if generation.tokens > 1 else 0.0)
        metrics.request_prompt.observe(generation.prompt_tokens)
        metrics.request_generation.observe(generation.tokens)
        metrics.max_generation.observe(generation.tokens)
        metrics.params_n.observe(1)
        if generation.param_max_tokens is not None:
            metrics.params_max_tokens.observe(generation.param_max_tokens)
        metrics.kv_computed.observe(generation.prompt_tokens)
        metrics.request_preemptions.observe(0)
