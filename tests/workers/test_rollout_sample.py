"""The sample of a step: every kind of completion is in it, and its weights make up for that."""

from collections import Counter
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.stages.rollout_sample import Kind, draw_sample

KINDS = st.builds(
    Kind,
    reward=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, -1.0]),
    num_tokens=st.integers(1, 50),
    age=st.integers(0, 2),
    is_cut=st.booleans(),
)


def kind(reward: float = 0.0, num_tokens: int = 10, age: int = 0, *, is_cut: bool = False) -> Kind:
    return Kind(reward=reward, num_tokens=num_tokens, age=age, is_cut=is_cut)


COMMON = [kind() for _ in range(200)]


@pytest.mark.parametrize(
    "rare", [kind(1.0), kind(num_tokens=500), kind(num_tokens=1), kind(age=1), kind(is_cut=True)], ids=str
)
def test_a_kind_that_a_step_has_once_is_in_the_sample(rare: Kind) -> None:
    for seed in range(20):
        drawn = draw_sample([*COMMON, rare], 4, seed)
        assert next(one.weight for one in drawn if one.index == 200) == 1.0
        assert len(drawn) == 4


def test_many_different_rewards_are_cut_into_quarters() -> None:
    kinds = [kind(reward=number / 100) for number in range(100)]
    drawn = draw_sample(kinds, 8, seed=1)
    assert Counter(one.index // 25 for one in drawn) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert [one.weight for one in drawn] == [12.5] * 8


@given(st.lists(KINDS, max_size=60), st.integers(0, 70), st.integers(0, 2**62))
def test_a_sample_has_its_size_in_order_and_is_drawn_again_by_its_seed(kinds: list[Kind], size: int, seed: int) -> None:
    drawn = draw_sample(kinds, size, seed)
    assert len(drawn) == min(size, len(kinds))
    assert [one.index for one in drawn] == sorted({one.index for one in drawn})
    assert all(one.weight >= 1.0 for one in drawn)
    assert draw_sample(kinds, size, seed) == drawn


@pytest.mark.parametrize("size", [1, 3, 5, 7, 40])
def test_weighted_sums_are_right_in_the_mean_over_seeds(size: int) -> None:
    kinds = [
        *(kind(reward=float(number % 3), num_tokens=1 + number % 7) for number in range(40)),
        *(kind(reward=5.0, age=1) for _ in range(3)),
        kind(reward=7.0, is_cut=True),
    ]
    sums = [sum(one.weight * kinds[one.index].reward for one in draw_sample(kinds, size, seed)) for seed in range(4000)]
    assert fmean(sums) == pytest.approx(sum(kind.reward for kind in kinds), rel=0.05)


def test_a_step_smaller_than_the_sample_is_kept_whole() -> None:
    assert [(one.index, one.weight) for one in draw_sample(COMMON[:3], 32, 0)] == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert draw_sample([], 32, 0) == []
