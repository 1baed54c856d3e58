"""Cross entropy, the baseline, and what every supervised objective reports.

    loss = -log p,     gradient by logit j = p_j - 1[j = y]

p is the label's probability and y the label. As `torch.nn.functional.cross_entropy` computes it, summed, with float32
statistics whatever the dtype of the logits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from workers.objectives.base import ObjectiveOutput, TokenStatistics, WeightedObjective, total


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy(WeightedObjective):
    """-log p(label)."""

    top_k: None = None
    """No top-k mass is needed."""

    def __call__(self, statistics: TokenStatistics) -> ObjectiveOutput:
        """Sums over the N label tokens."""
        return supervised_output(statistics.nll_N, statistics)


def supervised_output(
    loss_N: Tensor,
    statistics: TokenStatistics,
    *,
    own_sums: Mapping[str, Tensor] | None = None,
    part_sums: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    share_histograms: Mapping[str, Tensor] | None = None,
) -> ObjectiveOutput:
    """The sum of a per-token loss with the metrics that are comparable between supervised objectives."""
    kl_N = statistics.reference_kl_N
    return ObjectiveOutput(
        loss_sum=loss_N.sum(),
        metric_sums={
            "sft/loss": total(loss_N),
            "sft/nll": total(statistics.nll_N),
            "sft/entropy": total(statistics.entropy_N),
            "sft/mean_token_accuracy": total(statistics.is_likeliest_N),
            **({} if kl_N is None else {"sft/reference/kl": total(kl_N)}),
            **(own_sums or {}),
        },
        part_sums=part_sums or {},
        share_histograms=share_histograms or {},
    )
