"""EKSFT (arXiv 2605.29303): imitate where the model is sure and near its reference, elsewhere keep it open and near.

    E = the fraction of the step's label tokens with the highest entropy H,  K = that with the highest KL(p || p_ref)

    loss = mean of -log p_y over the tokens in neither set
           - λ_H mean of H / ln V over E + λ_KL mean of KL(p || p_ref) over K
    gradient_j = c (p_j - 1[j = y]) + e p_j (log p_j + H) + k p_j (log p_j - log p_ref,j - KL)

y is the label, p_ref the frozen model that training began with, V the vocabulary. c, e and k are what a token's place
in the sets makes of the three means' factors: for N tokens of the step c = N / |neither| or 0, e = λ_H N / (|E| ln V)
or 0, k = λ_KL N / |K| or 0. A token may be in both sets. Without tokens a mean is 0.

A set of fraction f has floor(f N) tokens, those strictly above the middle between the last value inside and the first
outside. Values that tie at this border all stay outside, so a set can be smaller: where the model still equals its
reference, as in the first step in float32, no token is in K.

Differences from the authors' code: their sets are those of a micro-batch on one rank, these of the whole optimizer step
over all ranks, so that no split changes them; their KL term subtracts log p_ref from p where the divergence has log p;
their sets lie one position beside the labels that they mask; their coefficients wobble by 5 % around the given ones.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.objectives.base import (
    ChunkDistributions,
    DistributionObjective,
    ObjectiveOutput,
    StatisticsNeeds,
    SurveyObjective,
    TokenStatistics,
    total,
)
from workers.objectives.cross_entropy import supervised_output


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyKlSelection(SurveyObjective):
    """EKSFT before it knows a step's tokens. With both fractions 0 it is cross entropy, bit for bit."""

    entropy_fraction: float
    kl_fraction: float
    entropy_coef: float
    kl_coef: float

    @property
    def needs(self) -> StatisticsNeeds:
        """The reference."""
        return StatisticsNeeds(reference=True)

    def observed(self, statistics: TokenStatistics) -> Tensor:
        """Entropy and KL to the reference, [N, 2]."""
        assert statistics.reference_kl_N is not None, "statistics were made without a reference"
        return torch.stack([statistics.entropy_N, statistics.reference_kl_N], 1)

    def settled(self, observed_NS: Tensor) -> "SelectedTokens":
        """The objective with the borders of the step's two sets."""
        num_tokens = len(observed_NS)
        entropy_N, kl_N = observed_NS.double().unbind(1)
        entropy_border = _border(entropy_N, self.entropy_fraction)
        kl_border = _border(kl_N, self.kl_fraction)
        flexible_N, moved_N = entropy_N > entropy_border, kl_N > kl_border

        def factor(part_N: Tensor) -> float:
            size = int(part_N.sum())
            return num_tokens / size if size else 0.0

        return SelectedTokens(
            entropy_border=entropy_border,
            kl_border=kl_border,
            nll_factor=factor(~(flexible_N | moved_N)),
            entropy_factor=self.entropy_coef * factor(flexible_N),
            kl_factor=self.kl_coef * factor(moved_N),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedTokens(DistributionObjective):
    """EKSFT for one optimizer step. The factors make a sum over all label tokens of each mean over a set."""

    entropy_border: float
    """Tokens above it form the entropy set."""
    kl_border: float
    """Tokens above it form the KL set."""
    nll_factor: float
    entropy_factor: float
    kl_factor: float

    @property
    def needs(self) -> StatisticsNeeds:
        """The reference."""
        return StatisticsNeeds(reference=True)

    def differentiate(self, chunk: ChunkDistributions, statistics: TokenStatistics) -> tuple[ObjectiveOutput, Tensor]:
        """Sums over C label tokens and the gradient of each token's loss by its logits, [C, V]."""
        entropy_C, kl_C = statistics.entropy_N, statistics.reference_kl_N
        difference_CV = chunk.reference_logprobs_CV
        assert kl_C is not None and difference_CV is not None, "the chunk was made without a reference"
        # In float64, since a border lies between two neighbouring float32 values.
        flexible_C, moved_C = entropy_C.double() > self.entropy_border, kl_C.double() > self.kl_border
        nll_weight_C = self.nll_factor * (~(flexible_C | moved_C)).to(entropy_C.dtype)
        entropy_weight_C = self.entropy_factor / math.log(difference_CV.shape[1]) * flexible_C.to(entropy_C.dtype)
        kl_weight_C = self.kl_factor * moved_C.to(entropy_C.dtype)
        loss_C = nll_weight_C * statistics.nll_N - entropy_weight_C * entropy_C + kl_weight_C * kl_C

        torch.sub(chunk.logprobs_CV, difference_CV, out=difference_CV)
        slope_CV = difference_CV.mul_(kl_weight_C.unsqueeze(1))
        slope_CV.addcmul_(chunk.logprobs_CV, entropy_weight_C.unsqueeze(1))
        slope_CV.add_((nll_weight_C + entropy_weight_C * entropy_C - kl_weight_C * kl_C).unsqueeze(1))
        gradient_CV = chunk.probs_CV.mul_(slope_CV)
        gradient_CV.scatter_add_(1, chunk.labels_C.unsqueeze(1), -nll_weight_C.unsqueeze(1))
        fractions = {
            "sft/eksft/entropy_fraction": total(flexible_C),
            "sft/eksft/kl_fraction": total(moved_C),
        }
        return supervised_output(loss_C, statistics, own_sums=fractions), gradient_CV


def _border(values_N: Tensor, fraction: float) -> float:
    """What the values of the highest `fraction` exceed strictly; see the module on ties."""
    # 0.29 * 100 is a little less than 29.
    size = math.floor(fraction * len(values_N) + 1e-9)
    if size == 0:
        return math.inf
    if size == len(values_N):
        return -math.inf
    ordered_N = values_N.sort(descending=True).values
    return float((ordered_N[size - 1] + ordered_N[size]) / 2)
