"""Reports and the dashboard in a real browser: light, dark, on a phone, by keyboard, without a request elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rollouts.api.strategy_words import StrategyField
from rollouts.objects import kinds
from rollouts.report.page import report_page
from rollouts.report.reading import ApprovalRow, read_attempt
from tests.kit.attempts import bad_attempt, good_attempt, objects_of, running_attempt
from tests.kit.browser import Browser, Page
from tests.kit.dashboards import copy_of, dashboard_over
from tests.kit.faults.simulation import Simulation
from tests.kit.polling import eventually

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

PATH = "/rollouts/default/mymodel"
ATTEMPTS = {"good": good_attempt, "bad": bad_attempt, "running": running_attempt}


@pytest.fixture(scope="module", autouse=True)
def _made_before() -> None:
    """Attempts are run in loops of their own, which cannot be within the tests' loop."""
    for attempt in ATTEMPTS.values():
        attempt()


CONTRAST = """(() => {
  const channel = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const numbers = text => text.match(/[0-9.]+/g).map(Number);
  const light = colour => { const [r, g, b] = numbers(colour).map(one => channel(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = one => { for (; one; one = one.parentElement) { const colour = getComputedStyle(one).backgroundColor;
    if (numbers(colour)[3] !== 0) return colour; } return "rgb(255, 255, 255)"; };
  const worst = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || ["STYLE", "SCRIPT", "title"].includes(one.tagName)) continue;
    const style = getComputedStyle(one);
    const pair = [light(one.closest("svg") ? style.fill : style.color), light(ground(one))].sort((a, b) => b - a);
    worst.push([(pair[0] + 0.05) / (pair[1] + 0.05), one.textContent.trim().slice(0, 60)]);
  }
  return worst.sort((a, b) => a[0] - b[0])[0];
})()"""
"""The least contrast of any text to what is behind it (WCAG 2.2, 1.4.3), with that text."""

OVERLAPS = """[...document.querySelectorAll("svg")].flatMap(drawing => {
  const boxes = [...drawing.querySelectorAll("text")].map(one => [one.textContent, one.getBoundingClientRect()]);
  return boxes.flatMap(([text, box], index) => boxes.slice(index + 1)
    .filter(([, other]) => box.left < other.right - 1 && other.left < box.right - 1
      && box.top < other.bottom - 3 && other.top < box.bottom - 3)
    .map(([other]) => `${text} / ${other}`));
})"""
"""Words of drawings that lie over each other."""

CUT = """[...document.querySelectorAll("svg")].flatMap(drawing => {
  const frame = drawing.getBoundingClientRect();
  return [...drawing.querySelectorAll("text")].map(one => [one.textContent, one.getBoundingClientRect()])
    .filter(([, box]) => box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
      || box.bottom > frame.bottom + 1).map(([text]) => text);
})"""
"""Words of drawings that leave their drawing."""


AT = datetime(2030, 1, 1, tzinfo=UTC)
ELSEWHERE: dict[str, Any] = {
    "approvals": (
        ApprovalRow(
            step=2, webhook="change-board", decision="approve", at=AT, by="ann", message="CHG-4711 " * 20
        ),
        ApprovalRow(step=3, webhook="qa", decision="deny", at=AT, by="ben"),
        ApprovalRow(step=4, webhook="qa", decision="open", at=AT),
    ),
    "strategy": ("RolloutStrategy careful (0123abcd), pinned when attempt 1 began.",),
    "strategy_fields": (
        StrategyField(
            name="steps",
            value='[{"setWeight": 1}, {"pause": {"duration": "10m"}}]' * 3,
            origin="RolloutStrategy c",
        ),
        StrategyField(name="bake", value='"1h"', origin="this Rollout"),
    ),
}
"""What an attempt has where others decide, too."""


def report_file(attempt: Callable[[], Simulation], folder: Path) -> str:
    """The report as a file; its address."""
    found = replace(read_attempt(*objects_of(attempt())), **ELSEWHERE)
    now = datetime.fromtimestamp(found.points[-1].at, UTC) + timedelta(seconds=20)
    path = folder / "report.html"
    path.write_text(report_page(found, now), encoding="utf-8")
    return path.as_uri()


async def reached_by_tab(page: Page) -> tuple[list[str], list[str]]:
    """(what Tab reaches, in order; what of that shows no focus), each by its text."""
    where = (
        "(() => { const one = document.activeElement; const style = getComputedStyle(one); "
        "return [one.tagName, (one.getAttribute('aria-label') || one.textContent).trim().slice(0, 60), "
        "style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2]; })()"
    )
    reached, unseen = list[str](), list[str]()
    for _ in range(60):
        await page.press("Tab")
        tag, words, is_seen = await page.evaluate(where)
        if tag == "BODY":
            break
        reached.append(words)
        if not is_seen:
            unseen.append(words)
    return reached, unseen


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
@pytest.mark.parametrize("attempt", ATTEMPTS)
async def test_a_report_can_be_read(
    browser: Browser, tmp_path: Path, attempt: str, width: int, dark: bool
) -> None:
    page = await browser.page(width=width, dark=dark)
    url = report_file(ATTEMPTS[attempt], tmp_path)
    await page.goto(url)
    assert page.requests == [url]
    assert page.complaints == []
    assert await page.evaluate("document.documentElement.scrollWidth") == width
    least, where = await page.evaluate(CONTRAST)
    assert least >= 4.5, where
    assert await page.evaluate(OVERLAPS) == []
    assert await page.evaluate(CUT) == []
    smallest = "Math.min(...[...document.querySelectorAll('svg text')].map(one => one.getBoundingClientRect().height))"
    assert await page.evaluate(smallest) >= 10
    assert await page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == dark


