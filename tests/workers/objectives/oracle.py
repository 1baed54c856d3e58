"""Every objective as its paper writes it, over all logits at once in float64, and random output layers to try them on.

Dims as in `workers.objectives.fused_linear`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.objectives.anchored import Anchored, Tilted
from workers.objectives.base import ObjectiveOutput, RowObjective
from workers.objectives.build import row_loss
from workers.objectives.cross_entropy import CrossEntropy
from workers.objectives.eksft import SelectedTokens
from workers.objectives.fused_linear import fused_loss
from workers.objectives.gem import Gem
from workers.objectives.output_head import OutputHead, ReferenceRows
from workers.objectives.power_family import Deft, DynamicFineTuning, Power
from workers.objectives.reweighted import EntropyAdaptive, Focal, ProbabilityFilter
from workers.objectives.sed_sft import SelectivePenalty
from workers.objectives.smoothed import EntropyRegularised, LabelSmoothing

OBJECTIVES: dict[str, RowObjective] = {
    "ce": CrossEntropy(),
    "sed": SelectivePenalty(lambda_=1.0, top_k=2, tau=0.8),
    "sed k=3": SelectivePenalty(lambda_=0.5, top_k=3, tau=0.9),
    "gem linear": Gem(h="linear", beta=0.7),
    "gem logsigmoid": Gem(h="logsigmoid", beta=0.7),
    "dft": DynamicFineTuning(),
    "power": Power(q=0.5),
    "deft": Deft(),
    "eaft": EntropyAdaptive(alpha=0.7, top_k=4),
    "profit": ProbabilityFilter(threshold=0.1),
    "focal": Focal(gamma=2.0),
    "focal root": Focal(gamma=0.5),
    "label smoothing": LabelSmoothing(epsilon=0.1),
    "entropy-regularised": EntropyRegularised(lambda_=0.05),
    "asft": Anchored(kl_coef=0.3),
    "gift": Tilted(beta=1.5, smoothing=0.0),
    "gift smoothed": Tilted(beta=3.0, smoothing=0.2),
    "eksft": SelectedTokens(entropy_border=1.2, kl_border=0.4, nll_factor=2.5, entropy_factor=0.7, kl_factor=0.3),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Label tokens before the output layer of a model, and before that of its reference."""

    hidden_NH: Tensor
    head: OutputHead
    labels_N: Tensor
    reference: ReferenceRows

    @property
    def inputs(self) -> list[Tensor]:
        """What gradients are wanted by."""
        bias_V = self.head.bias_V
        return [self.hidden_NH, self.head.weight_VH, *([] if bias_V is None else [bias_V])]

    def part(self, rows: slice) -> "Layer":
        """Some of the tokens."""
        return Layer(
            hidden_NH=self.hidden_NH[rows],
            head=self.head,
            labels_N=self.labels_N[rows],
            reference=ReferenceRows(hidden_NH=self.reference.hidden_NH[rows], head=self.reference.head),
        )


def random_layer(
    seed: int,
    num_rows: int,
    dtype: torch.dtype = torch.float64,
    *,
    hidden: int = 5,
    vocabulary: int = 7,
    biased: bool = True,
    **head: Any,
) -> Layer:
    """Hidden states, weights and bias that gradients are wanted by; the reference has its own."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    return Layer(
        hidden_NH=draw(num_rows, hidden).requires_grad_(),
        head=OutputHead(
            weight_VH=draw(vocabulary, hidden).requires_grad_(),
            bias_V=draw(vocabulary).requires_grad_() if biased else None,
            **head,
        ),
        labels_N=torch.randint(0, vocabulary, (num_rows,), generator=generator),
        reference=ReferenceRows(
            hidden_NH=draw(num_rows, hidden), head=OutputHead(weight_VH=draw(vocabulary, hidden), **head)
        ),
    )


def given_logits(logits_NV: Tensor, labels_N: Tensor, reference_NV: Tensor | None = None) -> Layer:
    """An output layer that changes nothing, so that gradients by the hidden states are those by the logits."""
    head = OutputHead(weight_VH=torch.eye(logits_NV.shape[1], dtype=logits_NV.dtype))
    return Layer(
        hidden_NH=logits_NV.detach().clone().requires_grad_(),
        head=head,
        labels_N=labels_N,
        reference=ReferenceRows(hidden_NH=logits_NV if reference_NV is None else reference_NV, head=head),
    )


def fused(objective: RowObjective, layer: Layer, **options: Any) -> ObjectiveOutput:
    """The objective's sums by the fused sweep."""
    return fused_loss(
        layer.hidden_NH,
        layer.head,
        layer.labels_N,
        row_loss(objective),
        needs=objective.needs,
        reference=layer.reference,
        **options,
    )


