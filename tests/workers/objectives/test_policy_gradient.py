import math

import pytest
import torch
from torch import Tensor

from workers.objectives.base import ObjectiveOutput, token_statistics
from workers.objectives.policy_gradient import ClippedSurrogate, sampling_gap

SURROGATE = ClippedSurrogate(epsilon_low=0.2, epsilon_high=0.28)


def surrogate(ratios: list[float], advantages: list[float]) -> tuple[ObjectiveOutput, Tensor]:
    """The surrogate of tokens whose ratios to the old policy are given, and its gradient by the log-probs."""
    logits_NV = torch.zeros(len(ratios), 4, dtype=torch.float64, requires_grad=True)
    statistics = token_statistics(logits_NV, torch.zeros(len(ratios), dtype=torch.int64))
    old_logprobs_N = -statistics.nll_N.detach() - torch.tensor(ratios, dtype=torch.float64).log()
    output = SURROGATE(statistics, old_logprobs_N, torch.tensor(advantages, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(output.loss_sum, statistics.nll_N)
    return output, -gradient


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 1.0, -1.1, -1.1),
        (1.5, 1.0, -1.28, 0.0),
        (1.5, -1.0, 1.5, 1.5),
        (0.5, 1.0, -0.5, -0.5),
        (0.5, -1.0, 0.8, 0.0),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_clipping_cuts_only_on_the_side_of_the_advantage(
    ratio: float, advantage: float, loss: float, gradient: float
) -> None:
    output, by_logprob = surrogate([ratio], [advantage])
    assert output.loss_sum.item() == pytest.approx(loss)
    assert by_logprob.tolist() == pytest.approx([gradient])


def test_clip_counts_and_kl_are_sums_over_tokens() -> None:
    output, _ = surrogate([1.5, 1.5, 0.5, 0.5, 1.0], [1.0, -1.0, 1.0, -1.0, 1.0])
    sums = {name: value.item() for name, value in output.metric_sums.items()}
    assert sums["actor/clip_ratio/high"] == 1
    assert sums["actor/clip_ratio/low"] == 1
    assert sums["actor/ppo_kl"] == pytest.approx(-2 * math.log(1.5) - 2 * math.log(0.5))
    assert sums["actor/entropy"] == pytest.approx(5 * math.log(4))


def test_an_endless_ratio_without_advantage_gives_no_nan() -> None:
    output, by_logprob = surrogate([1e300], [0.0])
    assert output.loss_sum.item() == 0.0
    assert by_logprob.tolist() == [0.0]


def test_sampling_gap_by_hand() -> None:
    gap = sampling_gap(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0]))
    assert gap == pytest.approx(
        {
            "sampling/logp_difference/mean": 0.25,
            "sampling/logp_difference/max": 0.5,
            "sampling/is_ratio_raw/mean": (math.exp(0.5) + 1) / 2,
            "sampling/is_ratio_raw/min": 1.0,
            "sampling/is_ratio_raw/max": math.exp(0.5),
            "sampling/mismatch_kl": (math.exp(0.5) - 1 - 0.5) / 2,
        }
    )