async def test_a_report_is_read_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    page = await browser.page()
    await page.goto(report_file(bad_attempt, tmp_path))
    reached, unseen = await reached_by_tab(page)
    assert reached == [
        f"Figures of {name}" for name in ("error-rate", "ttft", "error-rate-step-4", "ttft-step-4")
    ]
    assert unseen == []
    await page.evaluate("document.querySelector('summary').focus()")
    await page.press("Enter")
    assert await page.evaluate("document.querySelector('details').open") is True


async def test_what_is_hostile_runs_nothing_and_asks_for_nothing(browser: Browser, tmp_path: Path) -> None:
    rollout, runs, events = objects_of(bad_attempt())
    bad = "</style><script>document.title='x'</script><img src=http://127.0.0.1:9/x onerror=\"document.title='x'\">"
    rollout = {**rollout, "status": {**rollout["status"], "message": bad}}
    path = tmp_path / "hostile.html"
    path.write_text(report_page(read_attempt(rollout, runs, events), datetime.now(UTC)), encoding="utf-8")
    page = await browser.page()
    await page.goto(path.as_uri())
    assert await page.evaluate("document.title") == "Rollout default/mymodel, attempt 1"
    assert await page.evaluate("[document.images.length, document.scripts.length]") == [0, 0]
    assert page.requests == [path.as_uri()]
    assert bad in await page.evaluate("document.body.innerText")


async def test_the_policy_stops_what_would_be_injected(browser: Browser, tmp_path: Path) -> None:
    """Should escaping ever fail: the page itself forbids scripts and requests."""
    page = await browser.page()
    path = tmp_path / "broken.html"
    found = read_attempt(*objects_of(good_attempt()))
    text = report_page(found, datetime.now(UTC))
    injected = (
        "<script>document.title='x'</script><img src='http://127.0.0.1:9/x'><style>body{display:none}</style>"
    )
    path.write_text(text.replace("<main>", f"<main>{injected}"), encoding="utf-8")
    await page.goto(path.as_uri())
    assert await page.evaluate("document.title") == "Rollout default/mymodel, attempt 1"
    assert await page.evaluate("getComputedStyle(document.body).display") == "block"
    assert page.requests == [path.as_uri()]
    assert page.stopped == ["http://127.0.0.1:9/x"]


# --- dashboard -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1100, False)], ids=["phone", "desk"])
async def test_the_dashboard_can_be_read(browser: Browser, width: int, dark: bool) -> None:
    async with dashboard_over(copy_of(running_attempt()), allow_commands=True) as url:
        page = await browser.page(width=width, dark=dark)
        for path in ("/", PATH):
            await page.goto(url + path)
            await eventually(
                lambda: page.evaluate("document.querySelector('#live').textContent.startsWith('Live')")
            )
            assert page.complaints == []
            assert await page.evaluate("document.documentElement.scrollWidth") == width
            least, where = await page.evaluate(CONTRAST)
            assert least >= 4.5, where
            assert await page.evaluate(OVERLAPS) == []
        assert {request.partition("?")[0].removeprefix(url) for request in page.requests} == {
            *("/", "/live", "/live.js", PATH, f"{PATH}/live"),
        }
        await page.goto("about:blank")


async def test_the_dashboard_is_live_and_keeps_what_is_open_and_focused(browser: Browser) -> None:
    cluster = copy_of(running_attempt())
    async with dashboard_over(cluster) as url:
        page = await browser.page()
        await page.goto(url + PATH)
        await eventually(
            lambda: page.evaluate("document.querySelector('#live').textContent.startsWith('Live')")
        )
        await page.evaluate("document.querySelector('#figures-0').open = true")
        await page.evaluate("document.querySelector('#figures-1 summary').focus()")
        cluster.write_status(kinds.ROLLOUT, "mymodel", {"message": "something <b>new</b>"})
        told = "document.querySelector('main').innerText.includes('something <b>new</b>')"
        await eventually(lambda: page.evaluate(told), timeout=20)
        assert await page.evaluate("document.querySelector('#figures-0').open") is True
        assert await page.evaluate("document.activeElement.parentElement.id") == "figures-1"
        await page.goto("about:blank")


async def test_a_command_by_keyboard_alone(browser: Browser) -> None:
    cluster = copy_of(running_attempt())
    async with dashboard_over(cluster, allow_commands=True) as url:
        page = await browser.page(script=False)
        await page.goto(url + PATH)
        reached, unseen = await reached_by_tab(page)
        assert unseen == []
        buttons = ("Promote: leave", "Pause the steps", "Promote to the end", "Abort: give")
        assert [one for one in reached if one.startswith(buttons)] == [
            "Promote: leave the current pause or gate",
            "Pause the steps",
            "Promote to the end: skip all remaining steps and gates",
            "Abort: give all traffic to stable",
        ]
        await page.goto(url + PATH)
        for _ in range(2):  # past the link to the list
            await page.press("Tab")
        await page.press("Enter")

        def action() -> Any:
            stored = cluster.get(kinds.ROLLOUT, "mymodel") or {}
            return (stored["metadata"].get("annotations") or {}).get("inferencerollouts.dev/command")

        assert '"action":"promote"' in await eventually(action)