def gradients(loss: Tensor, layer: Layer) -> list[Tensor]:
    """By hidden states, weight and bias."""
    return list(torch.autograd.grad(loss, layer.inputs))


def logits_of(hidden_NH: Tensor, head: OutputHead) -> Tensor:
    """All logits at once."""
    logits_NV = hidden_NH @ head.weight_VH.T
    logits_NV = (logits_NV if head.bias_V is None else logits_NV + head.bias_V) * head.scale
    return logits_NV if head.softcap is None else head.softcap * torch.tanh(logits_NV / head.softcap)


def oracle_loss(name: str, logits_NV: Tensor, labels_N: Tensor, reference_NV: Tensor) -> Tensor:
    """Each token's loss as the papers write it, for autograd; surrogates stop gradients where the papers do."""
    logp = torch.log_softmax(logits_NV, -1)
    p = logp.exp()
    logp_y = logp.gather(1, labels_N[:, None])[:, 0]
    p_y = logp_y.exp()
    ranked = p.detach().sort(-1, descending=True).values
    top4 = ranked[:, :4] / ranked[:, :4].sum(-1, keepdim=True)
    q = torch.softmax(logits_NV.detach() / 0.7, -1)
    c = q * torch.sigmoid(0.01 * (logits_NV - logits_NV.gather(1, labels_N[:, None]))).detach()
    a = p.detach().square().sum(-1)
    logr = torch.log_softmax(reference_NV, -1)
    r = logr.exp()
    one_hot = torch.nn.functional.one_hot(labels_N, logits_NV.shape[1])
    t = torch.softmax(logr + 1.5 * one_hot, -1)
    smooth_t = torch.softmax((0.8 * r + 0.2 / logits_NV.shape[1]).log() + 3.0 * one_hot, -1)

    def eksft() -> Tensor:
        entropy, kl = -(p * logp).sum(-1), (p * (logp - logr)).sum(-1)
        flexible, moved = entropy > 1.2, kl > 0.4
        share = entropy / math.log(logits_NV.shape[1])
        return -2.5 * logp_y * ~(flexible | moved) - 0.7 * share * flexible + 0.3 * kl * moved

    formulas: dict[str, Callable[[], Tensor]] = {
        "ce": lambda: -logp_y,
        "sed": lambda: -logp_y + (ranked[:, :2].sum(-1) < 0.8) * (p_y - 0.5) ** 2,
        "sed k=3": lambda: -logp_y + 0.5 * (ranked[:, :3].sum(-1) < 0.9) * (p_y - 0.5) ** 2,
        "gem linear": lambda: -logp_y + (q * logp).sum(-1),
        "gem logsigmoid": lambda: -(c * (logp_y[:, None] - logp)).sum(-1),
        "dft": lambda: -p_y.detach() * logp_y,
        "power": lambda: (1 - p_y**0.5) / 0.5,
        "deft": lambda: -(p_y**a - 1) / (a + 1e-6),
        "eaft": lambda: -((-(top4 * top4.log()).sum(-1) / math.log(4)) ** 0.7) * logp_y,
        "profit": lambda: (p_y.detach() >= 0.1) * -logp_y,
        "focal": lambda: -((1 - p_y) ** 2) * logp_y,
        "focal root": lambda: -((1 - p_y) ** 0.5) * logp_y,
        "label smoothing": lambda: -0.9 * logp_y - 0.1 * logp.mean(-1),
        "entropy-regularised": lambda: -logp_y + 0.05 * (p * logp).sum(-1),
        "asft": lambda: -p_y.detach() * logp_y + 0.3 * (r * (logr - logp)).sum(-1),
        "gift": lambda: -(t * logp).sum(-1),
        "gift smoothed": lambda: -(smooth_t * logp).sum(-1),
        "eksft": eksft,
    }
    return formulas[name]()
