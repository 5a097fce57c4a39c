"""One browser for all tests of the folder; skipped loudly where it cannot be had, required where CI=true."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.kit.browser import Browser, open_browser
from tests.kit.chromium import ChromiumMissingError, find_chromium


def pytest_collection_finish(session: pytest.Session) -> None:
    """Download before the first test, outside of any test's time-out."""
    wanted = any(item.path.parent == Path(__file__).parent for item in session.items)
    if wanted and not session.config.option.collectonly:
        with contextlib.suppress(ChromiumMissingError):
            find_chromium()


@pytest.fixture(scope="module")
def program() -> None:
    try:
        find_chromium()
    except ChromiumMissingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs a real Chromium: {error}")
        pytest.skip(str(error))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(program: None) -> AsyncIterator[Browser]:
    async with open_browser() as opened:
        yield opened
