"""The text format: numbers as the Python client writes them, buckets as Prometheus reads them."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from rollouts.lab.vllm.exposition import Counter, Histogram, MetricRegistry, format_value


@pytest.mark.parametrize(
    "value", [0.0, 1.0, 0.25, 173.0, 123456.0, 1234567.0, 1.7953392126702363e9, 1e21, 1e-9, float("inf")]
)
def test_numbers_are_written_as_the_client_library_writes_them(value: float) -> None:
    assert format_value(value) == floatToGoString(value)


@pytest.mark.parametrize(
    ("value", "buckets"),
    [(0.05, [1, 1, 1]), (0.1, [1, 1, 1]), (0.11, [0, 1, 1]), (0.5, [0, 1, 1]), (0.6, [0, 0, 1])],
)
def test_a_bucket_takes_values_up_to_and_including_its_bound(value: float, buckets: list[int]) -> None:
    registry = MetricRegistry()
    family = registry.add("h", "histogram", "text", lambda name, labels: Histogram(name, labels, (0.1, 0.5)))
    sample = family.sample({})
    assert isinstance(sample, Histogram)
    sample.observe(value, 3)
    (parsed, _) = text_string_to_metric_families(registry.render().decode())
    samples = {(s.name, s.labels.get("le", "")): s.value for s in parsed.samples}

    assert [samples["h_bucket", le] for le in ("0.1", "0.5", "+Inf")] == [3 * count for count in buckets]
    assert (samples["h_count", ""], samples["h_sum", ""]) == (3, value * 3)


def test_label_values_are_escaped() -> None:
    registry = MetricRegistry()
    family = registry.add("c", "counter", "text", Counter)
    family.sample({"path": 'a"b\\c\nd'})
    (parsed, _) = text_string_to_metric_families(registry.render().decode())

    assert [sample.labels for sample in parsed.samples] == [{"path": 'a"b\\c\nd'}]
