"""All terms of the loss of reinforcement learning: policy loss, divergence from a reference, entropy.

    loss of a token = correction * policy loss + beta * KL estimate - entropy_coef * H
    loss of an update = sum of (weight * loss of a token) / divisor

`loss_agg_mode` says what weight and divisor are; both come from the lengths of all the update's completions, so that no
split into micro-batches or ranks can change a gradient. T is a completion's length, S their number, L the longest
allowed:

    token-mean                  1 / sum of T
    seq-mean-token-sum          1 / S
    seq-mean-token-mean         1 / (S T)
    seq-mean-token-sum-norm     1 / (S L)

The KL estimates of a token with d = log p_ref - log p (http://joschu.net/blog/kl-approx.html): k1 = -d, k2 = d² / 2,
k3 = e^d - 1 - d. The gradient of k1 is 0 in expectation on the policy's own samples; that of k2 is the one that KL has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from service.contract.rl import KlEstimator, LossAggregation
from workers.objectives.base import ObjectiveOutput, StatisticsNeeds, TokenStatistics, total
from workers.objectives.policy_gradient import MAX_LOG_RATIO, PolicyLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTokens:
    """What is known of N completion tokens before their gradient; nothing here carries one."""

    old_logprobs_N: Tensor
    advantages_N: Tensor
    weights_N: Tensor
    """In the sum over tokens: 0 where a completion is not trained."""
    correction_N: Tensor | None = None
    """Factor of the policy loss; None: 1."""
    sequence_log_ratio_N: Tensor | None = None
    """Mean over the token's sequence of log p - log p_old, where the objective is `by_sequence`."""
    reference_logprobs_N: Tensor | None = None
    """Where `beta` is not 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyObjective:
    """The loss of an update."""

    policy_loss: PolicyLoss
    by_sequence: bool = False
    """The ratio is one of sequences: each of its tokens has the same."""
    beta: float = 0.0
    kl_estimator: KlEstimator = "k3"
    entropy_coef: float = 0.0

    @property
    def needs(self) -> StatisticsNeeds:
        """What it reads beyond the usual statistics."""
        return StatisticsNeeds(entropy_gradient=self.entropy_coef > 0.0)

    def __call__(self, statistics: TokenStatistics, tokens: PolicyTokens) -> ObjectiveOutput:
        """Sums over the N tokens; `actor/pg_loss` is the weighted one."""
        logprobs_N = -statistics.nll_N
        log_ratio_N = self._log_ratio(logprobs_N, tokens)
        found = self.policy_loss(log_ratio_N, logprobs_N, tokens.advantages_N)
        policy_loss_N = found.loss_N if tokens.correction_N is None else tokens.correction_N * found.loss_N
        loss_N = policy_loss_N
        sums = {
            "actor/pg_loss": total(policy_loss_N * tokens.weights_N),
            "actor/clip_ratio/low": total(found.is_low_N),
            "actor/clip_ratio/high": total(found.is_high_N),
            "actor/ppo_kl": total(-log_ratio_N),
            "actor/entropy": total(statistics.entropy_N),
        }
        if self.beta:
            assert tokens.reference_logprobs_N is not None, "the objective needs the reference's log-probs"
            kl_N = kl_estimate(logprobs_N, tokens.reference_logprobs_N, self.kl_estimator)
            loss_N = loss_N + self.beta * kl_N
            sums["actor/kl_loss"] = total(kl_N)
        if self.entropy_coef:
            loss_N = loss_N - self.entropy_coef * statistics.entropy_N
        return ObjectiveOutput(loss_sum=(loss_N * tokens.weights_N).sum(), metric_sums=sums)

    def _log_ratio(self, logprobs_N: Tensor, tokens: PolicyTokens) -> Tensor:
        if not self.by_sequence:
            return (logprobs_N - tokens.old_logprobs_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        assert tokens.sequence_log_ratio_N is not None, "the objective needs the sequences' ratios"
        bounded_N = tokens.sequence_log_ratio_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).to(logprobs_N.dtype)
        # The sequence's value with the token's gradient; the difference is exactly 0.
        return bounded_N + (logprobs_N - logprobs_N.detach())


def kl_estimate(logprobs_N: Tensor, reference_logprobs_N: Tensor, estimator: KlEstimator) -> Tensor:
    """Of KL(p || p_ref) at each token, differentiable by `logprobs_N`."""
    difference_N = (reference_logprobs_N - logprobs_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    squared_N = difference_N.square() / 2
    match estimator:
        case "k1":
            return -difference_N.detach() + squared_N - squared_N.detach()
        case "k2":
            return squared_N
        case "k3":
            return torch.expm1(difference_N) - difference_N
        case _:
            assert_never(estimator)


def token_weights(lengths: Sequence[int], is_trained: Sequence[bool], mode: LossAggregation) -> list[float]:
    """The weight of each token of each completion, [completions]: all its tokens have the same."""
    shares = [1.0 / length if mode == "seq-mean-token-mean" else 1.0 for length in lengths]
    return [share if trained else 0.0 for share, trained in zip(shares, is_trained, strict=True)]


def divisor(
    lengths: Sequence[int], is_trained: Sequence[bool], mode: LossAggregation, max_completion_length: int
) -> int:
    """What the weighted sum over an update's completions is divided by; 1 where nothing is trained."""
    counted = [length for length, trained in zip(lengths, is_trained, strict=True) if trained]
    match mode:
        case "token-mean":
            return max(1, sum(counted))
        case "seq-mean-token-sum" | "seq-mean-token-mean":
            return max(1, len(counted))
        case "seq-mean-token-sum-norm":
            return max(1, len(counted)) * max_completion_length
        case _:
            assert_never(mode)
