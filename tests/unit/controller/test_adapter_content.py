"""What a pod's name for an adapter stands for: answers of /v1/models, metrics and completions, right and hostile."""

from __future__ import annotations

import json

import pytest

from rollouts.controller.adapter_content import (
    AdapterOnPod,
    Held,
    Model,
    Serving,
    answer_text,
    has_requests,
    read_models,
    same_path,
)


def models(*entries: object) -> str:
    return json.dumps({"object": "list", "data": list(entries)})


BASE = {"id": "mymodel", "root": "/models/qwen", "parent": None}


def test_an_adapters_root_and_parent_are_read_and_a_base_has_no_parent():
    found = read_models(models(BASE, {"id": "v9", "root": "/adapters/v9", "parent": "mymodel"}))
    assert found == {
        "mymodel": Model(root="/models/qwen"),
        "v9": Model(root="/adapters/v9", parent="mymodel"),
    }


@pytest.mark.parametrize(
    "entry",
    [{"id": "v9"}, {"id": "v9", "root": None}, {"id": "v9", "root": 7}, {"id": "v9", "root": "mymodel"}],
    ids=["no root", "null", "a number", "the base's name, as old versions say"],
)
def test_a_list_that_does_not_say_where_an_adapter_is_from(entry):
    found = read_models(models(BASE, entry))
    assert found is not None
    assert found["v9"].root == ""


def test_a_base_whose_root_is_its_own_name_keeps_it():
    found = read_models(models({"id": "qwen", "root": "qwen"}))
    assert found == {"qwen": Model(root="qwen")}


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", '{"data": 1}', "[" * 100_000])
def test_what_is_no_list_of_models(body):
    assert read_models(body) is None


def test_entries_of_wrong_types_are_left_out():
    assert read_models(models(1, {"id": 2}, {"id": "v9", "parent": []})) == {"v9": Model()}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/adapters/v9", "/adapters/v9/", True),
        ("/adapters//v9", "/adapters/./v9", True),
        ("/adapters/v9", "/adapters/v9-fixed", False),
        ("/adapters/v9", "adapters/v9", False),
        ("/adapters/x/../v9", "/adapters/v9", False),
        ("", "/", False),
    ],
)
def test_paths(one, other, same):
    assert same_path(one, other) is same


def state(root: str, *, listed: bool | None = True, proven: bool = True) -> AdapterOnPod:
    return AdapterOnPod(pod="a", listed=listed, proven=proven, root=root)


@pytest.mark.parametrize(
    ("seen", "source", "others", "held"),
    [
        (state("/a/v9"), "/a/v9", (), Held.RIGHT),
        (state("/a/v9/"), "/a/v9", (), Held.RIGHT),
        (state("/a/old"), "/a/v9", (), Held.OTHER),
        (state(""), "/a/v9", (), Held.UNSAID),
        (state("/a/anything"), "", (), Held.RIGHT),
        (state(""), "", ("/a/bad",), Held.RIGHT),
        (state("/a/bad"), "", ("/a/bad",), Held.OTHER),
        (state("", listed=False), "/a/v9", (), Held.RIGHT),
        (state("", listed=None), "/a/v9", (), Held.RIGHT),
    ],
)
def test_what_a_pod_holds(seen, source, others, held):
    (found,) = Serving((seen,)).of(source, others).states
    assert found.held is held


def test_only_the_right_content_counts():
    states = (
        state("/a/v9"),
        state("/a/old"),
        state(""),
        state("", listed=False),
        state("", listed=None, proven=False),
    )
    found = Serving(states).of("/a/v9")
    assert (found.proven, found.possible, len(found.lacking), len(found.mismatched)) == (1, 3, 1, 1)
    assert [item.held for item in found.unproven] == [Held.UNSAID, Held.RIGHT]
    assert found.loaded


def page(*lines: str) -> bytes:
    return ("# HELP x y\n" + "\n".join(lines) + "\n").encode()


def loras(value: float, running: str, waiting: str = "") -> str:
    labels = f'max_lora="4",running_lora_adapters="{running}",waiting_lora_adapters="{waiting}"'
    return f"vllm:lora_requests_info{{{labels}}} {value}"


BUSY = "vllm:num_requests_running 2", "vllm:num_requests_waiting 0"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ((loras(2, "v9"), *BUSY), True),
        ((loras(2, "v8,v9"), *BUSY), True),
        ((loras(2, "", "v9"), *BUSY), True),
        ((loras(1, "v9"), loras(2, "v8"), *BUSY), False),
        ((loras(2, "v9"), loras(2, "v8"), *BUSY), True),
        ((loras(2, "v90"), *BUSY), False),
        ((loras(2, "v9"), "vllm:num_requests_running 0", "vllm:num_requests_waiting 0"), False),
        ((loras(2, "v9"),), True),
        (("up 1",), False),
    ],
    ids=[
        "running",
        "among others",
        "waiting",
        "no longer: the newest series counts",
        "two of the same second",
        "a longer name",
        "stale: the pod has no request at all",
        "no counts",
        "no such metrics",
    ],
)
def test_requests_of_an_adapter(lines, found):
    assert has_requests(page(*lines), "v9") is found


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b"vllm:lora_requests_info{ x"])
def test_an_unreadable_page_is_no_sign_of_rest(body):
    assert has_requests(body, "v9")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"choices": [{"text": "a"}]}', "a"),
        ('{"choices": [{"message": {"content": "b"}}]}', "b"),
        ('{"choices": [{"message": {"content": null}}]}', ""),
        ('{"choices": [{"message": 1}]}', ""),
        ('{"choices": []}', ""),
        ('{"choices": [1]}', ""),
        ("[]", ""),
        ("{", ""),
    ],
)
def test_the_text_of_an_answer(body, text):
    assert answer_text(body) == text
