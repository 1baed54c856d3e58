"""The losses of sampled tokens by which a policy learns, and the gap between trainer and sampler.

Dims: N completion tokens. Log-probs are those of the sampled tokens under the sampling temperature, in nats. r is the
ratio p / p_old to the policy before the step's first update, A the advantage, sg stops the gradient:

    ppo_clip    -min(r A, clip(r) A), with A < 0 at most -delta A      PPO arXiv 1707.06347, two clip ranges
                                                                       arXiv 2503.14476, dual clip arXiv 1912.09729
    gspo        the same with s, the geometric mean of r over the      GSPO arXiv 2507.18071, computed by its token
                sequence, for r                                        form, which has the same value and gradient
    cispo       -sg(clip(r)) A log p                                   CISPO, MiniMax-M1 arXiv 2506.13585
    reinforce   -A log p

clip(r) lies between 1 - epsilon_low and 1 + epsilon_high.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Beyond e^20 a ratio is far past every clip range; the bound keeps 0 * inf = NaN out of tokens without advantage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoss:
    """One value per token, and where a bound cuts the gradient off."""

    loss_N: Tensor
    is_low_N: Tensor
    is_high_N: Tensor


class PolicyLoss(Protocol):
    """The loss of each token from its bounded log-ratio, its log-prob, both differentiable, and its advantage."""

    def __call__(self, log_ratio_N: Tensor, logprobs_N: Tensor, advantages_N: Tensor) -> TokenLoss:
        """Not summed yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedSurrogate:
    """PPO's loss, and with ratios of sequences that of GSPO."""

    epsilon_low: float
    epsilon_high: float
    delta: float | None = None

    def __call__(self, log_ratio_N: Tensor, logprobs_N: Tensor, advantages_N: Tensor) -> TokenLoss:
        """A bound counts where it cuts the gradient off: below for a negative advantage, above for a positive, and
        above at delta for a negative."""
        ratio_N = log_ratio_N.exp()
        low, high = 1.0 - self.epsilon_low, 1.0 + self.epsilon_high
        loss_N = -torch.minimum(ratio_N * advantages_N, ratio_N.clamp(low, high) * advantages_N)
        is_high_N = (ratio_N > high) & (advantages_N > 0)
        if self.delta is not None:
            loss_N = torch.where(advantages_N < 0, torch.minimum(loss_N, -self.delta * advantages_N), loss_N)
            is_high_N = is_high_N | ((ratio_N > self.delta) & (advantages_N < 0))
        return TokenLoss(loss_N=loss_N, is_low_N=(ratio_N < low) & (advantages_N < 0), is_high_N=is_high_N)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedWeight:
    """CISPO: the clipped ratio is a weight, so that every token keeps a gradient."""

    epsilon_low: float
    epsilon_high: float

    def __call__(self, log_ratio_N: Tensor, logprobs_N: Tensor, advantages_N: Tensor) -> TokenLoss:
        """Bounds count wherever they act."""
        ratio_N = log_ratio_N.detach().exp()
        low, high = 1.0 - self.epsilon_low, 1.0 + self.epsilon_high
        loss_N = -ratio_N.clamp(low, high) * advantages_N * logprobs_N
        return TokenLoss(loss_N=loss_N, is_low_N=ratio_N < low, is_high_N=ratio_N > high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reinforce:
    """The plain policy gradient."""

    def __call__(self, log_ratio_N: Tensor, logprobs_N: Tensor, advantages_N: Tensor) -> TokenLoss:
        """No bound acts."""
        nowhere_N = torch.zeros_like(logprobs_N, dtype=torch.bool)
        return TokenLoss(loss_N=-advantages_N * logprobs_N, is_low_N=nowhere_N, is_high_N=nowhere_N)


def over_sequences(values_N: Tensor, lengths: Sequence[int], aggregate: str) -> Tensor:
    """`sum` or `mean` of the values of each sequence, float64 and detached, at each of its tokens, [N].

    The sequences lie end to end. Each is added up by itself, so its value does not depend on the others.
    """
    parts = torch.split(values_N.detach().double(), list(lengths))
    values_S = torch.stack([part.mean() if aggregate == "mean" else part.sum() for part in parts])
    return values_S.repeat_interleave(torch.tensor(lengths, device=values_N.device))


def sampling_gap(trainer_logprobs_N: Tensor, rollout_logprobs_N: Tensor) -> dict[str, float]:
    """How far the trainer's log-probs, before any update, lie from those that the rollout engine sampled with.

    The ratios are trainer over engine, not clamped. `mismatch_kl` is the k3 estimate (r - 1 - log r, never negative) of
    KL(engine || trainer) on the engine's samples. N must not be 0.
    """
    difference_N = trainer_logprobs_N.detach().double() - rollout_logprobs_N.double()
    ratio_N = difference_N.exp()
    gap_N = difference_N.abs()
    values = {
        "sampling/logp_difference/mean": gap_N.mean(),
        "sampling/logp_difference/max": gap_N.max(),
        "sampling/is_ratio_raw/mean": ratio_N.mean(),
        "sampling/is_ratio_raw/min": ratio_N.min(),
        "sampling/is_ratio_raw/max": ratio_N.max(),
        "sampling/mismatch_kl": (torch.expm1(difference_N) - difference_N).mean(),
    }
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
