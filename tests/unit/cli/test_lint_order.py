"""``lint`` of ``dependsOn``: circles, names, consent."""

from __future__ import annotations

from typing import Any

from rollouts.api.references import DEPENDENTS_ANNOTATION
from rollouts.cli.lint import lint_documents
from tests.kit.faults.objects import rollout_object

Object = dict[str, Any]


def rollout(name: str, *first: str, namespace: str = "", consent: str = "") -> Object:
    """``first``: names, or namespace/name."""
    entries = []
    for one in first:
        place, _, rest = one.rpartition("/")
        entries.append({"name": rest, "soak": "30m", **({"namespace": place} if place else {})})
    made = rollout_object(name=name, dependsOn=entries)
    made["metadata"] = {"name": name, **({"namespace": namespace} if namespace else {})}
    if consent:
        made["metadata"]["annotations"] = {DEPENDENTS_ANNOTATION: consent}
    return made


def found(*objects: Object) -> list[tuple[str, str, str]]:
    findings = lint_documents(list(objects))
    return [(one.rule, one.where, one.text) for one in findings if "dependsOn" in map(str, one.path)]


def test_an_order_that_can_be_kept_is_fine():
    assert found(rollout("small"), rollout("large", "small"), rollout("huge", "small", "large")) == []


def test_a_circle_is_named_at_each_of_its_members():
    circle = [rollout("a", "b"), rollout("b", "c"), rollout("c", "a")]
    assert [(rule, where) for rule, where, _ in found(*circle)] == [
        ("cycle", "Rollout/a"),
        ("cycle", "Rollout/b"),
        ("cycle", "Rollout/c"),
    ]
    text = found(*circle)[0][2]
    assert text.startswith("a -> b -> c -> a depend on each other")
    assert found(rollout("a", "a"))[0][0] == "cycle"


def test_a_name_that_is_not_there_may_be_in_the_cluster():
    ((rule, _, text),) = found(rollout("small"), rollout("large", "smal"))
    assert rule == "reference"
    assert text.endswith("must exist in the cluster: did you mean small?")
    assert found(rollout("large", "small")) == []


def test_another_namespace_has_to_consent():
    mine = rollout("large", "team-b/small", namespace="team-a")
    ((rule, _, text),) = found(mine, rollout("small", namespace="team-b"))
    assert (rule, text) == (
        "consent",
        f"Rollout team-b/small does not consent: annotate it with {DEPENDENTS_ANNOTATION}: team-a",
    )
    assert found(mine, rollout("small", namespace="team-b", consent="team-a")) == []


def test_twice_is_once_too_often():
    ((rule, _, text),) = found(rollout("small"), rollout("large", "small", "small"))
    assert (rule, text) == ("hint", "dependsOn names small twice: once is enough")


def test_fields_of_an_entry_are_read_strictly():
    made = rollout("large", "small")
    made["spec"]["dependsOn"] = [{"nmae": "small"}, {"name": "small", "soak": "5min"}, {"name": ""}]
    rules = {(rule, text.partition(":")[0]) for rule, _, text in found(rollout("small"), made)}
    assert {rule for rule, _ in rules} >= {"unknown-field", "wrong-value"}, rules
