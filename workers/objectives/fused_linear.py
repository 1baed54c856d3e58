"""Output layer and loss in one sweep over chunks of tokens: the logits of one chunk exist at a time, never all of them.

Dims: N label tokens, C those of a chunk, H hidden, V rows of the output layer, K largest probabilities.

For a chunk with hidden states h the sweep computes z = cap(scale * (h Wᵀ + b)) / temperature, the statistics of
softmax(z) and, since an objective's gradient by z is known as soon as these are, at once its gradient by h, W and b:

    weighted objective:      dz_j = w (p_j - 1[j = y]),   w = d loss / d nll by autograd over the chunk's [C] values
    distribution objective:  dz_j as the objective says

So the backward pass only multiplies stored gradients by the incoming scalar. Statistics and dz are float32 at least,
whatever the dtype of the products with W. Beyond the gradients themselves the memory is two to four buffers of a chunk.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from workers.objectives.base import (
    DistributionObjective,
    ObjectiveOutput,
    StatisticsNeeds,
    TokenStatistics,
    row_dots,
)
from workers.objectives.step_metrics import merged

CHUNK_BYTES = 24 * 2**20
"""Size of one float32 buffer of a chunk: large enough for full speed of the matrix products, small beside W."""

WeightedLoss: TypeAlias = Callable[[TokenStatistics, slice], ObjectiveOutput]
"""A loss by way of `nll_N` from the statistics of the tokens in the slice of [N]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputHead:
    """How a model turns hidden states into logits."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    """Multiplies the logits."""
    softcap: float | None = None
    """z becomes softcap * tanh(z / softcap), after the scale."""
    num_real: int | None = None
    """Rows that are tokens; those behind pad the vocabulary, have probability 0 and get no gradient. None: all."""
    dtype: torch.dtype | None = None
    """Of the products with the weight; None: the weight's own."""


