"""What every objective computes with: a padded batch, per-token statistics of a forward pass, and sums over tokens.

Dims: B sequences, T positions, N label tokens of the batch (row by row, position by position), V vocabulary.

The seam: `token_statistics` turns logits into a differentiable negative log-likelihood per label token and a few
detached numbers; an objective is a function of these alone. Gradients therefore flow through `nll_N` only, and a form
that never holds the logits can take the place of `token_statistics` without touching an objective.

Objectives return sums. The caller divides by the label tokens of the whole optimizer step, so that neither the split
into micro-batches nor padding can change a gradient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100
"""Label of a position that is not trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Sequences padded on the right; causal attention keeps every real token from seeing the padding."""

    input_ids_BT: Tensor
    """int64. The last token of a sequence is a label only, never an input."""
    labels_BT: Tensor
    """int64, already shifted: the token that follows, or `IGNORED`."""
    position_ids_BT: Tensor
    """int64, from 0."""

    def to(self, device: torch.device) -> "TokenBatch":
        """The same batch on another device."""
        return TokenBatch(
            input_ids_BT=self.input_ids_BT.to(device, non_blocking=True),
            labels_BT=self.labels_BT.to(device, non_blocking=True),
            position_ids_BT=self.position_ids_BT.to(device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStatistics:
    """One value per label token, [N], in float32 at least."""

    nll_N: Tensor
    """-log p(label), in nats. The only differentiable one."""
    entropy_N: Tensor
    """Of the next-token distribution, in nats."""
    is_likeliest_N: Tensor
    """bool: whether the label is the likeliest token (of equals, the one with the lowest id counts)."""
    topk_mass_N: Tensor | None
    """Sum of the k largest probabilities, in [0, 1]; None unless asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveOutput:
    """Sums over the label tokens of one micro-batch."""

    loss_sum: Tensor
    """Scalar, differentiable."""
    metric_sums: Mapping[str, Tensor]
    """Detached float64 scalars by metric name; each becomes a mean by the same division as the loss."""


def token_statistics(
    logits_NV: Tensor, labels_N: Tensor, *, temperature: float = 1.0, top_k: int | None = None
) -> TokenStatistics:
    """Statistics of the label tokens from their logits, in float32 for logits of lower precision.

    The distribution is softmax(logits / temperature). `top_k` asks for the top-k mass; it must not exceed V. Logits of
    -inf (padded vocabulary) are allowed.
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
        topk_mass_N = None if top_k is None else probs_NV.topk(top_k, dim=-1, sorted=False).values.sum(-1)
        return TokenStatistics(
            nll_N=nll_N,
            entropy_N=entropy_N,
            is_likeliest_N=logprobs_NV.argmax(-1) == labels_N,
            topk_mass_N=topk_mass_N,
        )


def total(values_N: Tensor) -> Tensor:
    """A detached sum in float64, so that a metric does not depend on how tokens are split over micro-batches."""
    return values_N.detach().sum(dtype=torch.float64)


def token_means(outputs: Sequence[ObjectiveOutput], num_tokens: int) -> dict[str, float]:
    """Each metric's mean over the label tokens of a step, from its micro-batches; waits for the device once."""
    names = list(outputs[0].metric_sums)
    sums = torch.stack([torch.stack([output.metric_sums[name] for name in names]) for output in outputs]).sum(0)
    return dict(zip(names, (sums / num_tokens).tolist(), strict=True))
