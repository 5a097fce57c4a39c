"""The dashboard over HTTP: what it shows, what it says when that changes, and who may write by it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from rollouts.dashboard.looking import ClusterView as Watched
from rollouts.lab.memoryapi.admission import Policy
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from tests.kit.attempts import running_attempt
from tests.kit.dashboards import copy_of, dashboard_over
from tests.kit.faults.cluster import Cluster
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.polling import eventually

PATH = "/rollouts/default/mymodel"
Form = dict[str, str]


@pytest.fixture
def attempt() -> Cluster:
    """One of our own: commands are written to it."""
    return copy_of(running_attempt())


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of addresses, as browsers keep them
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield session


async def text(browser: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, str]:
    async with browser.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


def form_of(page: str, action: str) -> Form:
    """The hidden fields of one button."""
    forms = [dict(re.findall(r'name="(\w+)" value="([^"]*)"', one)) for one in page.split("<form")[1:]]
    return next(form for form in forms if form["action"] == action)


def annotation(attempt: Cluster) -> dict[str, Any]:
    rollout = attempt.get(kinds.ROLLOUT, "mymodel")
    assert rollout is not None
    raw = (rollout["metadata"].get("annotations") or {}).get("inferencerollouts.dev/command", "{}")
    found: dict[str, Any] = json.loads(raw)
    return found


async def test_list_and_page_show_the_attempt_its_pods_and_what_comes_next(
    attempt: Cluster, browser: aiohttp.ClientSession
) -> None:
    async with dashboard_over(attempt) as url:
        _, listed = await text(browser, url + "/")
        status, page = await text(browser, url + PATH)
    assert f'href="{PATH}"' in listed
    assert "Paused" in listed
    assert status == 200
    told = re.sub(r"<[^>]*>", " ", page)
    for words in ("step 4 of 5", "`promote` leaves the pause", "canary: mymodel-pool-v2", "4 of 4 Ready"):
        assert words in told
    assert page.count("<svg") > 4
    assert "<form" not in page


async def test_a_rollout_that_is_not_there_is_no_page(
    attempt: Cluster, browser: aiohttp.ClientSession
) -> None:
    async with dashboard_over(attempt) as url:
        status, _ = await text(browser, url + "/rollouts/default/%3Cscript%3E")
    assert status == 404


async def test_every_answer_forbids_frames_and_guesses(
    attempt: Cluster, browser: aiohttp.ClientSession
) -> None:
    async with dashboard_over(attempt) as url:
        for path in ("/", PATH, "/live.js", "/rollouts/default/nothing"):
            async with browser.get(url + path) as answer:
                assert answer.headers["X-Frame-Options"] == "DENY"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["Cache-Control"] == "no-store"


async def test_a_name_that_was_not_allowed_is_not_answered(
    attempt: Cluster, browser: aiohttp.ClientSession
) -> None:
    async with dashboard_over(attempt, hosts=["rollouts.example"]) as url:
        refused, words = await text(browser, url + PATH, Host="evil.example")
        allowed, _ = await text(browser, url + PATH, Host="rollouts.example")
    assert (refused, allowed) == (421, 200)
    assert "mymodel" not in words


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[str]:
    async for line in answer.content:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


async def until(words: str, told: AsyncIterator[str]) -> bool:
    """Whether a version with these words comes; what time moves makes others in between."""
    async for page in told:
        if words in page:
            return True
    return False


async def test_a_change_arrives_by_itself(attempt: Cluster, browser: aiohttp.ClientSession) -> None:
    async with dashboard_over(attempt) as url, browser.get(f"{url}{PATH}/live") as answer:
        assert answer.content_type == "text/event-stream"
        told = events(answer)
        assert "until promoted" in await anext(told)
        attempt.write_status(kinds.ROLLOUT, "mymodel", {"message": "another <word>"})
        assert await until("another &lt;word&gt;", told)
        attempt.merge(kinds.ROLLOUT, "mymodel", {"metadata": {"finalizers": None}})
        attempt.delete(kinds.ROLLOUT, "mymodel")
        assert await until("is gone", told)


async def test_a_button_writes_the_command_bound_to_what_was_seen(
    attempt: Cluster, browser: aiohttp.ClientSession
) -> None:
    async with dashboard_over(attempt, allow_commands=True) as url:
        _, page = await text(browser, url + PATH)
        form = form_of(page, "promote")
        async with browser.post(
            f"{url}/command", data=form, headers={"Origin": url}, allow_redirects=False
        ) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, PATH)
    written = annotation(attempt)
    assert (written["action"], written["revision"], written["attempt"], written["step"]) == (
        "promote",
        form["revision"],
        1,
        3,
    )


async def test_read_only_has_nowhere_to_write_to(attempt: Cluster, browser: aiohttp.ClientSession) -> None:
    async with (
        dashboard_over(attempt) as url,
        browser.post(f"{url}/command", data={"action": "abort"}, headers={"Origin": url}) as answer,
    ):
        assert answer.status == 404
    assert annotation(attempt) == {}


@pytest.mark.parametrize(
    ("headers", "changes", "with_cookie"),
    [
        ({}, {}, True),
        ({"Origin": "http://evil.example"}, {}, True),
        ({"Origin": "null"}, {}, True),
        ({"Origin": "URL", "Sec-Fetch-Site": "cross-site"}, {}, True),
        ({"Origin": "URL"}, {"token": ""}, True),
        ({"Origin": "URL"}, {"token": "0" * 64}, True),
        ({"Origin": "URL"}, {"token": "é"}, True),
        ({"Origin": "URL"}, {}, False),
    ],
    ids=["no origin", "foreign", "null", "cross-site", "no token", "guessed", "not ASCII", "no cookie"],
)
async def test_nobody_else_writes_by_the_readers_browser(
    attempt: Cluster, browser: aiohttp.ClientSession, headers: Form, changes: Form, with_cookie: bool
) -> None:
    async with dashboard_over(attempt, allow_commands=True) as url:
        _, page = await text(browser, url + PATH)
        form = form_of(page, "abort") | changes
        if not with_cookie:
            browser.cookie_jar.clear()
        sent = {name: url if value == "URL" else value for name, value in headers.items()}
        async with browser.post(f"{url}/command", data=form, headers=sent) as answer:
            assert answer.status == 403
    assert annotation(attempt) == {}


async def test_the_cookie_is_for_this_site_and_for_no_script(
    attempt: Cluster, browser: aiohttp.ClientSession
) -> None:
    async with dashboard_over(attempt, allow_commands=True) as url, browser.get(url + PATH) as answer:
        cookie = answer.headers["Set-Cookie"]
    assert "SameSite=Strict" in cookie
    assert "HttpOnly" in cookie


async def test_what_has_moved_on_is_not_written_to(attempt: Cluster, browser: aiohttp.ClientSession) -> None:
    async with dashboard_over(attempt, allow_commands=True) as url:
        _, page = await text(browser, url + PATH)
        form = form_of(page, "promote") | {"step": "2"}
        async with browser.post(f"{url}/command", data=form, headers={"Origin": url}) as answer:
            assert answer.status == 409
            assert "moved on" in await answer.text()
    assert annotation(attempt) == {}


async def test_rights_are_those_of_whoever_started_it(
    attempt: Cluster, browser: aiohttp.ClientSession
) -> None:
    async with dashboard_over(attempt, allow_commands=True) as url:
        _, page = await text(browser, url + PATH)
        policy = Policy(name="n", binding="b", message="not you", plural="rollouts", forbidden=True)
        attempt.api.policies.append(policy)
        data = form_of(page, "abort")
        async with browser.post(f"{url}/command", data=data, headers={"Origin": url}) as answer:
            assert answer.status == 403
            assert "not you" in await answer.text()
    assert annotation(attempt) == {}


async def test_a_change_that_came_before_the_wait_is_not_missed(attempt: Cluster) -> None:
    watched = Watched(MemoryKubeClient(attempt.api), SystemClock(), None)
    watching = [asyncio.ensure_future(reflector.run()) for reflector in watched.reflectors]
    try:
        await watched.synced()
        seen = watched.version
        attempt.write_status(kinds.ROLLOUT, "mymodel", {"message": "meanwhile"})
        await eventually(lambda: watched.version != seen)
        async with asyncio.timeout(5):
            await watched.changed(seen, 1000.0)
        assert watched.rollouts()[0]["status"]["message"] == "meanwhile"
    finally:
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)
