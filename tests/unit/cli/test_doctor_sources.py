"""``doctor --source``: a server that hides its newest samples, gets them late, or is none."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from rollouts.cli.doctor_sources import source_checks
from rollouts.cli.findings import Level

Answer = Callable[[str, bool], float | None]
"""What a query is answered, and whether the moment itself was asked for."""


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                words = {key: value[0] for key, value in parse_qs(urlsplit(self.path).query).items()}
                value = answer(words["query"], words.get("nocache") == "1")
                found = [] if value is None else [{"metric": {}, "value": [1, str(value)]}]
                body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": found}})
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def store(
    *,
    hidden: float = 0.0,
    late: float = 0.0,
    age: float | None = 8.0,
    apart: float = 15.0,
    replicas: float = 1.0,
) -> Answer:
    def answer(query: str, exactly: bool) -> float | None:
        if query.startswith("max(count by"):
            return None if age is None else replicas
        if query.startswith("time()"):
            return -late if exactly else -max(hidden, late)
        return apart if "count_over_time" in query else age

    return answer


SAID: dict[str, tuple[Answer, list[tuple[Level, str]]]] = {
    "Prometheus": (
        store(),
        [(Level.FINE, "answers for the moment that it is asked for"), (Level.FINE, "8 s old, 15 s apart")],
    ),
    "VictoriaMetrics": (
        store(hidden=30.0),
        [(Level.FINE, "hides what is younger than 30 s"), (Level.FINE, "8 s old, 15 s apart")],
    ),
    "VictoriaMetrics behind a proxy": (
        store(hidden=30.0, late=30.0, age=38.0),
        [(Level.WARN, "answers for 30 s before the moment"), (Level.WARN, "are 38 s old, and 15 s apart")],
    ),
    "a remote write that lags": (
        store(age=90.0, apart=30.0),
        [(Level.FINE, "answers for the moment"), (Level.WARN, "are 90 s old, and 30 s apart")],
    ),
    "scrapes once a minute": (store(age=59.0, apart=60.0), [(Level.FINE, ""), (Level.FINE, "60 s apart")]),
    "two scrapers": (
        store(replicas=2.0),
        [
            (Level.FINE, ""),
            (Level.FINE, "15 s apart"),
            (Level.WARN, "holds targets of namespace models 2 times"),
        ],
    ),
    "nothing of the namespace": (
        store(age=None),
        [(Level.FINE, ""), (Level.WARN, "no `up` of namespace models")],
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_how_late_a_server_is(serve, case: str) -> None:
    answer, said = SAID[case]

    found = list(source_checks({"default": serve(answer)}, "models"))

    assert [one.level for one in found] == [level for level, _ in said]
    assert all(
        text in one.text and "source default" in one.text for one, (_, text) in zip(found, said, strict=True)
    )
    assert all(bool(one.fix) == (one.level is not Level.FINE) for one in found)


def test_a_server_that_is_away_is_a_problem() -> None:
    (found,) = source_checks({"default": "http://127.0.0.1:1"}, "models")

    assert found.level is Level.BAD
    assert re.search("does not answer a query", found.text)


def test_a_server_that_asks_for_credentials_is_told_by_its_status(unwilling: str) -> None:
    (found,) = source_checks({"default": unwilling}, "models")

    assert "HTTP 401" in found.text
    assert "no credentials" in found.fix


@pytest.fixture
def unwilling() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
