"""Output layer and loss in one sweep over chunks of tokens: the logits of one chunk exist at a time, never all of them.

Dims: N label tokens, C those of a chunk, H hidden, V rows of the output layer, K largest probabilities.

For a chunk with hidden states h the sweep computes z = cap(scale * (h Wᵀ + b)) / temperature, the statistics of
softmax(z) and, since an objective's gradient by z is known as soon as these are, at once its gradient by h, W and b.
A frozen reference model's z' goes the same way, and nothing more of it is kept:

    weighted objective:      dz_j = w (p_j - 1[j = y]) - u p_j (log p_j + H)
                             w = d loss / d nll, u = d loss / d H by autograd over the chunk's [C] values
    distribution objective:  dz_j as the objective says

So the backward pass only multiplies stored gradients by the incoming scalar. Statistics and dz are float32 at least,
whatever the dtype of the products with W. Beyond the gradients themselves the memory is two to four buffers of a chunk,
two more with a reference model, and one with a gradient of the entropy.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from service.contract.memory_sizes import LOSS_CHUNK_BYTES
from workers.objectives.base import (
    ChunkDistributions,
    DistributionObjective,
    ObjectiveOutput,
    StatisticsNeeds,
    TokenStatistics,
    row_dots,
)
from workers.objectives.output_head import ChunkLogits, OutputHead, ReferenceRows
from workers.objectives.step_metrics import merged

WeightedLoss: TypeAlias = Callable[[TokenStatistics, slice], ObjectiveOutput]
"""A loss by way of `nll_N` from the statistics of the tokens in the slice of [N]."""


class SurveyedLoss(ABC):
    """A loss that must see all N tokens before it can tell that of one: a chunk may cut a sequence in two.

    It costs a second sweep over the output layer, not a second pass through the model.
    """

    @abstractmethod
    def settled(self, statistics: TokenStatistics) -> WeightedLoss:
        """The loss for these N tokens. Their statistics are detached, and bit for bit those that the loss will see."""


FusedLoss: TypeAlias = WeightedLoss | SurveyedLoss | DistributionObjective


def fused_loss(
    hidden_NH: Tensor,
    head: OutputHead,
    labels_N: Tensor,
    objective: FusedLoss,
    *,
    needs: StatisticsNeeds,
    reference: ReferenceRows | None = None,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> ObjectiveOutput:
    """The objective's sums over N label tokens; N may not be 0.

    `loss_sum` is differentiable by hidden states, weight and bias, once: its backward pass gives the gradients away.
    `reference` must be there if `needs` says so. `chunk_tokens` overrides the size that `LOSS_CHUNK_BYTES` gives; it
    changes results by rounding only.
    """
    sweep = _Sweep(hidden_NH, head, labels_N, needs=needs, reference=reference, temperature=temperature)
    inputs = (hidden_NH, head.weight_VH, head.bias_V)
    wanted = [torch.is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in inputs]
    gradients = _Gradients.zeros(head, hidden_NH, wanted)
    chunks = list(_chunks(sweep, chunk_tokens, len(labels_N)))
    with torch.no_grad():
        if isinstance(objective, SurveyedLoss):
            objective = objective.settled(_joined_statistics([sweep.distribution(rows).statistics for rows in chunks]))
        output = merged([sweep.accumulate(rows, objective, gradients) for rows in chunks])
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
    reference: ReferenceRows | None = None,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> TokenStatistics:
    """The statistics of N label tokens, all detached; N may not be 0. `reference` as for `fused_loss`."""
    sweep = _Sweep(hidden_NH, head, labels_N, needs=needs, reference=reference, temperature=temperature)
    return _joined_statistics(
        [sweep.distribution(rows).statistics for rows in _chunks(sweep, chunk_tokens, len(labels_N))]
    )


def _joined_statistics(parts: list[TokenStatistics]) -> TokenStatistics:
    return TokenStatistics(
        nll_N=torch.cat([part.nll_N for part in parts]),
        entropy_N=torch.cat([part.entropy_N for part in parts]),
        is_likeliest_N=torch.cat([part.is_likeliest_N for part in parts]),
        top_probs_NK=_joined([part.top_probs_NK for part in parts]),
        collision_N=_joined([part.collision_N for part in parts]),
        reference_kl_N=_joined([part.reference_kl_N for part in parts]),
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
            weight_VH=_zeros(head.weight_VH) if wanted[1] else None,
            bias_V=_zeros(bias_V) if wanted[2] and bias_V is not None else None,
        )

    @property
    def any(self) -> bool:
        return not (self.hidden_NH is None and self.weight_VH is None and self.bias_V is None)


def _zeros(like: Tensor) -> Tensor:
    """float32 at least: sums over many chunks would lose the small ones in bfloat16. Autograd rounds them once."""
    return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


class _Softmax:
    """exp(z - max z) of a chunk of logits and its sum. The buffers hold until the next chunk."""

    def __init__(self, logits_CV: Tensor, buffer_CV: Tensor) -> None:
        """Overwrites both."""
        self.max_C1, self.likeliest_C1 = logits_CV.max(1, keepdim=True)
        self.shifted_CV = logits_CV.sub_(self.max_C1)
        self.exp_CV = torch.exp(self.shifted_CV, out=buffer_CV[: len(logits_CV)])
        self.total_C1 = self.exp_CV.sum(1, keepdim=True)
        self.log_total_C1 = self.total_C1.log()

    def logprobs(self) -> Tensor:
        """Overwrites `shifted_CV`."""
        return self.shifted_CV.sub_(self.log_total_C1)

    def probs(self) -> Tensor:
        """Overwrites `exp_CV`."""
        return self.exp_CV.mul_(self.total_C1.reciprocal())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Distribution:
    """One chunk's softmax, and that of the reference where there is one."""

    statistics: TokenStatistics
    policy: _Softmax
    reference: _Softmax | None


