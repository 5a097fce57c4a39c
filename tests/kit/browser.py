"""A real browser without a window, driven by the DevTools protocol: what a page looks like, asks for and lets do.

The protocol is JSON over a websocket (https://chromedevtools.github.io/devtools-protocol/). The browser resolves no
name: what a page asks of another host than 127.0.0.1 is noted, and fails.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp

from tests.kit.chromium import find_chromium

__all__ = ["Browser", "Page", "open_browser"]

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers rarely have the namespaces; pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
)
_LISTENING = re.compile(r"DevTools listening on (ws://127\.0\.0\.1:\S+)")
_START_SECONDS = 40.0
_ANSWER_SECONDS = 30.0

Json = dict[str, Any]


class Browser:
    """One process. Pages are made by ``page``."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._pages: dict[str, Page] = {}

    async def listen(self) -> None:
        """Take answers and events until the socket closes."""
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                self._waiting.pop(data["id"]).set_result(data)
            elif data.get("sessionId") in self._pages:
                self._pages[data["sessionId"]].take(data["method"], data["params"])

    async def call(self, method: str, session: str = "", /, **params: Any) -> Json:
        """One call of the protocol. Raises RuntimeError with the browser's words."""
        number = next(self._ids)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        body: Json = {"id": number, "method": method, "params": params}
        await self._socket.send_json({**body, "sessionId": session} if session else body)
        async with asyncio.timeout(_ANSWER_SECONDS):
            answer = await future
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error'].get('message')}")
        return cast("Json", answer["result"])

    async def page(
        self, *, width: int = 1100, height: int = 900, dark: bool = False, script: bool = True
    ) -> Page:
        """An empty page in a window of that many CSS pixels, as wide as a phone's if need be."""
        target = await self.call("Target.createTarget", url="about:blank")
        session = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = self._pages[session["sessionId"]] = Page(self, session["sessionId"])
        for domain in ("Page", "Network", "Runtime", "Log"):
            await page.call(f"{domain}.enable")
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await page.call("Emulation.setEmulatedMedia", features=scheme)
        await page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        await page.call("Emulation.setScriptExecutionDisabled", value=not script)
        return page


class Page:
    """One tab. ``requests`` are the addresses it asked for, ``stopped`` those that its policy did not let it ask for,
    ``complaints`` what the console says."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._loaded = asyncio.Event()
        self._urls: dict[str, str] = {}
        self.requests: list[str] = []
        self.stopped: list[str] = []
        self.complaints: list[str] = []

    def take(self, method: str, params: Json) -> None:
        """An event of the protocol."""
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
            self._urls[params["requestId"]] = params["request"]["url"]
        elif method == "Network.loadingFailed" and params.get("blockedReason") == "csp":
            self.stopped.append(self._urls[params["requestId"]])
            self.requests.remove(self.stopped[-1])
        elif method == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("exception", {}).get("description")))
        elif method == "Page.loadEventFired":
            self._loaded.set()

    async def call(self, method: str, /, **params: Any) -> Json:
        """One call of the protocol for this page."""
        return await self._browser.call(method, self._session, **params)

    async def goto(self, url: str) -> None:
        """Open the address and wait until it is loaded."""
        self._loaded.clear()
        answer = await self.call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise RuntimeError(f"{url}: {answer['errorText']}")
        async with asyncio.timeout(_ANSWER_SECONDS):
            await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"].get("exception", {}).get("description")))
        return answer["result"].get("value")

    async def press(self, key: str) -> None:
        """Press and release a key: Tab, Enter."""
        codes = {"Tab": 9, "Enter": 13}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            more = text if kind == "keyDown" else {}
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
                **more,
            )

    async def screenshot(self, *, whole: bool = True) -> bytes:
        """A PNG of the page, of all of it or of what the window shows."""
        answer = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Start Chromium and connect. Raises ChromiumMissingError, RuntimeError."""
    chromium = find_chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            str(chromium.program),
            *_FLAGS,
            f"--user-data-dir={folder}",
            env={**chromium.env, "HOME": folder},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stderr is not None
            address = await _address(process.stderr)
            drain = asyncio.ensure_future(process.stderr.read())
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(address, max_msg_size=0) as socket,
            ):
                browser = Browser(socket)
                listening = asyncio.ensure_future(browser.listen())
                yield browser
                await socket.close()
                await listening
            process.terminate()
            await drain
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _address(output: asyncio.StreamReader) -> str:
    """The websocket that the browser prints once it listens."""
    said = list[str]()
    async with asyncio.timeout(_START_SECONDS):
        while line := (await output.readline()).decode(errors="replace"):
            said.append(line)
            if found := _LISTENING.search(line):
                return found[1]
    raise RuntimeError("Chromium ended before it listened: " + "".join(said)[-2000:])
