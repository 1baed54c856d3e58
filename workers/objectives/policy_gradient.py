"""The clipped surrogate of PPO over sampled tokens, and the gap between trainer and sampler.

Log-probs are those of the sampled tokens under the sampling temperature, [N], in nats.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.objectives.base import ObjectiveOutput, TokenStatistics, total

MAX_LOG_RATIO = 20.0
"""Beyond e^20 a ratio is far past every clip range; the bound keeps 0 * inf = NaN out of tokens without advantage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedSurrogate:
    """-min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A) with r = p / p_old, summed over tokens.

    PPO (arXiv 1707.06347, eq. 7) with two clip ranges (DAPO, arXiv 2503.14476) and without a KL term.
    """

    epsilon_low: float
    epsilon_high: float

    def __call__(self, statistics: TokenStatistics, old_logprobs_N: Tensor, advantages_N: Tensor) -> ObjectiveOutput:
        """Sums over the N completion tokens. `old_logprobs_N` and `advantages_N` carry no gradient."""
        log_ratio_N = (-statistics.nll_N - old_logprobs_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        ratio_N = log_ratio_N.exp()
        low, high = 1.0 - self.epsilon_low, 1.0 + self.epsilon_high
        loss_N = -torch.minimum(ratio_N * advantages_N, ratio_N.clamp(low, high) * advantages_N)
        return ObjectiveOutput(
            loss_sum=loss_N.sum(),
            metric_sums={
                "actor/pg_loss": total(loss_N),
                # A bound counts where it cuts the gradient off: below for a negative advantage, above for a positive.
                "actor/clip_ratio/low": total((ratio_N < low) & (advantages_N < 0)),
                "actor/clip_ratio/high": total((ratio_N > high) & (advantages_N > 0)),
                "actor/ppo_kl": total(-log_ratio_N),
                "actor/entropy": total(statistics.entropy_N),
            },
        )


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
