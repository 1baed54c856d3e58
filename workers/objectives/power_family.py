"""Losses between cross entropy and 1 - p: the less likely the label, the smaller its share of the gradient.

    DFT      loss = -sg(p) log p                               weight p
    power    loss = (1 - p^q) / q                              weight p^q
    DEFT     loss = (1 - p^a) / (a + 1e-6), a = sg(Σ_j p_j²)   weight p^a · a / (a + 1e-6)

p is the label's probability, sg stops the gradient, and the gradient by logit j is weight (p_j - 1[j = y]).

Sources: DFT arXiv 2508.05629; power arXiv 2510.00526 (q = 1 is 1 - p with DFT's gradient, q → 0 is cross entropy); DEFT
arXiv 2602.11424, whose exponent follows the model's own certainty. Differences from the authors' code: the softmax is
float32 at least (DFT's code takes that of the logits' dtype), and DFT's weight acts on every token however the
sequences are laid out (its code leaves it out under sequence parallelism).
"""

from dataclasses import dataclass

import torch

from workers.objectives.base import ObjectiveOutput, StatisticsNeeds, TokenStatistics, WeightedObjective
from workers.objectives.cross_entropy import supervised_output

DEFT_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicFineTuning(WeightedObjective):
    """DFT: cross entropy times the label's own probability."""

    def __call__(self, statistics: TokenStatistics) -> ObjectiveOutput:
        """Sums over the N label tokens."""
        prob_N = torch.exp(-statistics.nll_N).detach()
        return supervised_output(prob_N * statistics.nll_N, statistics)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power(WeightedObjective):
    """(1 - p^q) / q with a fixed q above 0."""

    q: float

    def __call__(self, statistics: TokenStatistics) -> ObjectiveOutput:
        """Sums over the N label tokens."""
        # expm1 keeps the digits where p^q is near 1.
        return supervised_output(-torch.expm1(-self.q * statistics.nll_N) / self.q, statistics)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deft(WeightedObjective):
    """The power loss with the token's collision probability as exponent."""

    @property
    def needs(self) -> StatisticsNeeds:
        """The sum of squared probabilities."""
        return StatisticsNeeds(collision=True)

    def __call__(self, statistics: TokenStatistics) -> ObjectiveOutput:
        """Sums over the N label tokens; needs the statistics' sum of squares."""
        exponent_N = statistics.collision_N
        assert exponent_N is not None, "statistics were made without the sum of squares"
        loss_N = -torch.expm1(-exponent_N * statistics.nll_N) / (exponent_N + DEFT_EPSILON)
        return supervised_output(loss_N, statistics)
