import math
import statistics
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.contract.rl import AdvantageEstimator, OverlongBuffer, RewardScale
from workers.advantages import AdvantageRule, overlong_penalty

rewards = st.floats(-1e3, 1e3)
coarse = st.sampled_from([-1.0, 0.0, 0.25, 1.0])
GROUPS = [[1.0, 0.0, 0.0, 1.0, 1.0], [0.5, -1.0, 0.25, 0.0, 0.0], [1.0] * 5]
LENGTHS = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9]]
RULES: list[tuple[AdvantageEstimator, RewardScale]] = [
    ("grpo", "group"),
    ("grpo", "batch"),
    ("grpo", "none"),
    ("dr_grpo", "none"),
    ("rloo", "none"),
    ("reinforce_plus_plus", "batch"),
    ("reinforce_plus_plus_baseline", "batch"),
    ("pass_at_k", "group"),
    ("pass_at_k", "none"),
]


def rule(estimator: AdvantageEstimator = "grpo", scale: RewardScale = "group", k: int = 2) -> AdvantageRule:
    return AdvantageRule(estimator=estimator, scale=scale, k=k if estimator == "pass_at_k" else None)


def of_group(group: list[float], estimator: AdvantageEstimator = "grpo", scale: RewardScale = "group") -> list[float]:
    return rule(estimator, scale).advantages([group], [[1] * len(group)])[0]


@pytest.mark.parametrize(("estimator", "scale"), RULES)
@given(reward=rewards, num_completions=st.integers(3, 16))
def test_equal_rewards_have_exactly_no_advantage(
    estimator: AdvantageEstimator, scale: RewardScale, reward: float, num_completions: int
) -> None:
    group = [reward] * num_completions
    assert of_group(group, estimator, scale) == [0.0] * num_completions
    assert not rule(estimator, scale).has_signal(group)


def test_group_scale_divides_by_the_sample_standard_deviation() -> None:
    group = [1.0, 0.0, 0.0, 1.0, 1.0]
    std = statistics.stdev(group)
    assert of_group(group) == pytest.approx([(reward - 0.6) / (std + 1e-6) for reward in group])


def test_batch_scale_divides_by_the_standard_deviation_of_all_rewards() -> None:
    # As TRL computes it for scale_rewards="batch", but for its epsilon.
    all_rewards = torch.tensor(GROUPS, dtype=torch.float64)
    expected = (all_rewards - all_rewards.mean(1, keepdim=True)) / (all_rewards.std() + 1e-6)
    assert torch.tensor(rule(scale="batch").advantages(GROUPS, LENGTHS)).numpy() == pytest.approx(expected.numpy())


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo"])
def test_no_scale_only_centres(estimator: AdvantageEstimator) -> None:
    assert of_group([1.0, 0.0, 0.0, 0.0], estimator, "none") == [0.75, -0.25, -0.25, -0.25]


def test_rloo_compares_with_the_mean_of_the_others() -> None:
    group = [1.0, 0.0, 0.5, 0.25]
    expected = [r - statistics.fmean(group[:i] + group[i + 1 :]) for i, r in enumerate(group)]
    assert of_group(group, "rloo", "none") == pytest.approx(expected)


@pytest.mark.parametrize("with_baseline", [False, True])
def test_reinforce_plus_plus_whitens_over_the_tokens_of_the_batch(with_baseline: bool) -> None:
    # As in verl: scores less the group's mean, spread over the response's tokens, whitened under the response's mask.
    scores = torch.tensor(GROUPS, dtype=torch.float64)
    if with_baseline:
        scores = scores - scores.mean(1, keepdim=True)
    mask = torch.arange(9)[None, :] < torch.tensor(LENGTHS).flatten()[:, None]
    tokens = scores.flatten()[:, None].expand(-1, 9)[mask]
    expected = (scores - tokens.mean()) / (tokens.std() + 1e-6)
    found = rule("reinforce_plus_plus_baseline" if with_baseline else "reinforce_plus_plus", "batch")
    assert torch.tensor(found.advantages(GROUPS, LENGTHS)).numpy() == pytest.approx(expected.numpy())


@given(group=st.lists(coarse, min_size=3, max_size=7), k=st.integers(1, 6))
def test_pass_at_k_is_the_advantage_over_all_choices_of_k(group: list[float], k: int) -> None:
    k = min(k, len(group) - 1)
    choices = list(combinations(range(len(group)), k))
    best = [max(group[i] for i in choice) for choice in choices]
    mean, std = statistics.fmean(best), statistics.pstdev(best)
    own = [
        statistics.fmean(b for b, choice in zip(best, choices, strict=True) if i in choice) for i in range(len(group))
    ]
    found = rule("pass_at_k", "group", k)
    assert found.has_signal(group) == (len(set(best)) > 1)
    (advantages,) = found.advantages([group], [[1] * len(group)])
    assert advantages == pytest.approx([(value - mean) / (std + 1e-6) for value in own], abs=1e-9)


def test_pass_at_k_of_right_and_wrong_is_the_papers_closed_form() -> None:
    size, num_wrong, k = 8, 5, 3
    pass_rate = 1 - math.comb(num_wrong, k) / math.comb(size, k)
    std = math.sqrt(pass_rate * (1 - pass_rate))
    wrong = 1 - pass_rate - math.comb(num_wrong - 1, k - 1) / math.comb(size - 1, k - 1)
    (advantages,) = rule("pass_at_k", "group", k).advantages([[1.0] * 3 + [0.0] * 5], [[1] * 8])
    assert advantages == pytest.approx([(1 - pass_rate) / std] * 3 + [wrong / std] * 5, rel=1e-4)


@given(group=st.lists(rewards, min_size=2, max_size=16))
def test_advantages_sum_to_nothing(group: list[float]) -> None:
    assert abs(math.fsum(of_group(group))) < 1e-6


@pytest.mark.parametrize("group", [[1.0], [1.0, math.nan], [math.inf, 0.0]])
def test_unusable_rewards_are_refused(group: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least two|not all finite"):
        of_group(group)


@pytest.mark.parametrize(("num_tokens", "penalty"), [(1, 0.0), (16, 0.0), (17, -0.125), (20, -0.5)])
def test_the_last_tokens_before_the_limit_cost_reward(num_tokens: int, penalty: float) -> None:
    assert overlong_penalty(num_tokens, 20, OverlongBuffer(len=4, penalty_factor=0.5)) == penalty
    assert overlong_penalty(num_tokens, 20, None) == 0.0
