"""The client's model name comes back in the response, and nothing else changes."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.restore import MAX_HELD, NameRestorer

pytestmark = pytest.mark.usefixtures("data_path")
BOTH = ("NameRestorer",)

EVENT = b'data: {"id":"1","model":"v2","choices":[{"delta":{"content":"\\"model\\":\\"v2\\" v2"}}]}\r\n\r\n'
WANT = EVENT.replace(b'"model":"v2"', b'"model":"travelhelper"', 1)
PLAIN = b'{"choices":[{"model":"v2","text":"v2"}], "model" : "v2"}'


def restore(chunks: list[bytes], kind: bytes) -> bytes:
    restorer = NameRestorer("travelhelper", "v2", BufferBudget())
    restorer.headers(kind)
    return b"".join(restorer.feed(chunk, end=index == len(chunks) - 1) for index, chunk in enumerate(chunks))


@pytest.mark.parametrize(
    ("sentence", "kind", "body", "want"),
    [
        ("an event", b"text/event-stream", EVENT + b"data: [DONE]\n\n", WANT + b"data: [DONE]\n\n"),
        ("a comment", b"text/event-stream", b": model v2\n\n", b": model v2\n\n"),
        ("a last line without its end", b"text/event-stream", EVENT.strip(), WANT.strip()),
        ("broken JSON in an event", b"text/event-stream", b'data: {"model":"v2"\n', b'data: {"model":"v2"\n'),
        ("a plain answer", b"application/json", PLAIN, PLAIN.replace(b' : "v2"', b' : "travelhelper"')),
        ("another model", b"application/json", b'{"model":"x"}', b'{"model":"x"}'),
        ("something else", b"text/html", b'{"model":"v2"}', b'{"model":"v2"}'),
        ("an answer too long to hold", b"application/json", b" " * (MAX_HELD + 1), b" " * (MAX_HELD + 1)),
    ],
)
def test_restore(sentence: str, kind: bytes, body: bytes, want: bytes) -> None:
    assert restore([body, b""], kind) == want


@given(cuts=st.lists(st.integers(0, 400), max_size=20), count=st.integers(1, 4), sse=st.booleans())
@settings(max_examples=100, deadline=None)
def test_the_chunking_does_not_matter(cuts: list[int], count: int, sse: bool) -> None:
    body, kind = (EVENT * count, b"text/event-stream") if sse else (PLAIN, b"application/json")
    want = WANT * count if sse else PLAIN.replace(b' : "v2"', b' : "travelhelper"')
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]

    chunks = [body[a:b] for a, b in itertools.pairwise(edges)]

    assert restore(chunks, kind) == want
