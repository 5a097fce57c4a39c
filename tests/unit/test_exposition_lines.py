"""Lines of metrics pages: read as the format says, and in linear time whatever a pod writes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rollouts.analysis.exposition import ExpositionError, parse_exposition
from rollouts.exposition_lines import MAX_LINE, read_line
from rollouts.picker.core.measure import Ending, ResponseMeter
from rollouts.picker.core.scrape import UNKNOWN, parse_metrics

NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,20}", fullmatch=True)
KEYS = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,10}", fullmatch=True).filter(
    lambda key: not key.startswith("__")
)  # reserved
TEXTS = st.text(
    alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs", "Cc", "Zl", "Zp"]),
    max_size=20,
)


@given(NAMES, st.dictionaries(KEYS, TEXTS, max_size=4), st.floats(allow_nan=False))
def test_a_line_reads_as_the_reference_parser_reads_it(name, labels, value):
    quoted = {k: v.replace("\\", r"\\").replace('"', r"\"") for k, v in labels.items()}
    inside = ",".join(f'{key}="{text}"' for key, text in quoted.items())
    line = f"{name}{{{inside}}} {value!r}" if labels else f"{name} {value!r}"

    (family,) = text_string_to_metric_families(line + "\n")
    read = read_line(line)

    assert read is not None
    assert read.labels == family.samples[0].labels == labels
    assert (read.name, float(read.value)) == (name, value)


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ('a{x="1",} 2', ("a", {"x": "1"}, "2")),
        ("a{} 2 1700000000000", ("a", {}, "2")),
        ('a { x="1"} 2', None),
        ('a{x="1" y="2"} 2', None),
        ('a{x="1"', None),
        ('a{x="1"}', None),
        ("a", None),
        ("", None),
        ('a_bucket{le="1"} 5 # {trace="x"} 0.5 1.7e9', ("a_bucket", {"le": "1"}, "5")),
        ("a\t1\r", ("a", {}, "1")),
        ("a " + "1" * MAX_LINE, None),
    ],
)
def test_what_lines_mean(line, want):
    assert read_line(line) == want


PUMPS = (
    *('a{x="1"', "a{", "a{x=", 'a{x="\\', "a ", "a", "}", "} ", 'x="', '\\"', "=", ",", "{{", "a} 1 "),
    *('a{x="1",', "# ", "1 1 1 ", "\t \t", "vllm:num_requests_running{", 'le="', "9"),
)
LONG = 200_000
SECONDS = 0.25
"""A quadratic scan of 200,000 characters takes minutes; the linear ones take milliseconds."""


def by_controller(line: str) -> None:
    try:
        parse_exposition(line.encode(), {"a", "vllm:lora_requests_info"})
    except ExpositionError:
        return


def by_picker(line: str) -> None:
    parse_metrics(line, UNKNOWN)


def by_meter(line: str) -> None:
    for kind in (b"text/event-stream", b"application/json"):
        meter = ResponseMeter(0.0)
        meter.headers(b"200", kind)
        meter.body(b"data: " + line.encode() + b"\n", 1.0)
        meter.finish(Ending.COMPLETE, 2.0)


@pytest.mark.timed
@pytest.mark.parametrize("scan", [by_controller, by_picker, by_meter])
@pytest.mark.parametrize("pump", PUMPS)
@pytest.mark.parametrize("head", ["", "a{", "vllm:lora_requests_info{", '"usage":{'])
def test_a_line_of_any_content_is_read_in_linear_time(scan: Callable[[str], None], pump, head):
    line = (head + pump * LONG)[:LONG]
    lines = [line, line + '"} 1', line[:60_000] + '"} 1', line[:60_000]]

    begun = time.thread_time()
    for text in lines:
        scan(text)

    assert time.thread_time() - begun < SECONDS


@pytest.mark.timed
def test_a_page_of_a_million_lines_is_refused_before_it_is_split():
    begun = time.thread_time()

    with pytest.raises(ExpositionError, match="lines"):
        parse_exposition(b"\n" * 4_000_000, {"a"})

    assert time.thread_time() - begun < 0.1
