"""Pages of others cannot read the dashboard by a name of theirs, nor write through the reader's browser."""

from __future__ import annotations

import pytest

from rollouts.dashboard.guard import host_problem, origin_problem, token_of


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8090",
        "127.0.0.1",
        "[::1]:8090",
        "[::1]",
        "localhost:8090",
        "LOCALHOST",
        "10.0.0.7:8090",
        "rollouts.example:443",
        "Rollouts.Example",
    ],
)
def test_addresses_and_allowed_names_are_answered(host: str) -> None:
    assert host_problem(host, {"rollouts.example"}) == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8090",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "[evil.example]:80",
        "127.1:8090",
        "2130706433:80",
        "evil.example:127.0.0.1",
        "rollouts.example.:80",
    ],
)
def test_names_that_may_be_rebound_are_not(host: str) -> None:
    assert "--host" in host_problem(host, {"rollouts.example"})


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        (None, None),
        ("null", None),
        ("http://evil.example", None),
        ("http://127.0.0.1:80900", None),
        ("http://127.0.0.1:8090.evil.example", None),
        ("http://127.0.0.1:8090", "cross-site"),
        ("http://127.0.0.1:8090", "same-site"),
        ("http://127.0.0.1:8090", "none"),
    ],
)
def test_a_write_comes_from_a_page_of_ours(origin: str | None, site: str | None) -> None:
    assert origin_problem(origin, site, "127.0.0.1:8090") != ""
    assert origin_problem("http://127.0.0.1:8090", "same-origin", "127.0.0.1:8090") == ""
    assert origin_problem("https://127.0.0.1:8090", None, "127.0.0.1:8090") == ""


def test_a_token_is_of_its_session_and_of_this_process() -> None:
    token = token_of(b"secret", "session")
    assert token == token_of(b"secret", "session")
    assert token not in (token_of(b"secret", "another"), token_of(b"other", "session"))
