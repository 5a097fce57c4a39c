"""Notices over real HTTP: what a receiver gets, and what comes of its answers."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rollouts.controller.notification_settings import Receiver, ReceiverType
from rollouts.controller.posting import NotTaken, Undelivered, post
from rollouts.engine.rollout_status import Notice
from rollouts.runtime.objects import ObjectKey

KEY = ObjectKey("team-a", "mymodel")
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOTICE = Notice(id="n1", trigger="on-aborted", receiver="r", phase="Aborted", at=NOW, message="it is worse")
SECRET = base64.b64encode(b"k" * 32).decode()


DOCS = Path(__file__).resolve().parents[3] / "docs" / "notifications.md"


def verified(headers: Any, body: bytes, at: datetime = NOW) -> bool:
    """As a receiver checks it, by the function of the docs."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    return bool(found["verified"](headers, body, f"whsec_{SECRET}", at.timestamp()))


@dataclass
class Inbox:
    """A receiver on loopback."""

    url: str = ""
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    got: list[tuple[Any, bytes]] = field(default_factory=list)


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    box = Inbox()

    async def take(request: web.Request) -> web.StreamResponse:
        box.got.append((request.headers, await request.read()))
        return await box.answer(request) if box.answer is not None else web.Response()

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    box.url = f"http://{host}:{port}/hook"
    yield box
    await runner.cleanup()


def receiver(inbox: Inbox, **fields: Any) -> Receiver:
    return replace(Receiver(name="r", type=ReceiverType.WEBHOOK, url=inbox.url, timeout=5.0), **fields)


async def test_a_signed_event_arrives_and_its_signature_holds_for_that_body_alone(
    inbox: Inbox, tmp_path: Path
):
    (tmp_path / "secret").write_text(f"whsec_{SECRET}\n")
    (tmp_path / "token").write_text("t0ken\n")
    where = receiver(inbox, secret_file=str(tmp_path / "secret"), bearer_token_file=str(tmp_path / "token"))
    await post(where, KEY, "u", NOTICE, NOW)

    ((headers, body),) = inbox.got
    assert json.loads(body)["data"]["message"] == "it is worse"
    assert headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert headers["Authorization"] == "Bearer t0ken"
    assert headers["webhook-id"] == "n1"
    assert verified(headers, body)
    assert not verified(headers, body + b" ")
    assert not verified({**headers, "webhook-timestamp": str(int(NOW.timestamp()) + 1)}, body)
    assert not verified(headers, body, at=NOW + timedelta(minutes=6))


async def test_a_secret_that_changes_is_read_again(inbox: Inbox, tmp_path: Path):
    file = tmp_path / "secret"
    where = receiver(inbox, secret_file=str(file))
    for text in ("other", f"whsec_{SECRET}", f"other\nwhsec_{SECRET}"):
        file.write_text(text)
        await post(where, KEY, "u", NOTICE, NOW)
    assert [verified(headers, body) for headers, body in inbox.got] == [False, True, True]


@pytest.mark.parametrize("text", ["", "\n", "whsec_no base64"])
async def test_without_a_usable_secret_nothing_is_sent_unsigned(inbox: Inbox, tmp_path: Path, text: str):
    (tmp_path / "secret").write_text(text)
    with pytest.raises(Undelivered, match="a file of the receiver cannot be used"):
        await post(receiver(inbox, secret_file=str(tmp_path / "secret")), KEY, "u", NOTICE, NOW)
    assert inbox.got == []


async def test_the_address_may_be_a_file_and_is_in_no_message(inbox: Inbox, tmp_path: Path):
    file = tmp_path / "url"
    file.write_text(f"{inbox.url}\n")
    where = receiver(inbox, url="", url_file=str(file), type=ReceiverType.SLACK)
    await post(where, KEY, "u", NOTICE, NOW)
    assert json.loads(inbox.got[0][1])["text"].startswith("team-a/mymodel: Aborted")
    for broken in ("http://127.0.0.1:1/T000/secret", "file:///secret", "secret"):
        file.write_text(broken)
        with pytest.raises(Undelivered) as raised:
            await post(where, KEY, "u", NOTICE, NOW)
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "headers", "kind", "after"),
    [
        (204, {}, None, 0.0),
        (400, {}, NotTaken, 0.0),
        (422, {}, NotTaken, 0.0),
        (401, {}, Undelivered, 0.0),
        (404, {}, Undelivered, 0.0),
        (429, {"Retry-After": "30"}, Undelivered, 30.0),
        (503, {"Retry-After": "999999"}, Undelivered, 600.0),
        (503, {"Retry-After": "-5"}, Undelivered, 0.0),
        (503, {"Retry-After": "nan"}, Undelivered, 0.0),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, Undelivered, 0.0),
        (500, {}, Undelivered, 0.0),
    ],
)
async def test_answers_and_what_comes_of_them(inbox: Inbox, status, headers, kind, after):
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    inbox.answer = answer
    raised: BaseException | None = None
    try:
        await post(receiver(inbox), KEY, "u", NOTICE, NOW)
    except (NotTaken, Undelivered) as error:
        raised = error
    assert type(raised) is (kind or type(None))
    assert getattr(raised, "after", 0.0) == after


async def test_a_redirect_leads_nowhere(inbox: Inbox):
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{inbox.url}/elsewhere"})

    inbox.answer = answer
    with pytest.raises(Undelivered, match="HTTP 307"):
        await post(receiver(inbox), KEY, "u", NOTICE, NOW)
    assert len(inbox.got) == 1


async def test_a_receiver_that_hangs_is_left(inbox: Inbox):
    never = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    inbox.answer = answer
    with pytest.raises(Undelivered, match="Timeout"):
        await post(receiver(inbox, timeout=0.2), KEY, "u", NOTICE, NOW)
    never.set()


async def test_nobody_there_is_undelivered():
    where = Receiver(name="r", type=ReceiverType.WEBHOOK, url="http://127.0.0.1:1/", timeout=2.0)
    with pytest.raises(Undelivered, match="Connect"):
        await post(where, KEY, "u", NOTICE, NOW)
