"""From status codes to errors: one table."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.kube.errors import (
    AlreadyExists,
    ApiTimeout,
    ApiUnavailable,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KindNotServed,
    KubeError,
    NamespaceTerminating,
    NotFound,
    OtherObject,
    RefusedError,
    RetryableError,
    TooManyRequests,
)
from rollouts.kube.statuses import error_from_answer, retry_after_seconds


def status(code: int, reason: str = "", message: str = "because", **details: Any) -> bytes:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("code", "body", "guarded", "want"),
    [
        pytest.param(404, status(404, "NotFound", name="x"), False, NotFound, id="a missing object is named"),
        pytest.param(404, status(404, "NotFound"), False, KindNotServed, id="a Status that names nothing"),
        pytest.param(404, b"404 page not found\n", False, KindNotServed, id="a path nobody serves"),
        pytest.param(409, status(409, "AlreadyExists", name="x"), False, AlreadyExists, id="name taken"),
        pytest.param(409, status(409, "Conflict", name="x"), False, Conflict, id="optimistic lock"),
        pytest.param(409, b"", False, Conflict, id="409 without a body"),
        pytest.param(422, status(422, "Invalid"), True, Conflict, id="a guarded patch that does not apply"),
        pytest.param(422, status(422, "Invalid"), False, Invalid, id="an unguarded one is wrong"),
        pytest.param(
            422, status(422, "Invalid", name="x"), True, Invalid, id="a guarded patch to a broken object"
        ),
        pytest.param(
            422,
            status(422, "Invalid", name="x", causes=[{"field": "metadata.name"}, {"field": "metadata.uid"}]),
            False,
            OtherObject,
            id="a patch for another UID",
        ),
        pytest.param(
            422,
            status(422, "Invalid", name="x", causes=[{"field": "metadata.name"}]),
            False,
            Invalid,
            id="a patch to a broken object",
        ),
        pytest.param(400, status(400, "BadRequest"), True, Invalid, id="400"),
        pytest.param(413, b"too big", False, Invalid, id="413"),
        pytest.param(415, b"", False, Invalid, id="415"),
        pytest.param(401, status(401, "Unauthorized"), False, Forbidden, id="401"),
        pytest.param(403, status(403, "Forbidden", name="x"), False, Forbidden, id="403"),
        pytest.param(
            403,
            status(403, "Forbidden", name="x", causes=[{"reason": "NamespaceTerminating"}]),
            False,
            NamespaceTerminating,
            id="a namespace that ends",
        ),
        pytest.param(403, status(403, "Forbidden", causes="none"), False, Forbidden, id="causes of no shape"),
        pytest.param(410, status(410, "Expired"), False, Gone, id="410"),
        pytest.param(429, b"slow down", False, TooManyRequests, id="429"),
        pytest.param(408, b"", False, ApiTimeout, id="408"),
        pytest.param(504, status(504, "Timeout"), False, ApiTimeout, id="504 may have written"),
        pytest.param(500, status(500, "InternalError"), False, ApiUnavailable, id="500"),
        pytest.param(502, b"<html>bad gateway</html>", False, ApiUnavailable, id="a proxy's page"),
        pytest.param(503, b"\xff\xfe", False, ApiUnavailable, id="no text at all"),
        pytest.param(302, b"", False, ApiUnavailable, id="a redirect is not followed"),
    ],
)
def test_each_answer_has_its_error(code: int, body: bytes, guarded: bool, want: type[KubeError]) -> None:
    error = error_from_answer(code, body, guarded=guarded)

    assert type(error) is want
    assert error.status == code


def test_the_servers_words_are_kept_and_bounded() -> None:
    assert "no such field" in str(error_from_answer(422, status(422, message="no such field")))
    assert len(str(error_from_answer(500, b"x" * 100_000))) <= 1000


@pytest.mark.parametrize(
    ("header", "want"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (None, 1.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 1.0),
        ("-3", 0.0),
        ("1e9", 300.0),
        ("nan", 1.0),
        ("inf", 300.0),
    ],
)
def test_retry_after_is_believed_within_reason(header: str | None, want: float) -> None:
    error = error_from_answer(429, b"", retry_after=header)

    assert retry_after_seconds(header) == want
    assert isinstance(error, TooManyRequests)
    assert error.retry_after == want


@given(st.integers(300, 999), st.binary(max_size=200), st.booleans())
def test_whatever_comes_back_becomes_one_of_two_families(code: int, body: bytes, guarded: bool) -> None:
    error = error_from_answer(code, body, guarded=guarded)

    assert isinstance(error, RetryableError | RefusedError)
    assert str(error)


def test_a_deeply_nested_body_is_only_text() -> None:
    assert isinstance(error_from_answer(500, b"[" * 100_000), ApiUnavailable)
