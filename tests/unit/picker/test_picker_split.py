"""The split is exact at every prefix, and a sticky key moves only to a share that grows."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.picker.core.split import Diffusion, SplitTarget, sticky

WEIGHTS = st.integers(1, 1_000_000)


def make_targets(*weights: int) -> tuple[SplitTarget, ...]:
    return tuple(SplitTarget(f"v{index}", weight) for index, weight in enumerate(weights))


def furthest_off(targets: tuple[SplitTarget, ...], names: list[str]) -> Fraction:
    total = sum(target.weight for target in targets)
    seen: Counter[str] = Counter()
    worst = Fraction(0)
    for count, name in enumerate(names, 1):
        seen[name] += 1
        for target in targets:
            worst = max(worst, abs(seen[target.name] - Fraction(target.weight * count, total)))
    return worst


@given(weights=st.lists(WEIGHTS, min_size=1, max_size=7), count=st.integers(1, 300))
@settings(max_examples=80, deadline=None)
def test_every_prefix_is_within_tijdemans_bound_which_is_less_than_one_request(
    weights: list[int], count: int
) -> None:
    targets = make_targets(*weights)
    split = Diffusion(targets)

    names = [split.take() for _ in range(count)]

    assert furthest_off(targets, names) <= 1 - Fraction(1, max(2, 2 * len(weights) - 2))


@given(epochs=st.lists(st.tuples(st.lists(WEIGHTS, min_size=2, max_size=4), st.integers(0, 60)), max_size=6))
@settings(max_examples=100, deadline=None)
def test_every_epoch_is_at_most_one_request_off_whatever_came_before(
    epochs: list[tuple[list[int], int]],
) -> None:
    split = Diffusion(make_targets(1))
    for weights, count in epochs:
        targets = make_targets(*weights)
        before = split.targets
        split.update(targets)

        names = [split.take() for _ in range(count)]

        same = {t.name: Fraction(t.weight, sum(t.weight for t in before)) for t in before}
        new = {t.name: Fraction(t.weight, sum(t.weight for t in targets)) for t in targets}
        assert same == new or furthest_off(targets, names) <= 1


@given(epochs=st.lists(st.tuples(st.integers(1, 99), st.integers(0, 40)), min_size=1, max_size=20))
@settings(max_examples=150, deadline=None)
def test_two_targets_are_within_half_a_request_over_all_weight_changes_together(
    epochs: list[tuple[int, int]],
) -> None:
    split = Diffusion(make_targets(50, 50))
    due, got = Fraction(0), 0
    for percent, count in epochs:
        split.update(make_targets(100 - percent, percent))
        for _ in range(count):
            got += split.take() == "v1"
            due += Fraction(percent, 100)
            assert abs(got - due) <= Fraction(1, 2) + Fraction(len(epochs), 1 << 20)


@pytest.mark.parametrize(
    ("weights", "want"), [((100,), {"v0": 100}), ((100, 0), {"v0": 100}), ((0, 7), {"v1": 100})]
)
def test_weights_of_nothing_and_of_all_are_exact(weights: tuple[int, ...], want: dict[str, int]) -> None:
    split = Diffusion(make_targets(*weights))

    assert Counter(split.take() for _ in range(100)) == want
    assert Counter(sticky(make_targets(*weights), b"%d" % key) for key in range(100)) == want


def test_an_update_with_the_same_proportions_goes_on_where_it_was() -> None:
    plain, touched = Diffusion(make_targets(9, 1)), Diffusion(make_targets(9, 1))
    want = [plain.take() for _ in range(50)]

    got = []
    for _ in range(50):
        touched.update(make_targets(90, 10))
        got.append(touched.take())

    assert got == want


def test_a_split_without_any_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="positive weight"):
        Diffusion(make_targets(0))


@given(
    weights=st.lists(st.integers(0, 1000), min_size=2, max_size=6),
    grown=st.integers(0, 5),
    by=st.integers(1, 5000),
    key=st.binary(min_size=1, max_size=20),
)
@settings(max_examples=400, deadline=None)
def test_a_share_that_grows_never_moves_a_key_back(
    weights: list[int], grown: int, by: int, key: bytes
) -> None:
    grown %= len(weights)
    weights[0] += 1 if not any(weights) else 0
    larger = [weight + (by if index == grown else 0) for index, weight in enumerate(weights)]

    before, after = sticky(make_targets(*weights), key), sticky(make_targets(*larger), key)

    assert after in (before, f"v{grown}")


@given(key=st.binary(max_size=40), order=st.permutations(range(4)))
@settings(max_examples=100, deadline=None)
def test_the_order_of_targets_does_not_matter(key: bytes, order: list[int]) -> None:
    targets = make_targets(5, 1, 3, 91)

    assert sticky(tuple(targets[index] for index in order), key) == sticky(targets, key)


def test_a_hash_is_the_same_in_every_process_and_release() -> None:
    got = [sticky(make_targets(90, 10), b"session-%d" % key) for key in range(40)]

    assert "".join(name[1] for name in got) == KNOWN


KNOWN = "0000000000100000010101000000000000000000"


@pytest.mark.parametrize("share", [1, 10, 50])
def test_sticky_shares_come_out_near_their_weight(share: int) -> None:
    targets = make_targets(100 - share, share)
    keys = 20_000

    got = sum(sticky(targets, b"user-%d" % key) == "v1" for key in range(keys))

    deviation = (keys * share / 100 * (1 - share / 100)) ** 0.5
    assert abs(got - keys * share / 100) < 4 * deviation
