"""What every objective computes with: per-token statistics of a forward pass, and sums over tokens.

Dims: N label tokens of a micro-batch, one sequence after the other, C those of a chunk of them, V vocabulary.

The seam: an objective is a function of `TokenStatistics`, a differentiable negative log-likelihood per label token and
a few detached numbers. Its derivative by `nll_N` is the token's weight w, and w (p_j - 1[j = y]) its gradient by logit
j; the entropy is differentiable too for an objective that asks for it. `fused_linear` makes the statistics without ever
holding all logits; `token_statistics` makes them from logits and is what the fused form is held to. A supervised
objective whose gradient is no multiple of p_j - 1[j = y] is a `DistributionObjective`, which only the fused form can
compute.

Objectives return sums. The caller divides by the label tokens of the whole optimizer step, so that neither the split
into micro-batches nor padding can change a gradient.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStatistics:
    """One value per label token, [N], in float32 at least."""

    nll_N: Tensor
    """-log p(label), in nats. The only differentiable one, as a rule."""
    entropy_N: Tensor
    """Of the next-token distribution, in nats. Differentiable where `StatisticsNeeds.entropy_gradient` asks for it."""
    is_likeliest_N: Tensor
    """bool: whether the label is the likeliest token (of equals, the one with the lowest id counts)."""
    top_probs_NK: Tensor | None
    """The k largest probabilities, in no order; None unless asked for."""
    collision_N: Tensor | None
    """Sum of the squared probabilities, in (0, 1]; None unless asked for."""
    reference_kl_N: Tensor | None = None
    """KL(p || p_ref) to the reference model, in nats, at least 0; None unless asked for."""

    @property
    def topk_mass_N(self) -> Tensor | None:
        """Sum of the k largest probabilities, in [0, 1]; None unless they were asked for."""
        return None if self.top_probs_NK is None else self.top_probs_NK.sum(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsNeeds:
    """What an objective reads beyond the statistics that are always there."""

    top_k: int | None = None
    """How many of the largest probabilities; must not exceed V."""
    collision: bool = False
    reference: bool = False
    """A frozen second model's distribution of the same tokens."""
    entropy_gradient: bool = False
    """The loss depends on the entropy; costs one more buffer of a chunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveOutput:
    """Sums over the label tokens of one micro-batch."""

    loss_sum: Tensor
    """Scalar, differentiable."""
    metric_sums: Mapping[str, Tensor]
    """Detached float64 scalars by metric name; each becomes a mean by the same division as the loss."""
    part_sums: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Means over a part of the tokens, by metric name: the sum over the part and the part's size, float64."""
    share_histograms: Mapping[str, Tensor] = field(default_factory=dict)
    """Counts of per-token shares in equal bins over [0, 1], int64, by the prefix of their quantiles' names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkDistributions:
    """The next-token distributions of C label tokens, in float32 at least, in buffers of whoever made them."""

    logprobs_CV: Tensor
    """Must stay as it is."""
    probs_CV: Tensor
    """May be overwritten."""
    labels_C: Tensor
    reference_logprobs_CV: Tensor | None
    """Those of the reference model; may be overwritten. None unless asked for."""


class DistributionObjective(ABC):
    """A supervised objective whose gradient by the logits needs the whole distribution of a token."""

    @property
    def needs(self) -> StatisticsNeeds:
        """What it reads beyond the usual statistics; most read nothing."""
        return StatisticsNeeds()

    @abstractmethod
    def differentiate(self, chunk: ChunkDistributions, statistics: TokenStatistics) -> tuple[ObjectiveOutput, Tensor]:
        """Sums over C label tokens and the gradient of each token's loss by its logits, [C, V]."""


class WeightedObjective(ABC):
    """A supervised objective that multiplies the gradient of cross entropy by one weight per token."""

    @property
    def needs(self) -> StatisticsNeeds:
        """What it reads beyond the usual statistics; most read nothing."""
        return StatisticsNeeds()

    @abstractmethod
    def __call__(self, statistics: TokenStatistics) -> ObjectiveOutput:
        """Sums over the N label tokens, differentiable by `nll_N`."""


RowObjective: TypeAlias = WeightedObjective | DistributionObjective
"""Tells a token's loss from that token alone."""


class SurveyObjective(ABC):
    """A supervised objective whose rule for a token depends on all label tokens of the optimizer step.

    Before a step is trained, a pass without gradient collects `observed` of each of its label tokens, over all
    micro-batches and ranks; `settled` makes of them the objective that the step is trained with. So no split of a step
    can change what happens to a token.
    """

    @property
    @abstractmethod
    def needs(self) -> StatisticsNeeds:
        """What the first pass reads beyond the usual statistics."""

    @abstractmethod
    def observed(self, statistics: TokenStatistics) -> Tensor:
        """What must be known of each token, detached: [N, number of values]."""

    @abstractmethod
    def settled(self, observed_NS: Tensor) -> RowObjective:
        """The objective for a step of N label tokens, whatever their order."""


SupervisedObjective: TypeAlias = RowObjective | SurveyObjective


def token_statistics(
    logits_NV: Tensor,
    labels_N: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    collision: bool = False,
) -> TokenStatistics:
    """Statistics of the label tokens from their logits, in float32 for logits of lower precision.

    The distribution is softmax(logits / temperature). `top_k` asks for the largest probabilities and must not exceed V,
    `collision` for the sum of squares. Logits of -inf (padded vocabulary) are allowed.
    """
    precise_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    if temperature != 1.0:
        precise_NV = precise_NV / temperature
    logprobs_NV = torch.log_softmax(precise_NV, dim=-1)
    nll_N = -logprobs_NV.gather(-1, labels_N.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        probs_NV = logprobs_NV.exp()
        # entr(0) is 0, where p * log p would be NaN.
        entropy_N = torch.special.entr(probs_NV).sum(-1)
        return TokenStatistics(
            nll_N=nll_N,
            entropy_N=entropy_N,
            is_likeliest_N=logprobs_NV.argmax(-1) == labels_N,
            top_probs_NK=None if top_k is None else probs_NV.topk(top_k, dim=-1, sorted=False).values,
            collision_N=probs_NV.square().sum(-1) if collision else None,
        )


def total(values_N: Tensor) -> Tensor:
    """A detached sum in float64, so that a metric does not depend on how tokens are split over micro-batches."""
    return values_N.detach().sum(dtype=torch.float64)


def row_dots(one_CV: Tensor, other_CV: Tensor) -> Tensor:
    """The dot product of each pair of rows, [C, 1]. Unlike `torch.linalg.vecdot` it makes no [C, V] of products."""
    return torch.bmm(one_CV.unsqueeze(1), other_CV.unsqueeze(2)).squeeze(2)


def with_gradient(loss_N: Tensor, weight_N: Tensor, nll_N: Tensor) -> Tensor:
    """The values of `loss_N` with the derivative `weight_N` by the negative log-likelihood; both are detached first."""
    return loss_N.detach() + weight_N.detach() * (nll_N - nll_N.detach())
