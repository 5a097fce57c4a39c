"""What a model server says of a call that went wrong is passed on: its sentence, in one line that can be shown."""

from __future__ import annotations

import pytest
from aiohttp import web

from rollouts.controller.model_server_calls import ModelServerCalls, ServerAnswer
from rollouts.objects.pods import Pod
from rollouts.runtime.modelservers import ModelServerBook

PATH = "/v1/load_lora_adapter"


async def answered(response: web.Response, timeout: float = 5.0, **more: int) -> ServerAnswer:
    async def handle(request: web.Request) -> web.Response:
        return response

    app = web.Application()
    app.router.add_post(PATH, handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    calls = ModelServerCalls(ModelServerBook())
    pod = Pod(name="p", ip="127.0.0.1", ready=True)
    try:
        return await calls.ask("ns", pod, runner.addresses[0][1], "POST", PATH, {}, timeout, **more)
    finally:
        await calls.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            '{"error":{"message":"No adapter found for /adapters/x","code":404}}',
            ": No adapter found for /adapters/x",
        ),
        ('{"object":"error","message":"rank 64 is above 16"}', ": rank 64 is above 16"),
        ('{"detail":"Not Found"}', ": Not Found"),
        ('{"detail":[{"loc":["body"],"msg":"Field required"}]}', ""),
        ('{"error":"Unauthorized"}', ": Unauthorized"),
        ("Traceback:\n  line\x1b[31m 2\u202e", ": Traceback: line [31m 2"),
        ("<html><body>502 Bad Gateway</body></html>", ""),
        ("", ""),
        ("x" * 5000, ": " + "x" * 300),
        ("[" * 100_000, ": " + "[" * 300),
    ],
)
async def test_the_servers_own_words_are_passed_on(body: str, words: str) -> None:
    answer = await answered(web.Response(status=500, text=body))

    assert answer.problem == f"{PATH} answers 500{words}"
    assert not answer.ok


async def test_whoever_wants_a_key_is_told_apart() -> None:
    answer = await answered(web.json_response({"error": "Unauthorized"}, status=401))

    assert answer.problem.endswith("answers 401: Unauthorized; it may want a key: apiKeyFile of modelServers")


async def test_what_is_too_long_is_no_answer() -> None:
    answer = await answered(web.Response(text="x" * (1024 * 1024 + 1)))

    assert (answer.status, answer.ok) == (None, False)
    assert "gives no answer: that ends within 1048576 bytes" in answer.problem


async def test_of_an_answer_that_nobody_reads_a_part_is_kept() -> None:
    answer = await answered(web.Response(text="ab" * 300_000), keep=3)

    assert (answer.ok, answer.body) == (True, "aba")


async def test_what_is_dropped_counts_towards_the_limit() -> None:
    answer = await answered(web.Response(text="ab" * 600_000), keep=3)

    assert not answer.ok
    assert "that ends within" in answer.problem
