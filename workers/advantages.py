"""Advantages of the completions of a step, and what their lengths do to their rewards.

Dims: G completions of one prompt, the group, with rewards r.

    grpo                          (r - mean r) / s           s: standard deviation of the group, of the batch, or 1
    dr_grpo                       r - mean r
    rloo                          r - mean of the others'
    reinforce_plus_plus           (r - m) / s                m, s: mean and deviation over all tokens of the batch
    reinforce_plus_plus_baseline  (a - m) / s                the same of a = r - mean r
    pass_at_k                     (p - P) / s                P: expected best of k of the group without replacement,
                                                             p: the same if the completion is among them, s: deviation

Sources: GRPO arXiv 2402.03300 (4.1.2, outcome supervision), with the batch's deviation arXiv 2508.08221; Dr. GRPO arXiv
2503.20783; RLOO arXiv 2402.14740; REINFORCE++ arXiv 2501.03262, a sequence counting as often as it has tokens, as in
verl and OpenRLHF; pass@k arXiv 2508.10751, whose closed form for right and wrong is here that for any rewards.
Deviations have n - 1 in the denominator, but for pass@k, where all choices are counted; 1e-6 is added to each.

Rewards that are exactly equal have exactly no advantage: it is decided by comparison and not by a deviation that
rounding may lift above 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from service.contract.rl import AdvantageEstimator, OverlongBuffer, RewardScale

STD_EPSILON = 1e-6
"""Added to the standard deviation, in units of the reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageRule:
    """One estimator with its settings."""

    estimator: AdvantageEstimator
    scale: RewardScale
    k: int | None = None
    """Of pass@k."""

    def has_signal(self, rewards_G: Sequence[float]) -> bool:
        """Whether a group tells its completions apart. Raises ValueError for rewards that are not finite."""
        _require_usable(rewards_G)
        if self.estimator != "pass_at_k":
            return any(reward != rewards_G[0] for reward in rewards_G)
        assert self.k is not None, "the specification gives pass_at_k its k"
        # Every choice of k has the same best one if the worst choice, the k lowest, has the best of all.
        return sorted(rewards_G)[self.k - 1] != max(rewards_G)

    def advantages(self, groups: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> list[list[float]]:
        """One advantage per completion of a step; rewards and tokens by group.

        Raises ValueError for groups of fewer than two rewards and for rewards that are NaN or infinite.
        """
        for rewards_G in groups:
            _require_usable(rewards_G)
        match self.estimator:
            case "grpo" | "dr_grpo":
                return self._centred_and_scaled(groups)
            case "rloo":
                return [[value * len(g) / (len(g) - 1) for value in _centred(g)] for g in groups]
            case "reinforce_plus_plus":
                return _whitened(groups, lengths)
            case "reinforce_plus_plus_baseline":
                return _whitened([_centred(rewards_G) for rewards_G in groups], lengths)
            case "pass_at_k":
                return [self._pass_at_k(rewards_G) for rewards_G in groups]

    def _centred_and_scaled(self, groups: Sequence[Sequence[float]]) -> list[list[float]]:
        centred = [_centred(rewards_G) for rewards_G in groups]
        if self.scale == "none":
            return centred
        if self.scale == "batch":
            rewards = list(chain.from_iterable(groups))
            divisor = _sample_std([reward - fmean(rewards) for reward in rewards]) + STD_EPSILON
            return [[value / divisor for value in values_G] for values_G in centred]
        # Of a group without signal the deviation is 0 and so is every value.
        return [[value / (_sample_std(values_G) + STD_EPSILON) for value in values_G] for values_G in centred]

    def _pass_at_k(self, rewards_G: Sequence[float]) -> list[float]:
        if not self.has_signal(rewards_G):
            return [0.0] * len(rewards_G)
        assert self.k is not None, "the specification gives pass_at_k its k"
        mean, std, with_own_G = _best_of_k(rewards_G, self.k)
        divisor = std + STD_EPSILON if self.scale == "group" else 1.0
        return [(value - mean) / divisor for value in with_own_G]


def overlong_penalty(num_tokens: int, max_completion_length: int, buffer: OverlongBuffer | None) -> float:
    """What a completion's length adds to its reward, at most 0; see `OverlongBuffer`."""
    if buffer is None:
        return 0.0
    excess = num_tokens - (max_completion_length - buffer.len)
    return -max(0, excess) / buffer.len * buffer.penalty_factor


def _require_usable(rewards_G: Sequence[float]) -> None:
    if len(rewards_G) < 2:
        raise ValueError(f"a group of {len(rewards_G)} completions has no advantage: give at least two")
    if not all(math.isfinite(reward) for reward in rewards_G):
        raise ValueError(f"rewards {list(rewards_G)} are not all finite: the reward function must return numbers")


def _centred(rewards_G: Sequence[float]) -> list[float]:
    if all(reward == rewards_G[0] for reward in rewards_G):
        return [0.0] * len(rewards_G)
    mean = fmean(rewards_G)
    return [reward - mean for reward in rewards_G]


def _sample_std(centred: Sequence[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in centred) / (len(centred) - 1))


def _whitened(groups: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> list[list[float]]:
    """Values less their mean over the standard deviation, each counted once for every token of its completion."""
    values, counts = list(chain.from_iterable(groups)), list(chain.from_iterable(lengths))
    if all(value == values[0] for value in values):
        return [[0.0] * len(values_G) for values_G in groups]
    num_tokens = sum(counts)
    mean = math.fsum(value * count for value, count in zip(values, counts, strict=True)) / num_tokens
    squares = math.fsum(count * (value - mean) ** 2 for value, count in zip(values, counts, strict=True))
    divisor = math.sqrt(squares / (num_tokens - 1)) + STD_EPSILON
    return [[(value - mean) / divisor for value in values_G] for values_G in groups]


def _best_of_k(rewards_G: Sequence[float], k: int) -> tuple[float, float, list[float]]:
    """Mean and standard deviation of the best of k over all choices, and its mean over those with each completion.

    In rising order the m-th (from 0) is the best of C(m, k-1) choices, and of C(m-1, k-2) that hold a given lower one.
    """
    size = len(rewards_G)
    order = sorted(range(size), key=rewards_G.__getitem__)
    ranked = [rewards_G[index] for index in order]
    chances = [math.comb(m, k - 1) / math.comb(size, k) for m in range(size)]
    mean = math.fsum(map(math.prod, zip(chances, ranked, strict=True)))
    variance = math.fsum(chance * (value - mean) ** 2 for chance, value in zip(chances, ranked, strict=True))
    # The sum over higher ones, from the top down.
    with_own, above = [0.0] * size, 0.0
    for place in reversed(range(size)):
        itself = math.comb(place, k - 1) * ranked[place]
        with_own[order[place]] = (itself + above) / math.comb(size - 1, k - 1)
        if k > 1:
            above += math.comb(place - 1, k - 2) * ranked[place] if place else 0.0
    return mean, math.sqrt(variance), with_own
