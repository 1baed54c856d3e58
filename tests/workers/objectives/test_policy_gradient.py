import math

import pytest
import torch
from torch import Tensor

from workers.objectives.policy_gradient import (
    ClippedSurrogate,
    ClippedWeight,
    PolicyLoss,
    Reinforce,
    TokenLoss,
    over_sequences,
    sampling_gap,
)

SURROGATE = ClippedSurrogate(epsilon_low=0.2, epsilon_high=0.28)
DUAL = ClippedSurrogate(epsilon_low=0.2, epsilon_high=0.28, delta=3.0)
CISPO = ClippedWeight(epsilon_low=0.2, epsilon_high=0.28)


def of_ratio(policy_loss: PolicyLoss, ratio: float, advantage: float) -> tuple[TokenLoss, float]:
    """The loss of a token whose log-prob is -2, and its gradient by that log-prob."""
    logprobs_N = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
    old_logprobs_N = torch.tensor([-2.0 - math.log(ratio)], dtype=torch.float64)
    found = policy_loss(logprobs_N - old_logprobs_N, logprobs_N, torch.tensor([advantage], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(found.loss_N.sum(), logprobs_N)
    return found, gradient.item()


@pytest.mark.parametrize(
    ("policy_loss", "ratio", "advantage", "loss", "gradient"),
    [
        (SURROGATE, 1.0, 2.0, -2.0, -2.0),
        (SURROGATE, 1.1, 1.0, -1.1, -1.1),
        (SURROGATE, 1.5, 1.0, -1.28, 0.0),
        (SURROGATE, 1.5, -1.0, 1.5, 1.5),
        (SURROGATE, 0.5, 1.0, -0.5, -0.5),
        (SURROGATE, 0.5, -1.0, 0.8, 0.0),
        (SURROGATE, 1.5, 0.0, 0.0, 0.0),
        (SURROGATE, 4.0, -1.0, 4.0, 4.0),
        (DUAL, 4.0, -1.0, 3.0, 0.0),
        (DUAL, 2.0, -1.0, 2.0, 2.0),
        (DUAL, 4.0, 1.0, -1.28, 0.0),
        (CISPO, 1.1, 1.0, 2.2, -1.1),
        (CISPO, 4.0, 1.0, 2.56, -1.28),
        (CISPO, 0.1, -1.0, -1.6, 0.8),
        (Reinforce(), 4.0, 0.5, 1.0, -0.5),
    ],
)
def test_losses_and_their_gradients_by_hand(
    policy_loss: PolicyLoss, ratio: float, advantage: float, loss: float, gradient: float
) -> None:
    found, by_logprob = of_ratio(policy_loss, ratio, advantage)
    assert found.loss_N.item() == pytest.approx(loss)
    assert by_logprob == pytest.approx(gradient)


def test_the_dual_clip_of_verl_is_the_two_sided_clip_of_trl() -> None:
    generator = torch.Generator().manual_seed(0)
    log_ratio_N, advantages_N = torch.randn(2, 200, dtype=torch.float64, generator=generator)
    ratio_N = log_ratio_N.exp()
    one_N, two_N = ratio_N.clamp(max=3.0) * advantages_N, ratio_N.clamp(0.8, 1.28) * advantages_N
    torch.testing.assert_close(DUAL(log_ratio_N, log_ratio_N, advantages_N).loss_N, -torch.minimum(one_N, two_N))


@pytest.mark.parametrize(
    ("policy_loss", "ratio", "advantage", "is_low", "is_high"),
    [
        (SURROGATE, 1.5, 1.0, False, True),
        (SURROGATE, 1.5, -1.0, False, False),
        (SURROGATE, 0.5, -1.0, True, False),
        (SURROGATE, 0.5, 1.0, False, False),
        (DUAL, 4.0, -1.0, False, True),
        (CISPO, 4.0, -1.0, False, True),
        (CISPO, 0.5, 1.0, True, False),
        (Reinforce(), 4.0, 1.0, False, False),
    ],
)
def test_bounds_count_where_they_act(
    policy_loss: PolicyLoss, ratio: float, advantage: float, is_low: bool, is_high: bool
) -> None:
    found, _ = of_ratio(policy_loss, ratio, advantage)
    assert (found.is_low_N.item(), found.is_high_N.item()) == (is_low, is_high)


@pytest.mark.parametrize(("aggregate", "expected"), [("sum", [3.0, 3.0, 4.0]), ("mean", [1.5, 1.5, 4.0])])
def test_a_sequences_value_stands_at_each_of_its_tokens(aggregate: str, expected: list[float]) -> None:
    found_N: Tensor = over_sequences(torch.tensor([1.0, 2.0, 4.0]), [2, 1], aggregate)
    assert found_N.tolist() == expected


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
