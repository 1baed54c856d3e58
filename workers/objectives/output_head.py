"""The output layer: how hidden states become logits, a chunk of tokens at a time.

Dims: N label tokens, C those of a chunk, H hidden, V rows of the output layer. Every row is a token that has a
probability and is trained, also where a vocabulary was padded beyond the tokenizer's: the rollout engine samples from
all rows, so a trainer that left some out would not compute the sampled distribution. A bias of -inf takes a row out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LOWEST_BIAS = -1e30
"""Stands for -inf: its exponential is 0 as well, but its product with 0 is not NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputHead:
    """How a model turns hidden states into logits."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    """Multiplies the logits."""
    softcap: float | None = None
    """z becomes softcap * tanh(z / softcap), after the scale."""
    dtype: torch.dtype | None = None
    """Of the products with the weight; None: the weight's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRows:
    """What a frozen second model makes of the same label tokens; its logits exist a chunk at a time, like the others'.

    Both models have the same vocabulary.
    """

    hidden_NH: Tensor
    head: OutputHead


class ChunkLogits:
    """The logits of one chunk after the other, in one buffer."""

    def __init__(self, hidden_NH: Tensor, head: OutputHead, temperature: float) -> None:
        weight_VH = head.weight_VH.detach()
        self._hidden_NH = hidden_NH.detach()
        self._head = head
        self._temperature = temperature
        self.weight_VH = weight_VH.to(head.dtype or weight_VH.dtype)
        """Detached, in the dtype of the products."""
        self._bias_V = None if head.bias_V is None else head.bias_V.detach().clamp_min(LOWEST_BIAS)
        self.precision = torch.float64 if self.weight_VH.dtype == torch.float64 else torch.float32
        """Of the logits, float32 at least."""
        self._buffer_CV: Tensor | None = None

    @property
    def slope(self) -> float:
        """Of the logits by the products with the weight, but for the soft cap."""
        return self._head.scale / self._temperature

    def hidden(self, rows: slice) -> Tensor:
        """[C, H] in the dtype of the products."""
        return self._hidden_NH[rows].to(self.weight_VH.dtype)

    def of(self, rows: slice) -> Tensor:
        """[C, V] in a buffer that the caller may overwrite and that holds until the next call."""
        hidden_CH = self.hidden(rows)
        if self._buffer_CV is None:
            self._buffer_CV = hidden_CH.new_empty(len(hidden_CH), len(self.weight_VH), dtype=self.precision)
        logits_CV = self._buffer_CV[: len(hidden_CH)]
        if self.weight_VH.dtype == self.precision:
            torch.mm(hidden_CH, self.weight_VH.T, out=logits_CV)
        else:
            logits_CV.copy_(torch.mm(hidden_CH, self.weight_VH.T))
        if self._bias_V is not None:
            logits_CV.add_(self._bias_V)
        if self._head.scale != 1.0:
            logits_CV.mul_(self._head.scale)
        if self._head.softcap is not None:
            logits_CV.div_(self._head.softcap).tanh_().mul_(self._head.softcap)
        if self._temperature != 1.0:
            logits_CV.div_(self._temperature)
        return logits_CV

    def through_softcap(self, gradient_CV: Tensor, shifted_CV: Tensor, shift_C1: Tensor) -> None:
        """Multiply a gradient by the soft cap's slope, if there is one. `shifted_CV`, logits less a shift, is lost."""
        if self._head.softcap is not None:
            # z_capped / cap is the tanh, whose slope is 1 - tanh².
            tanh_CV = shifted_CV.add_(shift_C1).mul_(self._temperature / self._head.softcap)
            gradient_CV.mul_(tanh_CV.square_().neg_().add_(1.0))
