"""RolloutFreezes as values: what they select, when they hold, and what cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.api.freeze_models import SelectorModel
from rollouts.api.freezes import freeze_view, read_freeze, selects
from rollouts.api.scalars import format_time, parse_stamp, parse_time
from rollouts.cli.lint import lint_documents

NOW = datetime(2026, 12, 25, 12, tzinfo=UTC)
REASON = "no changes before New Year"


def freeze(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "RolloutFreeze",
        "metadata": {"name": "year-end"},
        "spec": {"reason": REASON, **spec},
    }


@pytest.mark.parametrize(
    ("spec", "until"),
    [
        ({}, None),
        ({"start": "2026-12-24T00:00:00Z"}, None),
        ({"start": "2026-12-24T00:00:00Z", "end": "2027-01-02T08:00:00+01:00"}, "2027-01-02T07:00:00+00:00"),
        ({"windows": [{"schedule": "0 12 * * fri", "duration": "12h"}]}, "2026-12-26T00:00:00+00:00"),
    ],
)
def test_it_holds(spec, until):
    view = freeze_view(read_freeze(freeze(**spec)), NOW)
    assert view is not None
    assert (view.name, view.reason) == ("year-end", REASON)
    assert (view.until.isoformat() if view.until else None) == until
    assert view.since is None


@pytest.mark.parametrize(
    ("spec", "since"),
    [
        ({"start": "2026-12-26T00:00:00Z"}, "2026-12-26T00:00:00+00:00"),
        ({"windows": [{"schedule": "0 12 * * sat", "duration": "12h"}]}, "2026-12-26T12:00:00+00:00"),
    ],
)
def test_it_does_not_hold_yet(spec, since):
    view = freeze_view(read_freeze(freeze(**spec)), NOW)
    assert view is not None
    assert view.since is not None
    assert view.since.isoformat() == since


def test_it_is_over():
    assert freeze_view(read_freeze(freeze(end="2026-12-25T12:00:00Z")), NOW) is None


WRONG = [
    ({"end": "tomorrow"}, "spec.end is no time"),
    ({"start": "2026-12-24T00:00:00Z", "end": "2026-12-24T00:00:00Z"}, "spec.end is not after start"),
    (
        {"windows": [{"schedule": "0 12 31 2 *", "duration": "12h"}]},
        "spec.windows[0] schedule '0 12 31 2 *' never comes",
    ),
    (
        {"end": "2026-12-24T00:00:00Z", "windows": [{"schedule": "0 12 * * *", "duration": "1h"}]},
        "spec.windows stands beside start or end",
    ),
    (
        {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        "spec.namespaceSelector.matchExpressions[0] In takes values",
    ),
    (
        {"rolloutSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}},
        "spec.rolloutSelector.matchExpressions[0] Exists takes no values",
    ),
]


@pytest.mark.parametrize(("spec", "words"), WRONG, ids=[words for _, words in WRONG])
def test_one_that_is_wrong_holds_and_lint_says_what_is_wrong(spec, words):
    view = freeze_view(read_freeze(freeze(**spec)), NOW)
    assert view is not None
    assert words in view.reason
    assert view.reason.endswith("so it holds until it is corrected or deleted")
    assert any(words in one.text for one in lint_documents([freeze(**spec)]))


@pytest.mark.parametrize("spec", [None, [], {"reason": 1}, {"reason": "x", "windows": 7}])
def test_what_cannot_be_read_at_all_holds_everywhere(spec):
    found = read_freeze({"metadata": {"name": "x"}, "spec": spec})
    assert freeze_view(found, NOW) is not None
    assert selects(found.namespaces, {})
    assert selects(found.rollouts, {})


def test_fields_that_nobody_reads_are_named():
    findings = lint_documents([freeze(namespaceSelektor={}), freeze(until="2026-12-24T00:00:00Z")])
    assert [one.rule for one in findings] == ["unknown-field", "unknown-field"]
    assert lint_documents([freeze(end="2027-01-02T00:00:00Z")]) == []


def test_a_reason_is_one_line_without_control_characters():
    view = freeze_view(read_freeze(freeze(reason="a\n\x1b[31mb" + "c" * 200)), NOW)
    assert view is not None
    assert view.reason.startswith("a [31mbccc")
    assert len(view.reason) == 120


@pytest.mark.parametrize("field", ["namespaceSelector", "rolloutSelector"])
def test_a_selector_that_is_wrong_selects_everything_and_the_other_still_chooses(field):
    chosen = {"matchLabels": {"team": "a"}}
    wrong = {"matchExpressions": [{"key": "team", "operator": "In"}]}
    spec = {"namespaceSelector": chosen, "rolloutSelector": chosen, field: wrong}
    found = read_freeze(freeze(**spec))
    selected = {
        "namespaceSelector": selects(found.namespaces, {}),
        "rolloutSelector": selects(found.rollouts, {}),
    }
    assert selected == {"namespaceSelector": False, "rolloutSelector": False, field: True}


@pytest.mark.parametrize(
    "edge", [{"end": "9999-12-31T23:59:59-05:00"}, {"start": "0001-01-01T00:00:00+05:00"}], ids=str
)
def test_a_time_that_utc_has_no_date_for_is_wrong_and_holds(edge):
    view = freeze_view(read_freeze(freeze(**edge)), NOW)
    assert view is not None
    assert (
        view.reason
        == f"spec.{next(iter(edge))} is no time: write one as 2026-12-24T00:00:00Z, so it holds "
        + ("until it is corrected or deleted")
    )


times = st.builds(
    lambda text, zone: text + zone,
    st.one_of(
        st.datetimes().map(lambda one: one.isoformat()),
        st.sampled_from(["9999-12-31T23:59:59", "0001-01-01T00:00:00", "2026-02-30T00:00:00", "", "now"]),
    ),
    st.sampled_from(["Z", "", "+05:00", "-05:00", "+23:59", "-23:59", "+99:99", "+00:00:01.5"]),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.one_of(times, st.text(max_size=45), st.integers(), st.none()))
def test_whatever_stands_for_a_time_it_is_read_or_refused(text):
    for read in (parse_time, parse_stamp):
        try:
            moment = read(text)
        except ValueError:
            continue
        assert moment.utcoffset() == timedelta(0)
        if read is parse_stamp:
            assert read(format_time(moment)) == moment.replace(microsecond=0)
            assert moment + 20 * timedelta(days=3660) > moment
    for spec in ({"start": text}, {"end": text}):
        assert read_freeze(freeze(**spec)).name == "year-end"


LABELS = {"team": "a", "tier": "gold"}


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, True),
        ({"matchLabels": {"team": "a"}}, True),
        ({"matchLabels": {"team": "b"}}, False),
        ({"matchLabels": {"none": ""}}, False),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["a"]}]}, True),
        ({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"team": "a"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]}, False),
    ],
)
def test_selectors_are_those_of_kubernetes(selector, chosen):
    assert selects(SelectorModel.model_validate(selector), LABELS) is chosen
