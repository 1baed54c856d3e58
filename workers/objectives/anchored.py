"""Losses that hold the model near the frozen one that training began with, its reference.

    ASFT   loss = -sg(p_y) log p_y + κ KL(p_ref || p)       gradient_j = p_y (p_j - 1[j = y]) + κ (p_j - p_ref,j)
    GIFT   loss = -Σ_j t_j log p_j                          gradient_j = p_j - t_j
           t = softmax(log r + β 1[j = y]),  r = (1 - s) p_ref + s / V

y is the label, p the model's distribution, p_ref the reference's, sg stops the gradient, κ is `kl_coef`, s `smoothing`.

Sources: ASFT arXiv 2509.23753; its code defaults κ to 0.1, the command in its README passes 0.05. GIFT arXiv
2601.09233: with β = 20 and s = 0 the label's share of t is r_y e^β / (1 + r_y (e^β - 1)), so this is cross entropy but
where the reference gives the label less than about 1e-7, and such labels are not learned. β = 0 distils the reference.
Differences from the authors' code: both distributions are float32 at least, only label tokens count, and the
denominator is that of the optimizer step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.objectives.base import (
    ChunkDistributions,
    DistributionObjective,
    ObjectiveOutput,
    StatisticsNeeds,
    TokenStatistics,
    row_dots,
)
from workers.objectives.cross_entropy import supervised_output


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchored(DistributionObjective):
    """ASFT: DFT with a divergence from the reference as its anchor."""

    kl_coef: float

    @property
    def needs(self) -> StatisticsNeeds:
        """The reference."""
        return StatisticsNeeds(reference=True)

    def differentiate(self, chunk: ChunkDistributions, statistics: TokenStatistics) -> tuple[ObjectiveOutput, Tensor]:
        """Sums over C label tokens and the gradient of each token's loss by its logits, [C, V]."""
        reference_logprobs_CV = chunk.reference_logprobs_CV
        assert reference_logprobs_CV is not None, "the chunk was made without a reference"
        prob_C = torch.exp(-statistics.nll_N)
        reference_probs_CV = reference_logprobs_CV.exp()
        kl_C = row_dots(reference_probs_CV, reference_logprobs_CV.sub_(chunk.logprobs_CV)).squeeze(1)
        gradient_CV = chunk.probs_CV.mul_((prob_C + self.kl_coef).unsqueeze(1))
        gradient_CV.sub_(reference_probs_CV, alpha=self.kl_coef)
        gradient_CV.scatter_add_(1, chunk.labels_C.unsqueeze(1), -prob_C.unsqueeze(1))
        return supervised_output(prob_C * statistics.nll_N + self.kl_coef * kl_C, statistics), gradient_CV


@dataclass(frozen=True, slots=True, kw_only=True)
class Tilted(DistributionObjective):
    """GIFT: cross entropy to the reference with the label's logit raised by `beta`."""

    beta: float
    smoothing: float

    @property
    def needs(self) -> StatisticsNeeds:
        """The reference."""
        return StatisticsNeeds(reference=True)

    def differentiate(self, chunk: ChunkDistributions, statistics: TokenStatistics) -> tuple[ObjectiveOutput, Tensor]:
        """Sums over C label tokens and the gradient of each token's loss by its logits, [C, V]."""
        target_CV = self._target(chunk)
        loss_C = -row_dots(target_CV, chunk.logprobs_CV).squeeze(1)
        return supervised_output(loss_C, statistics), chunk.probs_CV.sub_(target_CV)

    def _target(self, chunk: ChunkDistributions) -> Tensor:
        """t, [C, V]. By the closed form, in logarithms where e^beta could overflow."""
        reference_logprobs_CV = chunk.reference_logprobs_CV
        assert reference_logprobs_CV is not None, "the chunk was made without a reference"
        labels_C1 = chunk.labels_C.unsqueeze(1)
        label_logprob_C1 = reference_logprobs_CV.gather(1, labels_C1)
        anchor_CV = reference_logprobs_CV.exp_()
        if self.smoothing:
            anchor_CV.mul_(1.0 - self.smoothing).add_(self.smoothing / anchor_CV.shape[1])
            label_logprob_C1 = anchor_CV.gather(1, labels_C1).log()
        rest_C1 = -torch.expm1(label_logprob_C1)
        raised_C1 = label_logprob_C1 + self.beta
        log_total_C1 = torch.logaddexp(rest_C1.clamp_min(0.0).log(), raised_C1)
        target_CV = anchor_CV.mul_(torch.exp(-log_total_C1))
        return target_CV.scatter_(1, labels_C1, torch.exp(raised_C1 - log_total_C1))
