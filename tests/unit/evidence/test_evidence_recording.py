"""The recording format: what is written is read, and bad input names its line."""

import json
import math

import pytest

from rollouts.analysis.evidence.model import Arm, Exclusion, HistogramSample, Mark, PodSample
from rollouts.analysis.recording import (
    RecordingError,
    exclusion_line,
    header_line,
    mark_line,
    read_recording,
    sample_line,
)

HEADER = header_line(30)


def line(**fields):
    return json.dumps({"t": 0, "arm": "stable", "pod": "a", **fields})


def test_what_is_written_is_read():
    sample = PodSample(
        arm=Arm.CANARY,
        pod="p0",
        counters={"requests": 123.0, "errors": 4.0},
        gauges={"kv_cache": 0.61},
        histograms={
            "ttft": HistogramSample(bounds=(0.01, 0.05, math.inf), cumulative=(3.0, 9.0, 12.0), sum=1.7)
        },
        started=-5.0,
    )
    mark, exclusion = Mark(at=0.0, step=1, weight=0.05), Exclusion(start=10.0, end=60.0)
    rows = [HEADER, mark_line(mark), sample_line(30.0, sample), exclusion_line(60.0, exclusion)]
    recording = read_recording(rows)
    assert recording.interval == 30
    assert recording.scrapes[0].pods == (sample,)
    assert recording.scrapes[0].at == 30.0
    assert recording.marks == (mark,)
    assert recording.exclusions == (exclusion,)


def test_the_documented_example_is_read():
    rows = [
        '{"kind":"Recording","version":1,"interval":30}',
        '{"t":0,"arm":"stable","pod":"p0","counters":{"requests":123,"errors":4},"gauges":{"kv_cache":0.61},'
        '"histograms":{"ttft":{"le":[0.01,0.05,"+Inf"],"cumulative":[3,9,12],"sum":1.7}}}',
        '{"t":0,"event":"step","step":1,"weight":5}',
    ]
    recording = read_recording(rows)
    assert recording.marks[0].weight == 0.05
    assert recording.scrapes[0].pods[0].histograms["ttft"].bounds[-1] == math.inf


def test_lines_of_one_evaluation_are_grouped_and_blank_lines_skipped():
    rows = [HEADER, line(t=0), "", line(t=1.5, pod="b"), line(t=30), line(t=31, pod="b"), line(t=31, pod="a")]
    recording = read_recording(rows)
    assert [(s.at, [p.pod for p in s.pods]) for s in recording.scrapes] == [
        (1.5, ["a", "b"]),
        (31.0, ["a", "b"]),
        (31.0, ["a"]),
    ]


def test_one_pod_may_serve_both_arms_in_one_scrape():
    recording = read_recording([HEADER, line(), line(arm="canary")])
    assert [p.arm for p in recording.scrapes[0].pods] == [Arm.STABLE, Arm.CANARY]


def test_null_and_nan_are_missing_values():
    recording = read_recording(
        [HEADER, line(counters={"requests": None}), line(t=30, counters={"x": math.nan})]
    )
    assert math.isnan(recording.scrapes[0].pods[0].counters["requests"])
    assert math.isnan(recording.scrapes[1].pods[0].counters["x"])


def test_a_percent_string_is_a_weight():
    recording = read_recording([HEADER, json.dumps({"t": 0, "event": "step", "step": 0, "weight": "0.5%"})])
    assert recording.marks[0].weight == 0.005


def test_unknown_events_and_fields_are_left_alone():
    recording = read_recording([HEADER, json.dumps({"t": 0, "event": "note", "text": "x"}), line(extra=1)])
    assert len(recording.scrapes) == 1


HISTOGRAM = {"le": [1, "+Inf"], "cumulative": [1, 2]}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "line 1: a recording begins with"),
        (['{"kind":"Recording","version":2}'], "line 1: .*version 2"),
        (['{"kind":"Recording","version":1,"interval":0}'], "interval"),
        ([HEADER, "nonsense"], "line 2"),
        ([HEADER, "[1]"], "JSON object"),
        ([HEADER, line(t="x")], "t must be a finite number"),
        ([HEADER, line(t=True)], "t must be a finite number"),
        ([HEADER, line(t=60), line(t=30)], "line 3: t goes back"),
        ([HEADER, line(arm="blue")], "arm must be"),
        ([HEADER, line(arm="canary", t=-30)], "history"),
        ([HEADER, line(pod="")], "pod must be a name"),
        ([HEADER, line(pod="x" * 300)], "pod must be a name"),
        ([HEADER, line(counters=[1])], "counters must be an object"),
        ([HEADER, line(counters={"a": "1"})], "values must be numbers"),
        ([HEADER, line(counters={str(i): 1 for i in range(70)})], "at most 64"),
        ([HEADER, line(histograms={"h": [1]})], "must be an object"),
        ([HEADER, line(histograms={"h": {**HISTOGRAM, "cumulative": [1]}})], "same length"),
        ([HEADER, line(histograms={"h": {"le": [2, 1, "+Inf"], "cumulative": [1, 1, 1]}})], "ascend"),
        ([HEADER, line(histograms={"h": {"le": [1, 2], "cumulative": [1, 1]}})], "end with"),
        ([HEADER, line(histograms={"h": {"le": list(range(600)), "cumulative": [0] * 600}})], "buckets"),
        ([HEADER, json.dumps({"t": 0, "event": "step", "step": 0, "weight": 101})], "between 0 and 100"),
        ([HEADER, json.dumps({"t": 0, "event": "step", "step": 0, "weight": "many"})], "percentage"),
        ([HEADER, json.dumps({"t": 0, "event": "exclude", "from": 5, "to": 1})], "before it begins"),
        ([HEADER, "x" * (1024 * 1024 + 1)], "split it"),
        ([HEADER, "[" * 100_000], "line 2"),
    ],
)
def test_bad_input_is_refused_with_its_line(rows, words):
    with pytest.raises(RecordingError, match=words):
        read_recording(rows)
