import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.advantages import grpo_advantages

rewards = st.floats(-1e3, 1e3)


@given(reward=rewards, num_completions=st.integers(2, 64))
def test_equal_rewards_have_exactly_no_advantage(reward: float, num_completions: int) -> None:
    assert grpo_advantages([reward] * num_completions, "group") == [0.0] * num_completions


def test_group_scale_divides_by_the_sample_standard_deviation() -> None:
    group = [1.0, 0.0, 0.0, 1.0, 1.0]
    std = statistics.stdev(group)
    expected = [(reward - 0.6) / (std + 1e-6) for reward in group]
    assert grpo_advantages(group, "group") == pytest.approx(expected)


def test_no_scale_only_centres() -> None:
    assert grpo_advantages([1.0, 0.0, 0.0, 0.0], "none") == [0.75, -0.25, -0.25, -0.25]


@given(group=st.lists(rewards, min_size=2, max_size=16))
def test_advantages_sum_to_nothing(group: list[float]) -> None:
    advantages = grpo_advantages(group, "group")
    assert abs(math.fsum(advantages)) < 1e-6


@pytest.mark.parametrize("group", [[1.0], [1.0, math.nan], [math.inf, 0.0]])
def test_unusable_rewards_are_refused(group: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least two|not all finite"):
        grpo_advantages(group, "group")
