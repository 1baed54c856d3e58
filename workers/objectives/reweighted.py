"""Cross entropy times a weight that says which tokens are worth learning from.

    EAFT     loss = -sg((H_k / ln k)^alpha) log p     weight (H_k / ln k)^alpha
    ProFit   loss = -1[sg(p) >= threshold] log p      weight 1[p >= threshold]
    focal    loss = -(1 - p)^gamma log p              weight (1 - p)^gamma - gamma p (1 - p)^(gamma - 1) log p

p is the label's probability, H_k the entropy in nats of the k likeliest tokens renormalised, sg stops the gradient, and
the gradient by logit j is weight (p_j - 1[j = y]).

Sources: EAFT arXiv 2601.02151, whose code divides by a constant 3 where the paper's normaliser is ln k (this module
divides by ln k, so the weight lies in [0, 1]); ProFit arXiv 2601.09195, in the mode that keeps likely tokens, its
denominator counting the dropped ones too, as in the authors' code; focal loss arXiv 1708.02002, there a sum of binary
terms over classes, here of the softmax and without class weights. All statistics are float32 at least.
"""

import math
from dataclasses import dataclass

import torch

from workers.objectives.base import (
    ObjectiveOutput,
    StatisticsNeeds,
    TokenStatistics,
    WeightedObjective,
    with_gradient,
)
from workers.objectives.cross_entropy import supervised_output


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyAdaptive(WeightedObjective):
    """EAFT: tokens at which the model hesitates count, confident conflicts with the data do not."""

    alpha: float
    top_k: int
    """At least 2."""

    @property
    def needs(self) -> StatisticsNeeds:
        """The k largest probabilities."""
        return StatisticsNeeds(top_k=self.top_k)

    def __call__(self, statistics: TokenStatistics) -> ObjectiveOutput:
        """Sums over the N label tokens; needs the statistics' largest probabilities."""
        top_probs_NK = statistics.top_probs_NK
        assert top_probs_NK is not None, "statistics were made without top_k"
        shares_NK = top_probs_NK / top_probs_NK.sum(-1, keepdim=True)
        # entr(0) is 0, where p * log p would be NaN.
        entropy_N = torch.special.entr(shares_NK).sum(-1).clamp_min(0.0)
        weight_N = (entropy_N / math.log(self.top_k)) ** self.alpha
        return supervised_output(weight_N * statistics.nll_N, statistics)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbabilityFilter(WeightedObjective):
    """ProFit: tokens that the model holds for unlikely are left out."""

    threshold: float

    def __call__(self, statistics: TokenStatistics) -> ObjectiveOutput:
        """Sums over the N label tokens, those left out counted as 0."""
        kept_N = torch.exp(-statistics.nll_N).detach() >= self.threshold
        return supervised_output(kept_N.to(statistics.nll_N.dtype) * statistics.nll_N, statistics)


@dataclass(frozen=True, slots=True, kw_only=True)
class Focal(WeightedObjective):
    """Focal loss: what is already likely counts less."""

    gamma: float

    def __call__(self, statistics: TokenStatistics) -> ObjectiveOutput:
        """Sums over the N label tokens."""
        nll_N = statistics.nll_N.detach()
        rest_N = -torch.expm1(-nll_N)
        # -log p / (1 - p) tends to 1 as p does; autograd through (1 - p)^gamma would divide 0 by 0 there.
        ratio_N = torch.where(rest_N > 0, nll_N / rest_N, 1.0)
        factor_N = rest_N**self.gamma
        weight_N = factor_N * (1.0 + self.gamma * torch.exp(-nll_N) * ratio_N)
        return supervised_output(with_gradient(factor_N * nll_N, weight_N, statistics.nll_N), statistics)
