"""Escaping is total: nothing that a tenant wrote is markup, wherever in an object it stands."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rollouts.dashboard.pages import ShownPart, list_main, page_of, rollout_main
from rollouts.report.markup import el, render
from rollouts.report.page import report_page
from rollouts.report.reading import read_attempt
from rollouts.report.words import report_markdown
from tests.kit.attempts import bad_attempt, objects_of

NOW = datetime(2030, 1, 1, 1, tzinfo=UTC)
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"'></td></style></title>&lt;b&gt;"
    "](javascript:alert(1)) ![x](http://evil.example/x.png) `code` **bold** | cell \n# head\n"
    "\" onfocus='alert(1)' x=<!--\u202ereversed\x1b[31m"
)
FREE = frozenset(
    {"message", "reason", "effect", "evidence", "revision", "by", "action", "raw", "manager", "operation"}
)
"""Fields that hold a person's, a pod's or a server's words; ``name`` of metrics and managers' times besides."""

Object = dict[str, Any]


class Structure(HTMLParser):
    """Elements with their attributes, in order, without values that are data; and the text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[Any] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        data = ("aria-label", "value", "content", "href", "data-live", "id")
        self.found.append((tag, [(name, "" if name in data else value) for name, value in attrs]))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.found.append(f"comment {data}")


def filled(value: Any, text: str, key: str = "") -> Any:
    """The object with ``text`` in every field that takes free text."""
    if isinstance(value, dict):
        return {name: filled(item, text, name) for name, item in value.items()}
    if isinstance(value, list):
        return [filled(item, text, key) for item in value]
    return text if isinstance(value, str) and key in FREE else value


def attempt_with(text: str) -> tuple[Object, list[Object], list[Object]]:
    rollout, runs, events = (filled(copy.deepcopy(one), text) for one in objects_of(bad_attempt()))
    rollout["metadata"]["annotations"] = {"inferencerollouts.dev/commit": text}
    rollout["metadata"]["managedFields"] = [
        {"manager": text, "operation": text, "time": text, "fieldsV1": {"f:spec": {}}}
    ]
    last = {
        "raw": text,
        "action": text,
        "result": "Done",
        "at": "2030-01-01T00:01:00Z",
        "by": text,
        "message": text,
    }
    rollout["status"] |= {"lastCommand": last, "overrides": [text]}
    for run in runs:
        names = [f"{text}{number}"[-80:] for number in range(len(run["spec"]["comparisons"]))]
        for name, asked, told in zip(
            names, run["spec"]["comparisons"], run["status"]["comparisons"], strict=True
        ):
            asked["name"] = told["name"] = name
        run["spec"]["metrics"] = [{"name": text[-63:], "query": text, "successCondition": text}]
        taken = {"phase": "Failed", "at": "2030-01-01T00:01:00Z", "value": "1", "message": text}
        result = {
            "name": text[-63:],
            "phase": "Failed",
            "message": text,
            "failed": 1,
            "measurements": [taken],
        }
        run["status"]["metricResults"] = [result]
    return rollout, runs, events


def report(text: str) -> str:
    return report_page(read_attempt(*attempt_with(text)), NOW)


def live_page(text: str) -> str:
    rollout, runs, _ = attempt_with(text)
    main = rollout_main(rollout, runs, (), ShownPart(now=NOW, token="t" * 64))
    return page_of(f"Rollout {text}", list(main), live="/live", forms=True)


def list_page(text: str) -> str:
    return page_of("Rollouts", list_main([attempt_with(text)[0]]), live="/live", forms=False)


def markdown(text: str) -> str:
    made = report_markdown(read_attempt(*attempt_with(text)), NOW)
    return MarkdownIt("gfm-like", {"linkify": False}).render(made)


@pytest.mark.parametrize("page", [report, live_page, list_page, markdown])
def test_hostile_text_changes_no_element_of_a_page(page: Callable[[str], str]) -> None:
    plain, hostile = Structure(page("plain words")), Structure(page(HOSTILE))
    assert hostile.found == plain.found
    assert "<script>alert(1)</script>" in hostile.text
    assert "\\u202ereversed\\x1b[31m" in hostile.text
    assert "\u202e" not in hostile.text
    assert hostile.text.count("ereversed\\x1b[31m") == plain.text.count("plain words") > 0


@settings(max_examples=200)
@given(st.text())
def test_any_text_is_shown_and_is_nothing_else(text: str) -> None:
    page = Structure(render(el("p", text, el("a", text, href="#x", aria_label=text))))
    assert [one if isinstance(one, str) else one[0] for one in page.found] == ["p", "a", "/a", "/p"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: el("iframe"),
        lambda: el("p", onclick="alert(1)"),
        lambda: el("p", style="x"),
        lambda: el("a", href="javascript:alert(1)"),
        lambda: el("a", href="https://elsewhere.example/"),
        lambda: el("a", href="//elsewhere.example/"),
        lambda: el("a", href="/\\elsewhere.example/"),
        lambda: el("form", action="http://127.0.0.1:1/"),
        lambda: render(el("style", "</style><script>")),
    ],
)
def test_what_could_run_or_fetch_cannot_be_written(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"is not one|leads elsewhere|ends itself"):
        make()


def test_a_report_says_that_it_may_fetch_nothing() -> None:
    page = report("x")
    assert "default-src 'none'" in page.replace("&#x27;", "'")
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
