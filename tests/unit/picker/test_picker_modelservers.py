"""Pods behind TLS and keys are asked, and where they cannot be the message names the option that is missing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner

from rollouts.picker.command import picker
from rollouts.picker.core.endpoints import Endpoint
from rollouts.picker.core.schedule import ScheduledPod, Scheduler
from rollouts.picker.core.scrape import ScrapeConfig
from rollouts.picker.scraper import Scraper
from rollouts.runtime.modelservers import ModelServers
from tests.kit.modelserver import GuardedPods
from tests.kit.polling import eventually

Serve = Callable[..., Any]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """``await serve(tls=..., key=...)``: the address of a pod on whose API the key is asked for."""
    pods = GuardedPods(tmp_path)
    yield pods.start
    await pods.stop()


async def scraped(address: str, servers: ModelServers) -> tuple[ScheduledPod, list[str]]:
    """The pod after one scrape, and the errors in the log."""
    scheduler = Scheduler()
    host, _, port = address.rpartition(":")
    scheduler.sync([Endpoint(address, host, int(port), "p0", "pool", 1.0)], 0.0, 1e9)
    scraper = Scraper(scheduler, ScrapeConfig(), servers)
    with structlog.testing.capture_logs() as log:
        scraper.tick(1e9)
        await eventually(lambda: not scraper._tasks)
    await scraper.close()
    return scheduler.candidates(None)[0], [entry["error"] for entry in log if "error" in entry]


@pytest.mark.parametrize(
    "how",
    [{"ca": "ca.pem", "server_name": "vllm.example"}, {"verify": False}],
    ids=["authority and name", "any certificate"],
)
async def test_pods_behind_tls_are_asked(serve: Serve, tmp_path: Path, how: dict[str, Any]) -> None:
    address = await serve()
    if "ca" in how:
        how = {**how, "ca": tmp_path / how["ca"]}

    pod, errors = await scraped(address, ModelServers(scheme="https", **how))

    assert (pod.load.waiting, pod.load.adapters, errors) == (3, {"v1"}, [])


@pytest.mark.parametrize(
    ("tls", "servers", "option"),
    [
        (True, ModelServers(), "--model-server-scheme https"),
        (True, ModelServers(scheme="https"), "--model-server-ca"),
        (True, ModelServers(scheme="https", server_name="other.example"), "--model-server-name"),
        (False, ModelServers(scheme="https"), "leave --model-server-scheme https out"),
    ],
    ids=["TLS is spoken", "an unknown authority", "another name", "no TLS is spoken"],
)
async def test_a_pod_that_cannot_be_asked_is_logged_with_the_option(
    serve: Serve, tls: bool, servers: ModelServers, option: str
) -> None:
    pod, errors = await scraped(await serve(tls=tls), servers)

    assert pod.load.waiting == 0
    assert len(errors) == 1
    assert option in errors[0]


async def test_the_key_goes_with_every_call_and_is_read_again(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "api-key"
    file.write_text("old\n")
    address = await serve(tls=False, key="new")
    servers = ModelServers(api_key_file=file)

    wrong, errors = await scraped(address, servers)
    scheduler = Scheduler()
    host, _, port = address.rpartition(":")
    scheduler.sync([Endpoint(address, host, int(port), "p0", "pool", 1.0)], 0.0, 1e9)
    scraper = Scraper(scheduler, ScrapeConfig(), servers)
    file.write_text("new\n")
    os.utime(file, ns=(1, 1))
    scraper.tick(1e9)
    await eventually(lambda: not scraper._tasks)
    await scraper.close()

    assert (wrong.load.waiting, wrong.load.models) == (3, None)
    assert ["--model-server-api-key-file" in error for error in errors] == [True]
    assert scheduler.candidates(None)[0].load.models == {"v1"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model-server-name", "x"], "needs --model-server-scheme https"),
        (["--model-server-insecure-skip-verify"], "needs --model-server-scheme https"),
        (["--model-server-scheme", "https", "--model-server-ca", "FILE"], "no PEM certificate"),
        (["--model-server-api-key-file", "FILE"], "no API key"),
        (
            [
                "--model-server-scheme",
                "https",
                "--model-server-ca",
                "FILE",
                "--model-server-insecure-skip-verify",
            ],
            "everybody",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    file = tmp_path / "empty"
    file.write_text(" \n")
    given = [str(file) if argument == "FILE" else argument for argument in arguments]

    result = CliRunner().invoke(picker, ["--pool", "p", "--objects", str(file), *given])

    assert result.exit_code == 1
    assert words in " ".join(result.output.split())