class _Sweep:
    """The computation of one chunk, with buffers that all chunks share."""

    def __init__(
        self,
        hidden_NH: Tensor,
        head: OutputHead,
        labels_N: Tensor,
        *,
        needs: StatisticsNeeds,
        reference: ReferenceRows | None,
        temperature: float,
    ) -> None:
        self._labels_N = labels_N
        self._needs = needs
        self._logits = ChunkLogits(hidden_NH, head, temperature)
        self._buffer_CV: Tensor | None = None
        self._reference_logits: ChunkLogits | None = None
        self._scratch_CV: Tensor | None = None
        if needs.reference:
            assert reference is not None, "the objective needs a reference model"
            self._reference_logits = ChunkLogits(reference.hidden_NH, reference.head, temperature)

    @property
    def num_classes(self) -> int:
        """Rows of the output layer."""
        return len(self._logits.weight_VH)

    def distribution(self, rows: slice) -> _Distribution:
        """Statistics of the tokens in `rows`, and what the gradient is made of."""
        logits_CV = self._logits.of(rows)
        if self._buffer_CV is None:
            self._buffer_CV = torch.empty_like(logits_CV)
        made = _Softmax(logits_CV, self._buffer_CV)
        reference, reference_kl_C = self._compare(made, rows)
        labels_C1 = self._labels_N[rows].unsqueeze(1)
        top_probs_CK = None
        if self._needs.top_k is not None:
            top_probs_CK = _largest(made.exp_CV, made.likeliest_C1, self._needs.top_k) / made.total_C1
        collision_C = None
        if self._needs.collision:
            collision_C = (row_dots(made.exp_CV, made.exp_CV) / made.total_C1.square()).squeeze(1)
        mean_shift_C1 = row_dots(made.exp_CV, made.shifted_CV) / made.total_C1
        statistics = TokenStatistics(
            nll_N=(made.log_total_C1 - made.shifted_CV.gather(1, labels_C1)).squeeze(1),
            # H = -sum p (z - lse). Rounding may leave a certain token an ulp below 0.
            entropy_N=(made.log_total_C1 - mean_shift_C1).squeeze(1).clamp_min(0.0),
            is_likeliest_N=(made.likeliest_C1 == labels_C1).squeeze(1),
            top_probs_NK=top_probs_CK,
            collision_N=collision_C,
            reference_kl_N=reference_kl_C,
        )
        return _Distribution(statistics=statistics, policy=made, reference=reference)

    def accumulate(
        self, rows: slice, objective: WeightedLoss | DistributionObjective, gradients: _Gradients
    ) -> ObjectiveOutput:
        """The objective's sums over the tokens in `rows`; their gradients are added where they are wanted."""
        found = self.distribution(rows)
        made = found.policy
        labels_C = self._labels_N[rows]
        if isinstance(objective, DistributionObjective):
            output, grad_CV = objective.differentiate(
                ChunkDistributions(
                    logprobs_CV=made.logprobs(),
                    probs_CV=made.probs(),
                    labels_C=labels_C,
                    reference_logprobs_CV=found.reference.logprobs() if found.reference else None,
                ),
                found.statistics,
            )
            offset_C1 = made.max_C1 + made.log_total_C1
        else:
            output, weight_C1, entropy_weight_C1 = _weigh(
                objective, found.statistics, rows, with_entropy=self._needs.entropy_gradient
            )
            if entropy_weight_C1 is None:
                grad_CV = made.exp_CV.mul_(weight_C1 / made.total_C1)
            else:
                # log p_j + H, on its way to a factor of p_j.
                factor_CV = made.shifted_CV - (made.log_total_C1 - found.statistics.entropy_N.detach().unsqueeze(1))
                grad_CV = made.probs().mul_(factor_CV.mul_(-entropy_weight_C1).add_(weight_C1))
            grad_CV.scatter_add_(1, labels_C.unsqueeze(1), -weight_C1)
            offset_C1 = made.max_C1
        if gradients.any:
            self._logits.through_softcap(grad_CV, made.shifted_CV, offset_C1)
            self._add(rows, grad_CV, gradients)
        return output

    def _compare(self, made: _Softmax, rows: slice) -> tuple[_Softmax | None, Tensor | None]:
        """The reference's distribution and KL(p || p_ref) in nats, [C]; None without a reference."""
        if self._reference_logits is None:
            return None, None
        logits_CV = self._reference_logits.of(rows)
        if self._scratch_CV is None:
            self._scratch_CV = torch.empty_like(made.exp_CV)
        reference = _Softmax(logits_CV, self._scratch_CV)
        # The difference first: equal models have a KL of exactly 0, and near ones lose few digits.
        difference_CV = torch.sub(made.shifted_CV, reference.shifted_CV, out=reference.exp_CV)
        mean_C1 = row_dots(made.exp_CV, difference_CV) / made.total_C1
        kl_C1 = mean_C1 - (made.log_total_C1 - reference.log_total_C1)
        return reference, kl_C1.squeeze(1).clamp_min(0.0)

    def _add(self, rows: slice, grad_CV: Tensor, gradients: _Gradients) -> None:
        if self._logits.slope != 1.0:
            grad_CV.mul_(self._logits.slope)
        if gradients.bias_V is not None:
            gradients.bias_V += grad_CV.sum(0)
        weight_VH = self._logits.weight_VH
        grad_CV = grad_CV.to(weight_VH.dtype)
        if gradients.hidden_NH is not None:
            gradients.hidden_NH[rows] = torch.mm(grad_CV, weight_VH)
        if gradients.weight_VH is not None:
            hidden_CH = self._logits.hidden(rows)
            if gradients.weight_VH.dtype == grad_CV.dtype:
                gradients.weight_VH.addmm_(grad_CV.T, hidden_CH)
            else:
                gradients.weight_VH += torch.mm(grad_CV.T, hidden_CH)


def _weigh(
    objective: WeightedLoss, statistics: TokenStatistics, rows: slice, *, with_entropy: bool
) -> tuple[ObjectiveOutput, Tensor, Tensor | None]:
    """The objective's sums, and its loss's derivatives by each token's nll and, if wanted, entropy, [C, 1]."""
    with torch.enable_grad():
        inputs = [statistics.nll_N.requires_grad_()]
        if with_entropy:
            inputs.append(statistics.entropy_N.requires_grad_())
        output = objective(statistics, rows)
        weights = [weight_C.unsqueeze(1) for weight_C in torch.autograd.grad(output.loss_sum, inputs)]
    detached = ObjectiveOutput(
        loss_sum=output.loss_sum.detach(),
        metric_sums=output.metric_sums,
        part_sums=output.part_sums,
        share_histograms=output.share_histograms,
    )
    return detached, weights[0], weights[1] if with_entropy else None


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
    size = chunk_tokens or max(1, LOSS_CHUNK_BYTES // (4 * sweep.num_classes))
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
