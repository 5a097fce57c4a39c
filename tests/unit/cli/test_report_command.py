"""``rollouts report`` and ``rollouts dashboard`` as a person types them."""

from __future__ import annotations

import json
import socket

import pytest
from click.testing import CliRunner

from rollouts.cli.main import main
from tests.unit.cli.test_cli_commands import Server, aborted, server  # noqa: F401 - a fixture


@pytest.mark.parametrize(
    ("form", "begins"), [("html", "<!DOCTYPE html>"), ("md", "# Rollout default/demo, attempt 1")]
)
def test_a_report_is_one_document(server: Server, form: str, begins: str) -> None:  # noqa: F811
    server.store(aborted())
    result = server.call("report", "demo", "-o", form)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(begins)
    assert "Aborted" in result.output


def test_a_report_as_json_has_the_attempt_and_its_outcome(server: Server) -> None:  # noqa: F811
    server.store(aborted())
    data = json.loads(server.call("report", "demo", "-o", "json", "--attempt", "1").output)
    assert (data["name"], data["number"], data["outcome"]) == ("demo", 1, "Aborted")
    assert [step["text"] for step in data["steps"]] == ["set weight 10%", "pause until promoted"]


def test_an_attempt_that_is_not_there_is_wrong_usage(server: Server) -> None:  # noqa: F811
    server.store(aborted())
    result = server.call("report", "demo", "--attempt", "7")
    assert result.exit_code == 2
    assert "there are 1" in result.output


def test_an_address_that_is_none_is_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["dashboard", "-n", "default", "--address", "nowhere"])
    assert result.exit_code == 2
    assert "HOST:PORT" in result.output


def test_an_address_that_is_taken_is_said(server: Server) -> None:  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = server.call("dashboard", "-n", "default", "--address", address)
    assert result.exit_code == 1
    assert f"cannot listen on {address}" in result.output
