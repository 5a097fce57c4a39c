"""Two controllers with one lease namespace: one lease per set of Rollouts."""

from __future__ import annotations

from rollouts.controller.app import LEASE_NAME, lease_name
from rollouts.controller.settings import Settings


def name(*watched: str, given: str = "") -> str:
    return lease_name(Settings(namespaces=watched, lease_namespace="ops", lease_name=given))


def test_controllers_of_different_namespaces_do_not_wait_for_each_other() -> None:
    assert len({name("team-a"), name("team-b"), name("ops")}) == 3


def test_a_changed_list_of_namespaces_keeps_the_lease_that_it_was_given() -> None:
    assert name("team-a", "team-b", given="release") == name("team-a", given="release") == "release"


def test_replicas_that_watch_the_same_share_a_lease() -> None:
    assert name("team-a") == name("team-a")
    assert name("team-a", "team-b") == name("team-b", "team-a")
    assert name("ops") == name() == LEASE_NAME
