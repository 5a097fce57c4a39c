"""The HTTP surface of one simulated vLLM server: completions, models, adapters, health, metrics, knobs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from rollouts.lab.vllm.adapters import Adapters
from rollouts.lab.vllm.answers import PlainAnswer, StreamedAnswer
from rollouts.lab.vllm.api_paths import DIALECTS, POOLING, TOKENS, read_form, transcription
from rollouts.lab.vllm.engine import Engine, Generation
from rollouts.lab.vllm.errors import ApiError, bad_request, compact_json, error_body
from rollouts.lab.vllm.exposition import CONTENT_TYPE, MetricRegistry
from rollouts.lab.vllm.http_server import HttpExchange
from rollouts.lab.vllm.knobs import ErrorKind, KnobError, apply_knobs, knobs_to_json, seconds
from rollouts.lab.vllm.latency import LatencyModel
from rollouts.lab.vllm.metrics import HttpMetrics, VllmMetrics
from rollouts.lab.vllm.process_metrics import process_lines
from rollouts.lab.vllm.realtime import serve_realtime
from rollouts.lab.vllm.requests import parse_completion, parse_json, text_field
from rollouts.lab.vllm.spec import PodSpec

__all__ = ["VllmServer"]

_JSON = "application/json"
_COLD = b"x-inference-cold: true\r\n"
"""On answers that a process gave while it was cold, so that clients can be counted that met it so."""
_BLOCK_TOKENS = 128
# Not counted by the HTTP layer of vLLM.
_UNCOUNTED = frozenset({"/health", "/metrics", "/load", "/ping", "/version", "/v1/load_lora_adapter"})


def _busy() -> ApiError:
    return ApiError(503, "ServiceUnavailableError", "The engine is currently busy. Try again later.")


class VllmServer:
    """State of one server process: it starts with empty counters, and they die with it."""

    def __init__(self, spec: PodSpec, *, crash: Callable[[float | None], None]) -> None:
        self._spec = spec
        self._crash = crash
        self._started = time.time()
        self._registry = MetricRegistry()
        metrics = VllmMetrics(
            self._registry,
            model_name=spec.served_model,
            max_model_len=spec.max_model_len,
            max_loras=spec.max_loras,
            num_gpu_blocks=spec.kv_tokens // _BLOCK_TOKENS,
        )
        self._http = HttpMetrics(self._registry)
        self.engine = Engine(
            metrics=metrics,
            latency=LatencyModel(spec.latency, seed=spec.seed, speed=spec.speed),
            max_num_seqs=spec.max_num_seqs,
            max_loras=spec.max_loras,
            max_queued=spec.max_queued,
            kv_tokens=spec.kv_tokens,
        )
        self.adapters = Adapters(spec)
        self._headers = (
            f"x-inference-pod: {spec.name}\r\nx-inference-namespace: {spec.namespace}\r\n".encode()
        )
        self._pooled = {**TOKENS, **(POOLING if spec.pooling else {})}
        generated: dict[str, dict[str, Callable[[HttpExchange], None]]] = {
            "/v1/chat/completions": {"POST": lambda exchange: self._complete(exchange, chat=True)},
            "/v1/completions": {"POST": lambda exchange: self._complete(exchange, chat=False)},
            **{path: {"POST": lambda exchange: self._complete(exchange, chat=True)} for path in DIALECTS},
        }
        self._routes: dict[str, dict[str, Callable[[HttpExchange], None]]] = {
            **(generated if spec.generates else {}),
            **{path: {"POST": self._pool} for path in self._pooled},
            "/v1/audio/transcriptions": {"POST": self._transcribe},
            "/v1/audio/translations": {"POST": self._transcribe},
            "/v1/realtime": {"GET": lambda exchange: serve_realtime(exchange, self._headers)},
            "/v1/models": {"GET": self._models},
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/metrics": {"GET": self._metrics},
            "/version": {"GET": lambda exchange: self._json(exchange, 200, {"version": "0.32.0"})},
            "/load": {"GET": lambda exchange: self._json(exchange, 200, {"server_load": 0})},
            "/lab/knobs": {"GET": self._show_knobs, "POST": self._set_knobs},
        }
        if spec.runtime_lora:
            self._routes["/v1/load_lora_adapter"] = {"POST": self._load_adapter}
            self._routes["/v1/unload_lora_adapter"] = {"POST": self._unload_adapter}

    def handle(self, exchange: HttpExchange) -> None:
        """Answer one request."""
        request = exchange.request
        methods = self._routes.get(request.path)
        try:
            if self._unauthorized(request.path, request.headers):
                self._json(exchange, 401, {"error": "Unauthorized"})
            elif methods is None and request.path[:-1] in self._routes:
                self._reply(exchange, 307, b"", "")  # Starlette sends a slash too many to the path without it
            elif methods is None:
                self._json(exchange, 404, {"detail": "Not Found"})
            elif request.method not in methods:
                self._json(exchange, 405, {"detail": "Method Not Allowed"})
            else:
                methods[request.method](exchange)
        except ApiError as error:
            self._refused(exchange, error)

    def _refused(self, exchange: HttpExchange, error: ApiError) -> None:
        body = error_body(error)
        if exchange.request.path == "/v1/messages" and "error" in body:
            body = {"type": "error", "error": {"type": error.kind, "message": str(error)}}
        try:
            self._json(exchange, error.status, body)
        except UnicodeEncodeError as why:  # half a surrogate pair, repeated in the message
            self._json(exchange, 400, error_body(bad_request(str(why))))

    def stop(self) -> None:
        """Drop all requests in flight."""
        self.engine.stop()

    def _unauthorized(self, path: str, headers: Mapping[str, str]) -> bool:
        key = self._spec.api_key
        return bool(key) and path.startswith("/v1/") and headers.get("authorization") != f"Bearer {key}"

    def _json(self, exchange: HttpExchange, status: int, document: Mapping[str, Any]) -> None:
        self._reply(exchange, status, compact_json(document), _JSON)

    def _reply(self, exchange: HttpExchange, status: int, body: bytes, content_type: str) -> None:
        exchange.reply(status, body, content_type, self._headers)
        self._count(exchange, status, 0.0, len(body))

    def _count(self, exchange: HttpExchange, status: int, seconds: float, size: int) -> None:
        request = exchange.request
        if request.path in _UNCOUNTED or request.path.startswith("/lab/"):
            return
        handler = request.path if request.path in self._routes or status == 307 else "none"
        self._http.record(
            handler,
            request.method,
            status,
            seconds=seconds,
            request_bytes=int(request.headers.get("content-length", "0")),
            response_bytes=size,
        )

    def _complete(self, exchange: HttpExchange, *, chat: bool) -> None:
        request, began = exchange.request, time.perf_counter()
        body = parse_json(request.body, request.headers.get("content-type", ""))
        if request.path in DIALECTS:
            body = DIALECTS[request.path](body)
        completion = parse_completion(body, chat=chat, max_model_len=self._spec.max_model_len)
        model = self.adapters.resolve(completion.model)
        knobs, latency = self.engine.knobs, self.engine.latency
        failing = knobs.concerns(model) and latency.happens(knobs.errors)
        cold = latency.cold_start()
        kind = StreamedAnswer if completion.stream else PlainAnswer
        answer = kind(
            exchange,
            completion,
            model=model,
            content=self.adapters.content(model),
            request_id=request.headers.get("x-request-id") or uuid.uuid4().hex,
            headers=self._headers + (_COLD if cold else b""),
            done=lambda status, size: self._count(exchange, status, time.perf_counter() - began, size),
        )
        if knobs.concerns(model) and latency.happens(knobs.refuse):
            self._refuse(answer)
            return
        if failing and knobs.error_kind is ErrorKind.HTTP_500 and completion.stream:
            # A stream begins with 200 before any token: to answer 500 it must fail before that.
            self.engine.count_failure()
            raise ApiError(500, "InternalServerError", "Internal server error")
        generation = Generation(
            model=model,
            adapter="" if model == self._spec.served_model else model,
            prompt_tokens=completion.prompt_tokens,
            max_tokens=completion.max_tokens,
            param_max_tokens=completion.param_max_tokens,
            ignore_eos=completion.ignore_eos,
            natural_tokens=latency.output_tokens(),
            streamed=completion.stream,
            cold=cold,
            on_token=answer.token,
            on_end=answer.end,
        )
        if not self.engine.submit(generation, failing=failing):
            raise _busy()
        exchange.on_close = lambda: self._client_left(exchange, generation, began)
        if isinstance(answer, StreamedAnswer):
            answer.begin(knobs)

    def _refuse(self, answer: PlainAnswer | StreamedAnswer) -> None:
        """At the queue limit: 503, but a stream may have begun with 200 by then (measured on 0.32)."""
        self.engine.refuse()
        if isinstance(answer, PlainAnswer):
            raise _busy()
        answer.begin(self.engine.knobs)
        answer.fail(_busy())

    def _pool(self, exchange: HttpExchange) -> None:
        request = exchange.request
        body = parse_json(request.body, request.headers.get("content-type", ""))
        model = self.adapters.resolve(text_field(body, "model"))
        self._json(exchange, 200, self._pooled[request.path](body, model))

    def _transcribe(self, exchange: HttpExchange) -> None:
        request = exchange.request
        fields, files = read_form(request.body, request.headers.get("content-type", ""))
        self.adapters.resolve(fields.get("model", ""))
        self._reply(exchange, 200, *transcription(fields, files))

    def _client_left(self, exchange: HttpExchange, generation: Generation, began: float) -> None:
        self.engine.abort(generation)
        # vLLM's HTTP layer counts a request that its client left as a success.
        self._count(exchange, 200, time.perf_counter() - began, 0)

    def _models(self, exchange: HttpExchange) -> None:
        self._json(exchange, 200, {"object": "list", "data": self.adapters.cards(int(self._started))})

    def _health(self, exchange: HttpExchange) -> None:
        self._reply(exchange, 200 if self.engine.knobs.ready else 503, b"", "")

    def _metrics(self, exchange: HttpExchange) -> None:
        self.engine.update_gauges()
        process = "\n".join(process_lines(self._started)).encode() + b"\n"
        self._reply(exchange, 200, process + self._registry.render(), CONTENT_TYPE)

    def _load_adapter(self, exchange: HttpExchange) -> None:
        body = parse_json(exchange.request.body, exchange.request.headers.get("content-type", ""))
        self.adapters.load(body, self.engine.knobs, lambda outcome: self._adapter_answer(exchange, outcome))

    def _unload_adapter(self, exchange: HttpExchange) -> None:
        body = parse_json(exchange.request.body, exchange.request.headers.get("content-type", ""))
        self._adapter_answer(exchange, self.adapters.unload(body))

    def _adapter_answer(self, exchange: HttpExchange, outcome: str | ApiError) -> None:
        if isinstance(outcome, ApiError):
            self._json(exchange, outcome.status, error_body(outcome))
        else:
            self._reply(exchange, 200, outcome.encode(), "")

    def _show_knobs(self, exchange: HttpExchange) -> None:
        self._json(exchange, 200, knobs_to_json(self.engine.knobs))

    def _set_knobs(self, exchange: HttpExchange) -> None:
        """Knobs, and three actions: ``reset``, ``drop`` (an adapter), ``crash`` (seconds until restart,
        true for never)."""
        changes = dict(parse_json(exchange.request.body, _JSON))
        drop, crash = changes.pop("drop", None), changes.pop("crash", None)
        try:
            knobs = apply_knobs(
                self._spec.knobs if changes.pop("reset", False) else self.engine.knobs, changes
            )
            restart_after = None if crash in (None, True) else seconds(crash)
        except KnobError as error:
            raise ApiError(400, "BadRequestError", str(error)) from None
        self.engine.knobs = knobs
        if drop is not None:
            self.adapters.drop(str(drop))
        self._json(exchange, 200, knobs_to_json(knobs))
        if crash is not None:
            self._crash(restart_after)
