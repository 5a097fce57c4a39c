"""Codes, bodies and streams of the simulated server, as a real vLLM answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from rollouts.lab.vllm.pod import SimulatedPod
from tests.kit.polling import eventually

StartPod = Callable[..., Awaitable[SimulatedPod]]

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "where to?"}]


async def call(
    client: aiohttp.ClientSession, method: str, url: str, body: Any = None, **headers: str
) -> tuple[int, str]:
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    merged = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    async with client.request(method, url, data=data, headers=merged) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize(
    ("sentence", "path", "body", "status"),
    [
        ("a model that is not there", CHAT, {"model": "x", "messages": MESSAGES}, 404),
        ("no model is the base model", CHAT, {"messages": MESSAGES}, 200),
        ("an empty model is the base model", CHAT, {"model": "", "messages": MESSAGES}, 200),
        ("a prompt longer than the context", TEXT, {"prompt": "a" * 5000}, 400),
        ("a long prompt is refused when streamed too", TEXT, {"prompt": "a" * 5000, "stream": True}, 400),
        ("max_tokens alone above the context", TEXT, {"prompt": "a", "max_tokens": 513}, 400),
        ("prompt and max_tokens together are cut", TEXT, {"prompt": "a" * 1000, "max_tokens": 500}, 200),
        ("bad JSON", CHAT, b"{", 400),
        ("deep JSON", CHAT, b"[" * 100_000, 400),
        ("an empty body", CHAT, b"", 400),
        ("no messages", CHAT, {}, 400),
        ("an empty list of messages", CHAT, {"messages": []}, 400),
        ("messages of a wrong type", CHAT, {"messages": "hello"}, 400),
        ("an unknown role is fine", CHAT, {"messages": [{"role": "ghost", "content": "x"}]}, 200),
        ("a negative temperature", CHAT, {"messages": MESSAGES, "temperature": -1}, 400),
        ("top_p above 1", CHAT, {"messages": MESSAGES, "top_p": 2}, 400),
        ("max_tokens 0", CHAT, {"messages": MESSAGES, "max_tokens": 0}, 400),
        ("an empty prompt", TEXT, {"prompt": ""}, 400),
        ("a token id out of vocabulary", TEXT, {"prompt": [1, 10**9]}, 400),
        ("token ids", TEXT, {"prompt": [1, 2, 3]}, 200),
        ("tools without a parser", CHAT, {"messages": MESSAGES, "tools": [{"type": "function"}]}, 400),
        ("stream of a wrong type", CHAT, {"messages": MESSAGES, "stream": "yes"}, 400),
    ],
)
async def test_completion_codes(
    client: aiohttp.ClientSession, start_pod: StartPod, sentence: str, path: str, body: Any, status: int
) -> None:
    pod = await start_pod(max_model_len=512)
    answered, text = await call(client, "POST", pod.url + path, body)

    assert answered == status, sentence
    if status >= 400 and sentence != "deep JSON":  # FastAPI answers that one itself
        assert json.loads(text)["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/models/mymodel", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/health", 200),
        ("GET", "/load", 200),
    ],
)
async def test_other_codes(
    client: aiohttp.ClientSession, start_pod: StartPod, method: str, path: str, status: int
) -> None:
    pod = await start_pod(pooling=False)
    assert (await call(client, method, pod.url + path))[0] == status


async def test_a_wrong_content_type_is_400(client: aiohttp.ClientSession, start_pod: StartPod) -> None:
    pod = await start_pod()
    answered, _ = await call(
        client, "POST", pod.url + CHAT, {"messages": MESSAGES}, content_type="text/plain"
    )
    assert answered == 400


async def test_an_api_key_guards_v1_but_not_health_and_metrics(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(api_key="secret")
    codes = {path: (await call(client, "GET", pod.url + path))[0] for path in ("/v1/models", "/health")}

    assert codes == {"/v1/models": 401, "/health": 200}
    assert (await call(client, "GET", f"{pod.url}/metrics"))[0] == 200
    assert (await call(client, "GET", f"{pod.url}/v1/models", authorization="Bearer secret"))[0] == 200


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def test_a_chat_stream_has_role_content_finish_usage_and_done(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(adapters={"travel-helper-v1": "/v1"})
    body = {
        "model": "travel-helper-v1",
        "messages": MESSAGES,
        "max_tokens": 3,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    status, text = await call(client, "POST", pod.url + CHAT, body, x_request_id="abc")
    role, *content, usage, done = events(text)

    assert status == 200
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"].keys() for chunk in content] == [{"content"}] * 3
    assert [chunk["choices"][0]["finish_reason"] for chunk in content] == [None, None, "length"]
    assert usage["usage"]["completion_tokens"] == 3
    assert done == "[DONE]"
    assert {(chunk["id"], chunk["model"]) for chunk in (role, *content, usage)} == {
        ("chatcmpl-abc", "travel-helper-v1")
    }


async def test_adapters_answer_differently_and_repeatably(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(adapters={"a": "/a", "b": "/b"})

    async def text(model: str) -> str:
        body = {"model": model, "prompt": "hello", "max_tokens": 16, "ignore_eos": True}
        return str(json.loads((await call(client, "POST", pod.url + TEXT, body))[1])["choices"][0]["text"])

    assert await text("a") == await text("a") != await text("b")


async def test_models_lists_the_base_without_parent_and_adapters_with_it(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(adapters={"travel-helper-v1": "/v1"})
    _, text = await call(client, "GET", f"{pod.url}/v1/models")

    assert {card["id"]: card["parent"] for card in json.loads(text)["data"]} == {
        "mymodel": None,
        "travel-helper-v1": "mymodel",
    }


LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
V2 = {"lora_name": "v2", "lora_path": "/adapters/v2"}


@pytest.mark.parametrize(
    ("sentence", "knobs", "calls"),
    [
        ("load, and again", {}, [(LOAD, V2, 200), (LOAD, V2, 400)]),
        ("load again in place", {}, [(LOAD, V2, 200), (LOAD, {**V2, "load_inplace": True}, 200)]),
        ("a path without an adapter", {"loraLoad": "missing"}, [(LOAD, V2, 404)]),
        ("a rank above the limit", {"loraLoad": "fail"}, [(LOAD, V2, 500)]),
        ("a field is missing", {}, [(LOAD, {"lora_name": "v2"}, 400)]),
        ("the base model's name", {}, [(LOAD, {**V2, "lora_name": "mymodel"}, 400)]),
        ("unload, and again", {}, [(LOAD, V2, 200), (UNLOAD, V2, 200), (UNLOAD, V2, 404)]),
    ],
)
async def test_runtime_lora_codes(
    client: aiohttp.ClientSession,
    start_pod: StartPod,
    sentence: str,
    knobs: dict[str, str],
    calls: list[tuple[str, dict[str, Any], int]],
) -> None:
    pod = await start_pod()
    assert (await call(client, "POST", f"{pod.url}/lab/knobs", knobs))[0] == 200
    answered = [(await call(client, "POST", pod.url + path, body))[0] for path, body, _ in calls]

    assert answered == [status for *_, status in calls], sentence


async def test_a_loaded_adapter_serves_at_once_and_an_unloaded_one_does_not(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod()
    body = {"model": "v2", "messages": MESSAGES, "max_tokens": 1}
    codes = []
    for path in (LOAD, UNLOAD):
        status, text = await call(client, "POST", pod.url + path, V2)
        assert (status, text.startswith("Success: LoRA adapter 'v2'")) == (200, True)
        codes.append((await call(client, "POST", pod.url + CHAT, body))[0])

    assert codes == [200, 404]


async def test_requests_in_flight_on_an_unloaded_adapter_finish(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(adapters={"v2": "/v2"}, speed=0.5)
    body = {"model": "v2", "messages": MESSAGES, "max_tokens": 10, "ignore_eos": True}
    in_flight = asyncio.create_task(call(client, "POST", pod.url + CHAT, body))
    assert pod.server is not None
    await eventually(lambda: pod.server.engine.running_requests)
    assert (await call(client, "POST", pod.url + UNLOAD, V2))[0] == 200

    assert (await in_flight)[0] == 200


async def test_without_runtime_lora_the_routes_are_404(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(runtime_lora=False)
    assert (await call(client, "POST", pod.url + LOAD, V2))[0] == 404


async def test_a_hundred_at_once_with_a_queue_limit_of_64_refuses_36(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(max_queued=64, speed=0.05)
    body = {"prompt": "hello", "max_tokens": 1}
    answers = await asyncio.gather(*(call(client, "POST", pod.url + TEXT, body) for _ in range(100)))
    codes = [status for status, _ in answers]

    assert (codes.count(200), codes.count(503)) == (64, 36)


@pytest.mark.parametrize(
    ("kind", "stream", "status", "in_stream"),
    [
        ("500", False, 500, False),
        ("500", True, 500, False),
        ("sse", False, 500, False),
        ("sse", True, 200, True),
    ],
)
async def test_injected_errors(
    client: aiohttp.ClientSession, start_pod: StartPod, kind: str, stream: bool, status: int, in_stream: bool
) -> None:
    pod = await start_pod()
    await call(client, "POST", f"{pod.url}/lab/knobs", {"errors": "100%", "errorKind": kind})
    answered, text = await call(client, "POST", pod.url + CHAT, {"messages": MESSAGES, "stream": stream})

    assert answered == status
    if in_stream:
        assert [event if event == "[DONE]" else event["error"]["code"] for event in events(text)] == [
            500,
            "[DONE]",
        ]
    else:
        assert json.loads(text)["error"]["code"] == 500


async def test_more_adapters_than_max_loras_are_all_answered(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(adapters={"a": "/a", "b": "/b", "c": "/c"}, max_loras=1)
    bodies = [{"model": model, "messages": MESSAGES, "max_tokens": 2} for model in "abcabc"]
    answers = await asyncio.gather(*(call(client, "POST", pod.url + CHAT, body) for body in bodies))

    assert [status for status, _ in answers] == [200] * 6


async def test_a_not_ready_pod_says_so_and_still_serves(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod()
    await call(client, "POST", f"{pod.url}/lab/knobs", {"ready": False})

    assert (await call(client, "GET", f"{pod.url}/health"))[0] == 503
    assert (await call(client, "POST", pod.url + CHAT, {"messages": MESSAGES, "max_tokens": 1}))[0] == 200


async def test_the_crash_knob_closes_the_port(client: aiohttp.ClientSession, start_pod: StartPod) -> None:
    pod = await start_pod()
    assert (await call(client, "POST", f"{pod.url}/lab/knobs", {"crash": True}))[0] == 200

    with pytest.raises(aiohttp.ClientError):
        await call(client, "GET", f"{pod.url}/health")


async def test_the_drop_knob_loses_an_adapter(client: aiohttp.ClientSession, start_pod: StartPod) -> None:
    pod = await start_pod(adapters={"v1": "/v1"})
    await call(client, "POST", f"{pod.url}/lab/knobs", {"drop": "v1"})
    body = {"model": "v1", "messages": MESSAGES}

    assert (await call(client, "POST", pod.url + CHAT, body))[0] == 404


@pytest.mark.parametrize("touched", ["mymodel", "v1"])
async def test_knobs_of_one_model_leave_the_others_alone(
    start_pod: StartPod, client: aiohttp.ClientSession, touched: str
) -> None:
    pod = await start_pod(adapters={"v1": "/v1", "v2": "/v2"})
    knobs = {"model": touched, "errors": "100%"}
    assert (await call(client, "POST", f"{pod.url}/lab/knobs", knobs))[0] == 200
    codes = {}
    for model in ("mymodel", "v1", "v2"):
        body = {"model": model, "prompt": "hello", "max_tokens": 1}
        codes[model] = (await call(client, "POST", f"{pod.url}/v1/completions", body))[0]

    assert codes == {model: 500 if model == touched else 200 for model in codes}


@pytest.mark.timed
@pytest.mark.parametrize("touched", ["mymodel", "v1"])
async def test_only_the_model_of_the_knobs_is_slower(
    start_pod: StartPod, client: aiohttp.ClientSession, touched: str
) -> None:
    pod = await start_pod(adapters={"v1": "/v1"})
    await call(client, "POST", f"{pod.url}/lab/knobs", {"model": touched, "ttft": 200})
    times = {}
    for model in ("mymodel", "v1"):
        began = time.perf_counter()
        body = {"model": model, "prompt": "hello", "max_tokens": 1}
        await call(client, "POST", f"{pod.url}/v1/completions", body)
        times[model] = time.perf_counter() - began

    # 0.6 ms at twenty times the speed, and 200 times as much
    assert {model for model, seconds in times.items() if seconds > 0.05} == {touched}


QUERY = {"query": "a", "documents": ["b", "c"]}


@pytest.mark.parametrize(
    ("path", "body", "found"),
    [
        ("/v1/responses", {"input": "hello", "max_output_tokens": 3}, ("output", 0, "content", 0, "type")),
        ("/v1/responses", {"input": MESSAGES}, ("usage", "output_tokens")),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 3}, ("content", 0, "text")),
        ("/v1/embeddings", {"input": ["a", "b"]}, ("data", 1, "embedding", 7)),
        ("/v1/rerank", QUERY, ("results", 1, "relevance_score")),
        ("/v2/rerank", QUERY, ("usage", "total_tokens")),
        ("/rerank", QUERY, ("results", 0, "document", "text")),
        ("/score", {"text_1": "a", "text_2": ["b", "c"]}, ("data", 1, "score")),
        ("/v1/score", {"text_1": ["a"], "text_2": "b"}, ("data", 0, "score")),
        ("/tokenize", {"prompt": "hello there"}, ("tokens", 2)),
        ("/tokenize", {"messages": MESSAGES}, ("count",)),
    ],
)
async def test_the_other_paths_answer_for_models_that_are_there(
    client: aiohttp.ClientSession, start_pod: StartPod, path: str, body: Any, found: tuple[str | int, ...]
) -> None:
    pod = await start_pod(adapters={"v1": "/v1"})

    status, text = await call(client, "POST", f"{pod.url}{path}", {**body, "model": "v1"})
    missing = await call(client, "POST", f"{pod.url}{path}", {**body, "model": "x"})
    wrong = await call(client, "POST", f"{pod.url}{path}", {"model": "v1"})

    value = json.loads(text)
    for key in found:
        value = value[key]
    assert (status, missing[0], wrong[0]) == (200, 404, 400)
    assert value is not None


async def test_speech_to_text_is_asked_for_with_a_form(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(adapters={"v1": "/v1"})

    async def ask(**fields: Any) -> tuple[int, str]:
        form = aiohttp.FormData()
        for name, value in fields.items():
            form.add_field(name, value, filename="a.wav" if isinstance(value, bytes) else None)
        async with client.post(f"{pod.url}/v1/audio/transcriptions", data=form) as answer:
            return answer.status, await answer.text()

    status, text = await ask(model="v1", file=b"\x00\xff\r\n--")

    assert (status, json.loads(text)["text"]) == (200, "6 bytes of sound")
    assert await ask(model="v1", file=b"x", response_format="text") == (200, "1 bytes of sound")
    assert [(await ask(model="x", file=b"x"))[0], (await ask(model="v1"))[0]] == [404, 400]
    assert (await call(client, "POST", f"{pod.url}/v1/audio/translations", {"model": "v1"}))[0] == 400


async def test_realtime_speaks_websocket(client: aiohttp.ClientSession, start_pod: StartPod) -> None:
    pod = await start_pod()

    async with client.ws_connect(f"{pod.url}/v1/realtime") as socket:
        first = await socket.receive_json()
        await socket.send_json({"type": "session.update"})
        second = await socket.receive_json()

    assert (first["type"], second["type"]) == ("session.created", "session.updated")
    assert (await call(client, "GET", f"{pod.url}/v1/realtime"))[0] == 426