def fused_loss(
    hidden_NH: Tensor,
    head: OutputHead,
    labels_N: Tensor,
    objective: WeightedLoss | DistributionObjective,
    *,
    needs: StatisticsNeeds,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> ObjectiveOutput:
    """The objective's sums over N label tokens; N may not be 0.

    `loss_sum` is differentiable by hidden states, weight and bias, once: its backward pass gives the gradients away.
    `chunk_tokens` overrides the size that `CHUNK_BYTES` gives; it changes results by rounding only.
    """
    sweep = _Sweep(hidden_NH, head, labels_N, needs=needs, temperature=temperature)
    inputs = (hidden_NH, head.weight_VH, head.bias_V)
    wanted = [torch.is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in inputs]
    gradients = _Gradients.zeros(head, hidden_NH, wanted)
    with torch.no_grad():
        output = merged(
            [sweep.accumulate(rows, objective, gradients) for rows in _chunks(sweep, chunk_tokens, len(labels_N))]
        )
    if not any(wanted):
        return output
    return ObjectiveOutput(
        loss_sum=_attach(output.loss_sum, gradients, *inputs),
        metric_sums=output.metric_sums,
        part_sums=output.part_sums,
        share_histograms=output.share_histograms,
    )


@torch.no_grad()
def fused_statistics(
    hidden_NH: Tensor,
    head: OutputHead,
    labels_N: Tensor,
    *,
    needs: StatisticsNeeds,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> TokenStatistics:
    """The statistics of N label tokens, all detached; N may not be 0."""
    sweep = _Sweep(hidden_NH, head, labels_N, needs=needs, temperature=temperature)
    parts = [sweep.distribution(rows).statistics for rows in _chunks(sweep, chunk_tokens, len(labels_N))]
    return TokenStatistics(
        nll_N=torch.cat([part.nll_N for part in parts]),
        entropy_N=torch.cat([part.entropy_N for part in parts]),
        is_likeliest_N=torch.cat([part.is_likeliest_N for part in parts]),
        top_probs_NK=_joined([part.top_probs_NK for part in parts]),
        collision_N=_joined([part.collision_N for part in parts]),
    )


@dataclass(slots=True, kw_only=True)
class _Gradients:
    """Sums so far, in the inputs' shapes; None where none is wanted."""

    hidden_NH: Tensor | None
    weight_VH: Tensor | None
    bias_V: Tensor | None

    @classmethod
    def zeros(cls, head: OutputHead, hidden_NH: Tensor, wanted: list[bool]) -> "_Gradients":
        bias_V = head.bias_V
        return cls(
            hidden_NH=torch.empty_like(hidden_NH) if wanted[0] else None,
            weight_VH=torch.zeros_like(head.weight_VH) if wanted[1] else None,
            bias_V=torch.zeros_like(bias_V) if wanted[2] and bias_V is not None else None,
        )

    @property
    def any(self) -> bool:
        return not (self.hidden_NH is None and self.weight_VH is None and self.bias_V is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Distribution:
    """One chunk's softmax. The buffers are the sweep's and hold until the next chunk."""

    statistics: TokenStatistics
    lse_C1: Tensor
    exp_CV: Tensor
    """exp(z - max z)."""
    total_C1: Tensor
    """Its sum."""
    shifted_CV: Tensor
    """z - max z."""


class _Sweep:
    """The computation of one chunk, with buffers that all chunks share."""

    def __init__(
        self, hidden_NH: Tensor, head: OutputHead, labels_N: Tensor, *, needs: StatisticsNeeds, temperature: float
    ) -> None:
        weight_VH = head.weight_VH.detach()[: head.num_real]
        self._hidden_NH = hidden_NH.detach()
        self._head = head
        self._labels_N = labels_N
        self._needs = needs
        self._temperature = temperature
        self._weight_VH = weight_VH.to(head.dtype or weight_VH.dtype)
        self._bias_V = None if head.bias_V is None else head.bias_V.detach()[: head.num_real]
        self._precise = torch.float64 if self._weight_VH.dtype == torch.float64 else torch.float32
        self._logits: Tensor | None = None
        self._exp: Tensor | None = None

    @property
    def num_classes(self) -> int:
        """Tokens that have a probability."""
        return len(self._weight_VH)

    def distribution(self, rows: slice) -> _Distribution:
        """Statistics of the tokens in `rows`, and what the gradient is made of."""
        shifted_CV = self._final_logits(rows)
        labels_C1 = self._labels_N[rows].unsqueeze(1)
        max_C1, likeliest_C1 = shifted_CV.max(1, keepdim=True)
        shifted_CV.sub_(max_C1)
        if self._exp is None:
            self._exp = torch.empty_like(shifted_CV)
        exp_CV = torch.exp(shifted_CV, out=self._exp[: len(shifted_CV)])
        total_C1 = exp_CV.sum(1, keepdim=True)
        log_total_C1 = total_C1.log()
        top_probs_CK = None
        if self._needs.top_k is not None:
            top_probs_CK = _largest(exp_CV, likeliest_C1, self._needs.top_k) / total_C1
        collision_C = None
        if self._needs.collision:
            collision_C = (row_dots(exp_CV, exp_CV) / total_C1.square()).squeeze(1)
        statistics = TokenStatistics(
            nll_N=(log_total_C1 - shifted_CV.gather(1, labels_C1)).squeeze(1),
            # H = -sum p (z - lse). Rounding may leave a certain token an ulp below 0.
            entropy_N=(log_total_C1 - row_dots(exp_CV, shifted_CV) / total_C1).squeeze(1).clamp_min(0.0),
            is_likeliest_N=(likeliest_C1 == labels_C1).squeeze(1),
            top_probs_NK=top_probs_CK,
            collision_N=collision_C,
        )
        return _Distribution(
            statistics=statistics,
            lse_C1=max_C1 + log_total_C1,
            exp_CV=exp_CV,
            total_C1=total_C1,
            shifted_CV=shifted_CV,
        )

    def accumulate(
        self, rows: slice, objective: WeightedLoss | DistributionObjective, gradients: _Gradients
    ) -> ObjectiveOutput:
        """The objective's sums over the tokens in `rows`; their gradients are added where they are wanted."""
        made = self.distribution(rows)
        labels_C = self._labels_N[rows]
        if isinstance(objective, DistributionObjective):
            logprobs_CV = made.shifted_CV.sub_(made.total_C1.log())
            probs_CV = made.exp_CV.div_(made.total_C1)
            output, grad_CV = objective.differentiate(logprobs_CV, probs_CV, labels_C, made.statistics)
            offset_C1 = made.lse_C1
        else:
            output, weight_C1 = _weigh(objective, made.statistics, rows)
            grad_CV = made.exp_CV.mul_(weight_C1 / made.total_C1)
            grad_CV.scatter_add_(1, labels_C.unsqueeze(1), -weight_C1)
            offset_C1 = made.lse_C1 - made.total_C1.log()
        if gradients.any:
            slope = self._head.scale / self._temperature
            if self._head.softcap is not None:
                # z_capped / cap is the tanh, whose slope is 1 - tanh².
                tanh_CV = made.shifted_CV.add_(offset_C1).mul_(self._temperature / self._head.softcap)
                grad_CV.mul_(tanh_CV.square_().neg_().add_(1.0))
            self._add(rows, grad_CV if slope == 1.0 else grad_CV.mul_(slope), gradients)
        return output

    def _final_logits(self, rows: slice) -> Tensor:
        """[C, V] in the precision of the statistics, in the sweep's own buffer."""
        hidden_CH = self._hidden_NH[rows].to(self._weight_VH.dtype)
        if self._logits is None:
            self._logits = hidden_CH.new_empty(len(hidden_CH), self.num_classes, dtype=self._precise)
        logits_CV = self._logits[: len(hidden_CH)]
        if self._weight_VH.dtype == self._precise:
            torch.mm(hidden_CH, self._weight_VH.T, out=logits_CV)
        else:
            logits_CV.copy_(torch.mm(hidden_CH, self._weight_VH.T))
        if self._bias_V is not None:
            logits_CV.add_(self._bias_V)
        if self._head.scale != 1.0:
            logits_CV.mul_(self._head.scale)
        if self._head.softcap is not None:
            logits_CV.div_(self._head.softcap).tanh_().mul_(self._head.softcap)
        if self._temperature != 1.0:
            logits_CV.div_(self._temperature)
        return logits_CV

    def _add(self, rows: slice, grad_CV: Tensor, gradients: _Gradients) -> None:
        if gradients.bias_V is not None:
            gradients.bias_V[: self.num_classes] += grad_CV.sum(0)
        grad_CV = grad_CV.to(self._weight_VH.dtype)
        if gradients.hidden_NH is not None:
            gradients.hidden_NH[rows] = torch.mm(grad_CV, self._weight_VH)
        if gradients.weight_VH is not None:
            total_VH = gradients.weight_VH[: self.num_classes]
            hidden_CH = self._hidden_NH[rows].to(grad_CV.dtype)
            if total_VH.dtype == grad_CV.dtype:
                total_VH.addmm_(grad_CV.T, hidden_CH)
            else:
                total_VH += torch.mm(grad_CV.T, hidden_CH)


def _weigh(objective: WeightedLoss, statistics: TokenStatistics, rows: slice) -> tuple[ObjectiveOutput, Tensor]:
    """The objective's sums, and the derivative of its loss by each token's negative log-likelihood, [C, 1]."""
    with torch.enable_grad():
        nll_C = statistics.nll_N.requires_grad_()
        output = objective(statistics, rows)
        (weight_C,) = torch.autograd.grad(output.loss_sum, nll_C)
    detached = ObjectiveOutput(
        loss_sum=output.loss_sum.detach(),
        metric_sums=output.metric_sums,
        part_sums=output.part_sums,
        share_histograms=output.share_histograms,
    )
    return detached, weight_C.unsqueeze(1)


def _largest(exp_CV: Tensor, likeliest_C1: Tensor, top_k: int) -> Tensor:
    """The k largest values of each row. For k = 2 a masked maximum, which takes an eighth of `topk`'s time on a CPU."""
    if top_k == 1:
        return exp_CV.gather(1, likeliest_C1)
    if top_k > 2 or exp_CV.shape[1] < 2:
        return exp_CV.topk(top_k, dim=1, sorted=False).values
    first_C1 = exp_CV.gather(1, likeliest_C1)
    exp_CV.scatter_(1, likeliest_C1, -math.inf)
    second_C1 = exp_CV.amax(1, keepdim=True)
    exp_CV.scatter_(1, likeliest_C1, first_C1)
    return torch.cat([first_C1, second_C1], 1)


def _chunks(sweep: _Sweep, chunk_tokens: int | None, num_tokens: int) -> Iterator[slice]:
    size = chunk_tokens or max(1, CHUNK_BYTES // (4 * sweep.num_classes))
    for start in range(0, num_tokens, size):
        yield slice(start, min(start + size, num_tokens))


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


class _Attached(torch.autograd.Function):
    """A loss whose gradients are known before its backward pass."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: _Gradients, *inputs: Tensor | None) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradients: _Gradients | None = ctx.gradients
        if gradients is None:
            raise RuntimeError("the gradients of a fused loss were already handed out; compute the loss again")
        # Scaled in place and let go of: a second buffer of the weight's size would double the peak.
        ctx.gradients = None
        for gradient in (gradients.hidden_NH, gradients.weight_VH, gradients.bias_V):
            if gradient is not None:
                gradient.mul_(factor)
        return None, None, gradients.hidden_NH, gradients.weight_VH, gradients.bias_V


def _attach(loss: Tensor, gradients: _Gradients, *inputs: Tensor | None) -> Tensor:
    attached: Tensor = _Attached.apply(loss, gradients, *inputs)  # type: ignore[no-untyped-call]
    return attached
