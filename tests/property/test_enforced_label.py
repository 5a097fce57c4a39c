"""A query limited to a namespace: every selector carries the matcher, or the query is refused."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.analysis.enforced_label import QueryNotRewritten, enforce_label

OURS = 'namespace="team-a"'
Pair = tuple[str, str]
"""A query, and the same with our matcher where the grammar below put a selector: an oracle of its own."""

NAMES = st.sampled_from(
    ["up", "vllm:e2e_seconds_bucket", "sum", "count", "rate", "job:x:rate5m", "inform", "nano", "_x"]
)
STRINGS = st.sampled_from(['"a"', "'}'", '`{x="y"}`', '"\\"}"', '"#"', '"up"', "'\\''", '"or up"'])
ENTRIES = st.builds(
    "{}{}{}".format, st.sampled_from(["pod", "le", "by"]), st.sampled_from(["=", "!=", "=~", "!~"]), STRINGS
)


@st.composite
def selectors(draw: st.DrawFn) -> Pair:
    entries = draw(st.lists(ENTRIES, max_size=3))
    name = draw(NAMES) if not entries or draw(st.booleans()) else ""
    if not name and draw(st.booleans()):
        entries.insert(0, '"utf8.name"')
    inside = ",".join(entries)
    tail = "," if entries and draw(st.booleans()) else ""
    ours = f"{{{OURS}{',' if entries else ''}{inside}}}"
    if name and not entries and draw(st.booleans()):
        return name, f"{name}{ours}"
    return f"{name}{{{inside}{tail}}}", f"{name}{ours}"


LABELS = st.sampled_from(["(pod)", "(pod, le)", "()", "(by)"])
MODIFIERS = st.sampled_from(
    ["", "[5m]", "[1h:5m]", "[5m:]", " offset 5m", " offset -1h30m", " @ 1.5e9", " @ end()", " @ start()"]
)


@st.composite
def vectors(draw: st.DrawFn) -> Pair:
    query, want = draw(selectors())
    modifier = draw(MODIFIERS)
    return query + modifier, want + modifier


def joined(parts: list[Pair], form: str) -> Pair:
    return form.format(*(p[0] for p in parts)), form.format(*(p[1] for p in parts))


def larger(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    one, two = st.tuples(inner).map(list), st.tuples(inner, inner).map(list)
    calls = [
        "rate({0})",
        "({0})",
        "-{0}",
        "sum({0})",
        "sum({0}) by (pod)",
        "sum by (le, pod) ({0})",
        "count without() ({0})",
    ]
    calls += ['label_replace({0}, "a", "$1", "b", "(.*)")', "quantile(0.9, {0})", 'count_values("v", {0})']
    pairs = ["{0} + {1}", "{0} or {1}", "{0} unless on (pod) {1}", "{0} / ignoring (le) group_left (pod) {1}"]
    pairs += [
        "{0} > bool {1}",
        "topk({0}, {1})",
        "{0} and on() {1}",
        "{0} == {1}",
        "{0}/{1}",
        "{0} atan2 {1}",
    ]
    return st.builds(joined, one, st.sampled_from(calls)) | st.builds(joined, two, st.sampled_from(pairs))


SCALARS = st.sampled_from(
    ["1", "2.5e-3", "0x1F", ".5", "Inf", "nan", "time()", "vector(1)", "1h30m", '"s"']
).map(lambda t: (t, t))
QUERIES = st.recursive(vectors() | SCALARS, larger, max_leaves=8)


@given(QUERIES)
@settings(max_examples=500, deadline=None)
def test_every_selector_carries_the_matcher_and_nothing_else_changes(pair):
    query, want = pair

    assert enforce_label(query, "namespace", "team-a") == want


WORDS = [
    "up",
    "sum",
    "by",
    "without",
    "or",
    "and",
    "on",
    "offset",
    "bool",
    "start",
    "group_left",
    "info",
    "nan",
    "(",
    ")",
]
WORDS += [
    "{",
    "}",
    "[",
    "]",
    ",",
    "=",
    '"x"',
    "'y",
    "+",
    "@",
    "5m",
    ":",
    "#c\n",
    "`",
    "!=",
    " ",
    "\n",
    "{}",
    "x",
    "namespace",
]
SELECTOR = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*\{|\{")


@given(st.lists(st.sampled_from(WORDS), max_size=14).map("".join))
@settings(max_examples=2000, deadline=None)
def test_what_is_passed_on_has_no_selector_without_the_matcher(query):
    try:
        rewritten = enforce_label(query, "namespace", "team-a")
    except QueryNotRewritten:
        return
    # Strings out of the way, then by the text alone: each brace opens with our matcher, each name is followed by one.
    bare = re.sub(r"\"[^\"]*\"|`[^`]*`|'[^']*'", '""', rewritten.replace(OURS, "OURS"))
    assert all(bare[found.end() :].startswith("OURS") for found in SELECTOR.finditer(bare))
    outside = re.sub(r"\{[^{}]*\}", "{}", bare)
    lists = re.sub(r"\b(by|without|on|ignoring|group_left)\s*\([^()]*\)", " ", outside)
    names = re.compile(r"(?<![0-9A-Za-z_:])(up|x|namespace|sum|info)(?![A-Za-z0-9_:]) *(.?)")
    for word in names.finditer(lists):
        assert word[2] in ("{", "(") or word[0].startswith("sum")


REFUSED = [
    "or",
    "a or",
    "by (x)",
    "start()",
    "offset",
    "info(up)",
    "sum by x (up)",
    "{",
    "a{b",
    'a{b="c"',
    'a{"b',
    "a b",
    "a[",
    "a[x]",
    "a[up]",
    "(a",
    "a)",
    "a{b=c}",
    "a @ b",
    "a offset b",
    "",
    "{{schema:0}}",
    "a $ b",
    "`a",
    "sum(",
    "a,b",
    "a anchored",
    "é",
    "a" * 20_000,
    "{" * 5000,
    "(" * 5000,
    "a{" + 'b="c",' * 5000,
]


@pytest.mark.timed
@pytest.mark.parametrize("query", REFUSED)
def test_what_is_not_understood_is_refused_in_time(query):
    begun = time.thread_time()

    with pytest.raises(QueryNotRewritten):
        enforce_label(query, "namespace", "team-a")

    assert time.thread_time() - begun < 0.5


def test_a_namespace_is_data():
    assert enforce_label("up", "ns", 'a"} or up{x="') == 'up{ns="a\\"} or up{x=\\""}'
