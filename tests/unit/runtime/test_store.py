from __future__ import annotations

import itertools
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from rollouts.runtime.objects import ObjectKey, Order, compare_versions
from rollouts.runtime.store import ReadOnce, Replacement, Store
from tests.kit.stores import replace_all

Object = dict[str, Any]
KEY = ObjectKey("ns", "a")


def make(name: str = "a", *, rv: object = "1", uid: str = "u1", pool: str = "", **extra: Any) -> Object:
    return {
        "metadata": {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": rv},
        "spec": {"pool": pool},
        **extra,
    }


def by_pool(obj: Object) -> Iterable[str]:
    return [obj["spec"]["pool"]] if obj["spec"]["pool"] else []


def rv_of(store: Store, key: ObjectKey = KEY) -> str | None:
    obj = store.get(key)
    return None if obj is None else obj["metadata"]["resourceVersion"]


@pytest.fixture
def store() -> Store:
    return Store(indexes={"pool": by_pool})


@pytest.fixture
def heard(store: Store) -> list[str]:
    keys: list[str] = []
    store.subscribe(lambda key: keys.append(str(key)))
    return keys


@pytest.mark.parametrize(
    ("left", "right", "want"),
    [
        ("9", "10", Order.OLDER),
        ("10", "9", Order.NEWER),
        ("10", "10", Order.SAME),
        ("99999999999999999999998", "99999999999999999999999", Order.OLDER),
        ("abc", "abc", Order.SAME),
        ("abc", "5", Order.UNKNOWN),
        ("05", "5", Order.UNKNOWN),
        ("0", "5", Order.UNKNOWN),
        ("", "5", Order.UNKNOWN),
        ("٣", "5", Order.UNKNOWN),
        ("-1", "5", Order.UNKNOWN),
    ],
)
def test_versions_compare_as_numbers_or_not_at_all(left: str, right: str, want: Order) -> None:
    assert compare_versions(left, right) is want


@pytest.mark.parametrize(
    ("sentence", "events", "want_rv"),
    [
        ("a newer state replaces an older one", [("apply", "9", "u1"), ("apply", "10", "u1")], "10"),
        ("a replayed event does not roll back", [("apply", "10", "u1"), ("apply", "9", "u1")], "10"),
        ("our own write is seen at once", [("apply", "5", "u1"), ("record_write", "7", "u1")], "7"),
        (
            "a watch event older than our write does not roll it back",
            [("apply", "5", "u1"), ("record_write", "7", "u1"), ("apply", "6", "u1")],
            "7",
        ),
        (
            "a late answer does not roll back what the watch brought",
            [("apply", "8", "u1"), ("record_write", "7", "u1")],
            "8",
        ),
        ("a deletion removes", [("apply", "5", "u1"), ("remove", "6", "u1")], None),
        (
            "a late answer does not bring a deleted object back",
            [("apply", "5", "u1"), ("remove", "8", "u1"), ("record_write", "7", "u1")],
            None,
        ),
        (
            "a late event does not bring a deleted object back",
            [("apply", "5", "u1"), ("remove", "8", "u1"), ("apply", "7", "u1")],
            None,
        ),
        (
            "a late answer to the predecessor does not replace the recreated object",
            [("apply", "5", "u1"), ("remove", "8", "u1"), ("apply", "9", "u2"), ("record_write", "7", "u1")],
            "9",
        ),
        (
            "a late deletion of the predecessor does not delete the recreated object",
            [("apply", "5", "u1"), ("apply", "9", "u2"), ("remove", "8", "u1")],
            "9",
        ),
        (
            "a deletion that overtakes our write still deletes",
            [("record_write", "7", "u1"), ("remove", "6", "u1")],
            None,
        ),
        (
            "versions that are no numbers: the latest arrival wins",
            [("apply", "x9", "u1"), ("record_write", "x1", "u1"), ("apply", "x5", "u1")],
            "x5",
        ),
        (
            "versions that are no numbers: deleted stays deleted",
            [("apply", "x9", "u1"), ("remove", "x1", "u1"), ("record_write", "x5", "u1")],
            None,
        ),
    ],
)
def test_the_store_never_goes_back(
    store: Store, sentence: str, events: list[tuple[str, str, str]], want_rv: str | None
) -> None:
    for method, rv, uid in events:
        getattr(store, method)(make(rv=rv, uid=uid))

    assert rv_of(store) == want_rv, sentence


def test_any_order_of_duplicated_events_ends_in_the_same_state() -> None:
    events = [
        ("apply", make(rv="1")),
        ("apply", make(rv="3")),
        ("remove", make(rv="5")),
        ("apply", make(rv="7", uid="u2")),
        ("record_write", make(rv="9", uid="u2")),
    ]
    results = set()

    for order in itertools.permutations([*events, events[0], events[3]]):
        store = Store()
        for method, obj in order:
            getattr(store, method)(obj)
        results.add(rv_of(store))

    assert results == {"9"}


def test_subscribers_hear_keys_of_real_changes_only(store: Store, heard: list[str]) -> None:
    store.apply(make(rv="1"))
    store.apply(make(rv="1"))
    store.record_write(make(rv="2"))
    store.apply(make(rv="2"))
    store.apply(make("b", uid="u9", rv="3"))
    store.remove(make(rv="4"))
    store.remove(make(rv="4"))

    assert heard == ["ns/a", "ns/a", "ns/b", "ns/a"]


def test_a_subscriber_that_raises_does_not_silence_the_next(store: Store) -> None:
    heard: list[ObjectKey] = []
    store.subscribe(lambda key: 1 / 0)  # type: ignore[arg-type, return-value]  # a bug on purpose
    store.subscribe(heard.append)

    assert store.apply(make())
    assert heard == [KEY]


def test_a_relist_adds_changes_and_deletes(store: Store, heard: list[str]) -> None:
    for obj in (
        make("kept", uid="1", rv="3"),
        make("changed", uid="2", rv="4"),
        make("gone", uid="3", rv="5"),
    ):
        store.apply(obj)
    heard.clear()

    changed = replace_all(
        store,
        [make("kept", uid="1", rv="3"), make("changed", uid="2", rv="8"), make("new", uid="4", rv="7")],
        "9",
    )

    assert changed == 3
    assert sorted(heard) == ["ns/changed", "ns/gone", "ns/new"]
    assert sorted(key.name for key in store) == ["changed", "kept", "new"]


def test_a_relist_keeps_what_we_wrote_after_it_was_read(store: Store) -> None:
    store.apply(make("old", uid="1", rv="3"))
    store.record_write(make("created", uid="2", rv="12"))
    store.record_write(make("old", uid="1", rv="11"))

    replace_all(store, [make("old", uid="1", rv="3")], "10", known_before="3")

    assert rv_of(store, ObjectKey("ns", "created")) == "12"
    assert rv_of(store, ObjectKey("ns", "old")) == "11"


def test_a_relist_of_a_restored_cluster_is_the_truth(store: Store) -> None:
    store.apply(make("a", uid="u1", rv="500"))
    store.apply(make("b", uid="u2", rv="501"))
    store.remove(make("b", uid="u2", rv="502"))

    replace_all(
        store,
        [make("a", uid="u1", rv="90"), make("b", uid="u2", rv="91")],
        "100",
        known_before=store.latest_version(),
    )

    assert rv_of(store) == "90"
    assert rv_of(store, ObjectKey("ns", "b")) == "91"
    assert store.latest_version() == "100"


# --- several namespaces, each listed and watched by itself ---


def placed(namespace: str, name: str, *, rv: str, uid: str) -> Object:
    return {
        "metadata": {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": rv},
        "spec": {"pool": ""},
    }


def relist(store: Store, namespace: str, items: list[Object], version: str) -> None:
    replacement = Replacement(store, known_before=store.latest_version(namespace), namespace=namespace)
    replacement.add(items, version)
    replacement.finish()


def test_a_relist_of_one_namespace_leaves_the_others_alone(store: Store) -> None:
    store.apply(placed("a", "gone", rv="1", uid="1"))
    store.apply(placed("b", "stays", rv="2", uid="2"))

    relist(store, "a", [placed("a", "new", rv="3", uid="3")], "9")

    assert sorted(store) == [ObjectKey("a", "new"), ObjectKey("b", "stays")]


def test_a_namespace_whose_list_is_older_than_what_another_saw_has_not_gone_back(store: Store) -> None:
    """Two API servers, or two watch caches: one namespace may be read some versions behind the other."""
    store.apply(placed("a", "written", rv="500", uid="1"))
    store.apply(placed("b", "written", rv="480", uid="2"))

    relist(store, "b", [placed("b", "written", rv="470", uid="2")], "490")

    assert rv_of(store, ObjectKey("b", "written")) == "480"


def test_each_namespace_of_a_restored_cluster_is_the_truth_when_it_is_listed(store: Store) -> None:
    for number, namespace in enumerate(("a", "b")):
        store.apply(placed(namespace, "kept", rv=f"50{number}", uid=f"{namespace}1"))
        store.apply(placed(namespace, "lost", rv=f"51{number}", uid=f"{namespace}2"))

    for namespace in ("a", "b"):
        relist(store, namespace, [placed(namespace, "kept", rv="90", uid=f"{namespace}1")], "100")

    assert {key: rv_of(store, key) for key in store} == {
        ObjectKey("a", "kept"): "90",
        ObjectKey("b", "kept"): "90",
    }


def test_a_kind_that_goes_in_one_namespace_takes_that_namespaces_objects(store: Store) -> None:
    store.apply(placed("a", "x", rv="1", uid="1"))
    store.apply(placed("b", "x", rv="2", uid="2"))

    assert store.clear("a") == 1
    assert list(store) == [ObjectKey("b", "x")]


def test_a_relist_arrives_page_by_page_and_deletes_at_the_end(store: Store) -> None:
    store.apply(make("gone", uid="1", rv="1"))
    replacement = Replacement(store, known_before="1")

    replacement.add([make("a", uid="2", rv="2")], "9")
    replacement.add([make("b", uid="3", rv="3")], "9")
    between = sorted(key.name for key in store)
    replacement.finish()

    assert between == ["a", "b", "gone"]
    assert sorted(key.name for key in store) == ["a", "b"]


def test_a_recreated_object_is_found_in_a_relist(store: Store, heard: list[str]) -> None:
    store.apply(make(uid="u1", rv="5", pool="old"))
    heard.clear()

    replace_all(store, [make(uid="u2", rv="9", pool="new")], "10")
    store.record_write(make(uid="u1", rv="11"))  # an answer from before the deletion

    assert heard == ["ns/a"]
    assert rv_of(store) == "9"
    assert store.keys_by_index("pool", "old") == frozenset()


def test_indexes_follow_their_objects(store: Store) -> None:
    store.apply(make("b", uid="2", pool="p"))
    store.apply(make("a", uid="1", pool="p"))
    assert [obj["metadata"]["name"] for obj in store.by_index("pool", "p")] == ["a", "b"]

    store.apply(make("a", uid="1", rv="2", pool="q"))
    store.remove(make("b", uid="2", rv="3"))

    assert store.by_index("pool", "p") == []
    assert store.keys_by_index("pool", "q") == {KEY}
    assert store.keys_by_all("pool", ["q"]) == {KEY}
    assert store.keys_by_all("pool", ["q", "p"]) == store.keys_by_all("pool", []) == frozenset()
    with pytest.raises(KeyError):
        store.by_index("no-such-index", "p")


def test_index_subscribers_hear_old_and_new_values_also_of_what_is_gone(store: Store) -> None:
    heard: list[object] = []
    store.subscribe_index("pool", heard.append)

    store.apply(make(rv="1", pool="p"))
    store.apply(make(rv="2", pool="q"))
    store.apply(make(rv="3", pool="q"))
    store.remove(make(rv="4", pool="q"))

    assert heard == ["p", "p", "q", "q", "q"]


HOSTILE: list[Any] = [
    None,
    [],
    "text",
    {},
    {"metadata": None},
    {"metadata": []},
    {"metadata": {"name": None}},
    {"metadata": {"name": ["a"], "namespace": "ns"}},
    {"metadata": {"name": "a", "namespace": {}}},
    {"metadata": {"name": ""}},
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=repr)
def test_a_malformed_object_is_skipped_and_counted(store: Store, hostile: Any) -> None:
    assert not store.apply(hostile)
    assert not store.record_write(hostile)
    assert not store.remove(hostile)
    replace_all(store, [hostile, make(rv="2")], "3")

    assert store.skipped == 4
    assert rv_of(store) == "2"


def test_an_object_that_breaks_an_index_is_kept_and_filed_nowhere(store: Store) -> None:
    store.apply(make(rv="1", pool="p"))

    store.apply({**make(rv="2"), "spec": "not a map"})
    store.apply({**make("b", uid="2", rv="3"), "spec": {"pool": ["unhashable"]}})

    assert rv_of(store) == "2"
    assert len(store) == 2
    assert store.keys_by_index("pool", "p") == frozenset()


def test_wrong_types_of_uid_and_version_count_as_absent(store: Store) -> None:
    obj = make(rv=5)
    obj["metadata"]["uid"] = {"a": 1}

    assert store.apply(obj)
    assert store.apply(obj), "without a version nothing says that it is the same"


def test_a_nested_bomb_is_kept_as_it_is(store: Store) -> None:
    bomb: Any = "x"
    for _ in range(sys.getrecursionlimit() * 2):
        bomb = [bomb]

    assert store.apply(make(rv="1", bomb=bomb))
    assert store.apply(make("b", uid="2", rv="2"))
    assert len(store) == 2


def test_a_transform_that_fails_keeps_the_newest_state() -> None:
    store = Store(transform=lambda obj: {"metadata": obj["metadata"], "phase": obj["status"]["phase"]})

    store.apply(make(rv="1", status={"phase": "Running", "noise": "x" * 1000}))
    trimmed = store.get(KEY)
    store.apply(make(rv="2"))

    assert trimmed is not None
    assert set(trimmed) == {"metadata", "phase"}
    assert rv_of(store) == "2"


def test_managed_fields_are_dropped_unless_asked_for() -> None:
    obj = make()
    obj["metadata"]["managedFields"] = [{"manager": "argocd-controller"}]
    lean, full = Store(), Store(keep_managed_fields=True)

    lean.apply(obj)
    full.apply(obj)

    assert "managedFields" not in (lean.get(KEY) or {})["metadata"]
    assert (full.get(KEY) or {})["metadata"]["managedFields"] == [{"manager": "argocd-controller"}]
    assert "managedFields" in obj["metadata"], "the caller's object is not touched"


def test_clear_deletes_everything(store: Store, heard: list[str]) -> None:
    store.apply(make(pool="p"))

    assert store.clear() == 1
    assert heard == ["ns/a", "ns/a"]
    assert store.by_index("pool", "p") == []


def test_tombstones_are_bounded(store: Store) -> None:
    for number in range(10_000):
        store.remove(make(uid=f"u{number}", rv=str(number + 1)))

    assert len(store._tombstones) <= 4096


def test_index_values_that_nobody_has_any_more_take_no_memory(store: Store) -> None:
    for number in range(1000):
        store.apply(make(rv=str(number + 1), pool=f"pool-{number}"))

    assert list(store._indexes["pool"].members) == ["pool-999"]


@pytest.mark.timed
@pytest.mark.slow
def test_ten_thousand_objects_are_cheap(report: Callable[[str], None]) -> None:
    def raw(number: int) -> Object:
        obj = make(f"pod-{number}", uid=f"uid-{number}", rv=str(number + 1), pool=f"pool-{number % 100}")
        obj["metadata"]["managedFields"] = [
            {"manager": "kubelet", "fieldsV1": {f"f:{i}": {} for i in range(20)}}
        ]
        obj["metadata"]["labels"] = {f"app.kubernetes.io/label-{i}": "value" for i in range(8)}
        obj["status"] = {"conditions": [{"type": f"Condition{i}", "status": "True"} for i in range(4)]}
        return obj

    lines = [json.dumps(raw(number)) for number in range(10_000)]
    random.Random(1).shuffle(lines)
    store = Store(indexes={"pool": by_pool})
    tracemalloc.start()
    for line in lines:
        store.apply(json.loads(line))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    begun = time.process_time()
    found = sum(len(store.by_index("pool", f"pool-{number}")) for number in range(100))
    seconds = time.process_time() - begun

    report(f"10,000 objects: {used / 1e6:.1f} MB; 100 index look-ups of 100 each: {seconds * 1000:.0f} ms")
    assert found == 10_000
    assert used < 45_000_000, f"{used / 1e6:.0f} MB"
    assert seconds < 0.5


ECHO, ANSWER, OTHER = make(rv="5"), make(rv="5"), make(rv="6")


@pytest.mark.parametrize(
    ("seen_before", "seen_after", "tell", "told"),
    [
        ([], [ECHO], True, 1),
        ([ANSWER, ANSWER], [ECHO], True, 1),
        ([], [ECHO], False, 0),
        ([ECHO], [], True, 1),
        ([ECHO], [], False, 0),
        ([make(rv="4")], [ECHO], False, 0),
        ([OTHER], [], False, 1),
        ([ECHO, OTHER], [], False, 1),
        ([], [OTHER], False, 1),
        ([make("b", uid="u9", rv="7")], [], False, 1),
    ],
    ids=[
        "the answer, then its echo",
        "the echo twice",
        "the same, and nobody needs to know",
        "the echo first",
        "the echo first, and nobody needs to know",
        "what the write was put on top of",
        "somebody's later write before the answer",
        "the echo and somebody's later write",
        "somebody's later write after the answer",
        "another object",
    ],
)
def test_of_a_write_of_ours_the_subscribers_hear_what_there_is_to_do(
    store: Store, heard: list[str], seen_before: list[Any], seen_after: list[Any], tell: bool, told: int
) -> None:
    store.apply(make(rv="3"))
    heard.clear()
    with store.writing(KEY) as record:
        for obj in seen_before:
            store.apply(obj)
        record(ANSWER, tell=tell)
    for obj in seen_after:
        store.apply(obj)

    assert len(heard) == told
    assert rv_of(store) == max("5", *(rv for obj in (*seen_before, *seen_after) if (rv := rv_of_a(obj))))


def rv_of_a(obj: Any) -> str:
    return str(obj["metadata"]["resourceVersion"]) if obj["metadata"]["name"] == "a" else ""


def test_a_write_that_changed_nothing_is_not_told(store: Store, heard: list[str]) -> None:
    store.apply(make(rv="5"))
    heard.clear()
    with store.writing(KEY) as record:
        record(ANSWER)

    assert heard == []


def test_a_write_that_failed_hides_nothing(store: Store, heard: list[str]) -> None:
    store.apply(make(rv="3"))
    heard.clear()

    def failing() -> None:
        with store.writing(KEY):
            store.apply(make(rv="5"))
            assert heard == []
            raise TimeoutError

    with pytest.raises(TimeoutError):
        failing()
    assert heard == ["ns/a"]


def test_what_was_read_of_a_store_is_read_again_after_each_change() -> None:
    store, reads = Store(transform=lambda obj: obj), list[str]()
    known = ReadOnce[list[str]](store)

    def names() -> list[str]:
        def read() -> list[str]:
            reads.append("")
            return sorted(key.name for key in store)

        return known.get("names", read)

    changes: list[Callable[[], object]] = [
        lambda: store.apply(make()),
        lambda: store.record_write(make(rv="2")),
        lambda: replace_all(store, [make(), make("b", uid="u2")], "9"),
        lambda: store.trim(KEY),
        lambda: store.remove(make(rv="10")),
        lambda: store.clear(),
    ]
    found = [names()]
    for change in changes:
        change()
        found += [names(), names()]

    assert [found[0], *found[1::2]] == [[], ["a"], ["a"], ["a", "b"], ["a", "b"], ["b"], []]
    assert found[1::2] == found[2::2]
    assert len(reads) == len(changes) + 1


def test_what_was_read_under_other_keys_is_other_things() -> None:
    known = ReadOnce[int](Store())

    assert [known.get(key, lambda key=key: key) for key in (1, 2, 1)] == [1, 2, 1]  # type: ignore[misc]
