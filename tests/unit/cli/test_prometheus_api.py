"""What commands get of a Prometheus server's API, and of what is none: ``lint --source`` and ``doctor --source``."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from rollouts.cli.doctor_sources import source_checks
from rollouts.cli.findings import Level
from rollouts.cli.lint_promql import QueryParsers
from rollouts.cli.prometheus_api import ApiAnswer, NoAnswer, ask


@pytest.fixture
def saying() -> Iterator[Callable[[bytes], str]]:
    """The URL of a server that says the same bytes to everybody, whatever they ask, and closes."""
    listeners: list[tuple[socket.socket, threading.Thread]] = []

    def start(words: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))

        def answer() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    client.sendall(words)

        thread = threading.Thread(target=answer)
        thread.start()
        listeners.append((listener, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener, thread in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def reply(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.mark.parametrize("post", [False, True])
@pytest.mark.parametrize("status", [200, 400, 503])
def test_every_status_is_an_answer(saying: Callable[[bytes], str], status: int, post: bool) -> None:
    url = saying(reply(f"{status} X", b"words"))

    assert ask(f"{url}/", "query", {"query": "up"}, post=post) == ApiAnswer(status, b"words")


WRONG = {"no HTTP": b"220 mail.example.com ESMTP\r\n", "silence": b""}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_server_is_told_by_both_commands(saying: Callable[[bytes], str], what: str) -> None:
    url = saying(WRONG[what])
    parsers = QueryParsers({"x": url})
    (found,) = source_checks({"x": url}, "default")

    assert parsers("x", "up") is None
    assert parsers.troubles["x"].startswith(f"{url} cannot be asked: ")
    assert found.level is Level.BAD
    assert "does not answer a query: " in found.text


def test_a_text_that_is_no_url_is_told() -> None:
    with pytest.raises(NoAnswer, match="unknown url type"):
        ask("prometheus.example.com:9090", "query", {"query": "up"})
