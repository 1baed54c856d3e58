"""Cross entropy that keeps some probability away from the label.

    label smoothing       loss = (1 - ε) (-log p_y) + ε mean_j(-log p_j)
                          gradient_j = p_j - (1 - ε) 1[j = y] - ε / V
    entropy-regularised   loss = -log p_y - λ H(p)
                          gradient_j = p_j - 1[j = y] + λ p_j (log p_j + H)

H is the entropy in nats. Sources: label smoothing arXiv 1512.00567 in torch's convention, where the label itself has
its part of ε; the entropy bonus arXiv 1701.06548, without that paper's threshold on the entropy and its annealing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.objectives.base import ChunkDistributions, DistributionObjective, ObjectiveOutput, TokenStatistics
from workers.objectives.cross_entropy import supervised_output


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSmoothing(DistributionObjective):
    """Cross entropy to a target that holds `epsilon` spread over all tokens."""

    epsilon: float

    def differentiate(self, chunk: ChunkDistributions, statistics: TokenStatistics) -> tuple[ObjectiveOutput, Tensor]:
        """Sums over C label tokens and the gradient of each token's loss by its logits, [C, V]."""
        kept = 1.0 - self.epsilon
        loss_C = kept * statistics.nll_N
        gradient_CV = chunk.probs_CV
        if self.epsilon:
            loss_C = loss_C - self.epsilon * chunk.logprobs_CV.mean(1)
            gradient_CV.sub_(self.epsilon / chunk.logprobs_CV.shape[1])
        gradient_CV.scatter_add_(1, chunk.labels_C.unsqueeze(1), torch.full_like(loss_C, -kept).unsqueeze(1))
        return supervised_output(loss_C, statistics), gradient_CV


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyRegularised(DistributionObjective):
    """Cross entropy minus a multiple of the entropy, at every token."""

    lambda_: float

    def differentiate(self, chunk: ChunkDistributions, statistics: TokenStatistics) -> tuple[ObjectiveOutput, Tensor]:
        """Sums over C label tokens and the gradient of each token's loss by its logits, [C, V]."""
        loss_C = statistics.nll_N - self.lambda_ * statistics.entropy_N
        gradient_CV = chunk.probs_CV
        if self.lambda_:
            surprise_CV = chunk.logprobs_CV + statistics.entropy_N.unsqueeze(1)
            gradient_CV.addcmul_(chunk.probs_CV, surprise_CV, value=self.lambda_)
        gradient_CV.scatter_add_(1, chunk.labels_C.unsqueeze(1), torch.full_like(loss_C, -1.0).unsqueeze(1))
        return supervised_output(loss_C, statistics), gradient_CV
