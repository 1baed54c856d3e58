"""GEM (arXiv 2408.16673): the label competes with the model's own sharpened distribution, not with all tokens.

    q = sg(softmax(z / beta))
    linear       loss = -log p_y + Σ_j q_j log p_j                 gradient_j = q_j - 1[j = y]
    logsigmoid   loss = -Σ_j c_j (log p_y - log p_j)               gradient_j = c_j - 1[j = y] Σ_i c_i
                 c_j = sg(q_j sigmoid((z_j - z_y) / 100))

z are the logits, p = softmax(z), sg stops the gradient. Values may be negative: they are surrogates of which only the
gradient matters. The sigmoid is near 1/2 everywhere, so `logsigmoid` has about half the gradient of `linear`. With
beta 1 the gradient of `linear` is that of cross entropy.

Differences from the authors' code: their fused kernel knows `linear` only, and their plain form holds several arrays of
all logits; here both forms are fused, and the statistics are float32 whatever the dtype of the logits. Their program
defaults to `linear`, their scripts pass `logsigmoid`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workers.objectives.base import (
    ChunkDistributions,
    DistributionObjective,
    ObjectiveOutput,
    TokenStatistics,
    row_dots,
)
from workers.objectives.cross_entropy import supervised_output

LOGSIGMOID_SLOPE = 0.01
"""The authors' temperature of the logit difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gem(DistributionObjective):
    """GEM in one of its two forms."""

    h: Literal["linear", "logsigmoid"]
    beta: float

    def differentiate(self, chunk: ChunkDistributions, statistics: TokenStatistics) -> tuple[ObjectiveOutput, Tensor]:
        """Sums over C label tokens and the gradient of each token's loss by its logits, [C, V]."""
        labels_C1 = chunk.labels_C.unsqueeze(1)
        label_logprob_C1 = chunk.logprobs_CV.gather(1, labels_C1)
        # Log-probs differ from the logits by a constant, which the softmax does not see.
        coefficient_CV = torch.softmax(chunk.logprobs_CV / self.beta, dim=1)
        if self.h == "logsigmoid":
            coefficient_CV.mul_(torch.sigmoid(LOGSIGMOID_SLOPE * (chunk.logprobs_CV - label_logprob_C1)))
            total_C1 = coefficient_CV.sum(1, keepdim=True)
        else:
            total_C1 = torch.ones_like(label_logprob_C1)
        cross_C1 = row_dots(coefficient_CV, chunk.logprobs_CV)
        loss_C = (cross_C1 - total_C1 * label_logprob_C1).squeeze(1)
        gradient_CV = coefficient_CV.scatter_add_(1, labels_C1, -total_C1)
        return supervised_output(loss_C, statistics), gradient_CV
