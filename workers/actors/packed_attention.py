"""Causal attention over padded rows, or over one row that holds sequences end to end and lets none see another.

    padded   [B, T]      a a a - -        packed   [1, T]      a a a b b c c c c
                         b b - - -
                         c c c c -

transformers calls this attention through its registry under the name `IMPLEMENTATION`, with what its own attentions
get: a scale, a sliding window, a soft cap of the scores (Gemma 2, whose cap its `sdpa` leaves out), fewer heads of keys
than of queries. A packed row comes with a `packed_row`, which the body of the model passes through to every layer.

On the CPU a packed row is cut into blocks of sequences of like length: on mixed lengths that takes a sixth to a half of
the time that padded rows take, and an eighth to a fiftieth of that of one mask over the whole row. On CUDA, half
precision goes to torch's own variable-length flash attention.

Dims: B rows, T positions, S inputs of all packed sequences, b sequences of a block and l its longest, Q queries and K
keys of a part of a row, A heads of queries, G heads of keys and values (A is a multiple of G), H either of the two, D
width of a head.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from workers.data.packed_row import PackedRow

IMPLEMENTATION = "sedray"

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_NUM_PROBE_TOKENS = 8
_PROBE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Of the largest value."""
_MAX_FLASH_HEAD_DIM = 256


def adopt_attention(model: PreTrainedModel) -> bool:
    """Let a model use this attention if it can, and say whether it does; otherwise its own stays.

    A class must go through the registry and hand every layer's window to it, as flash attention needs it too; all
    layers must be causal attention. What else a class may do to its scores shows on a few tokens: they must come out as
    with the model's own written-out attention.
    """
    config = model.config.get_text_config()
    if not (
        model._supports_flash_attn
        and model._supports_sdpa
        and model._can_set_attn_implementation()
        and set(getattr(config, "layer_types", None) or _KNOWN_LAYERS) <= _KNOWN_LAYERS
        and all(getattr(module, "is_causal", True) for module in model.modules())
    ):
        return False
    AttentionInterface.register(IMPLEMENTATION, attention_forward)
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    expected_BTV = _probe(model)
    model.set_attn_implementation(IMPLEMENTATION)
    if alike(_probe(model), expected_BTV):
        return True
    model.set_attn_implementation(own)
    return False


def alike(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are the same but for the rounding of their dtype."""
    tolerance = _PROBE_TOLERANCE[expected.dtype] * float(expected.abs().max())
    return found.shape == expected.shape and float((found - expected).abs().max()) <= tolerance


def attention_forward(
    module: torch.nn.Module,
    query_BATD: Tensor,
    key_BGTD: Tensor,
    value_BGTD: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed_row: PackedRow | None = None,
    **_others: Any,
) -> tuple[Tensor, None]:
    """[B, T, A, D] for transformers, and no attention weights.

    Nothing may be masked beyond causality: padding stands behind every real token. Dropout is off while training here.
    """
    assert attention_mask is None and dropout == 0.0
    attention = Attention(scale=scaling, window=sliding_window, softcap=softcap)
    if packed_row is None:
        return attention.rows(query_BATD, key_BGTD, value_BGTD).transpose(1, 2).contiguous(), None
    if softcap is None and _takes_flash(query_BATD):
        return attention.flash(query_BATD, key_BGTD, value_BGTD, packed_row), None
    return attention.blocks(query_BATD, key_BGTD, value_BGTD, packed_row), None


class Attention:
    """One layer's way to attend."""

    def __init__(self, *, scale: float | None, window: int | None, softcap: float | None) -> None:
        self._scale = scale
        self._window = window
        self._softcap = softcap

    def rows(self, query_BATD: Tensor, key_BGTD: Tensor, value_BGTD: Tensor) -> Tensor:
        """Causal attention within each row, [B, A, T, D].

        With a window, queries go in blocks of its length, and each block meets the keys that it can see: two windows
        of them instead of all.
        """
        num_tokens, window = query_BATD.shape[2], self._window
        if window is None or window >= num_tokens:
            return self._block(query_BATD, key_BGTD, value_BGTD)
        blocks = []
        for start in range(0, num_tokens, window):
            queries, keys = slice(start, start + window), slice(max(0, start - window + 1), start + window)
            blocks.append(self._block(query_BATD[:, :, queries], key_BGTD[:, :, keys], value_BGTD[:, :, keys]))
        return torch.cat(blocks, dim=2)

    def blocks(self, query_1ATD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, packed_row: PackedRow) -> Tensor:
        """The same for a packed row, block by block of its sequences, [1, T, A, D]."""
        blocks = packed_row.blocks
        tensors_THD = [tensor[0].transpose(0, 1) for tensor in (query_1ATD, key_1GTD, value_1GTD)]
        attended = []
        for places_bl in blocks.places:
            parts_blHD = (
                tensor_THD.index_select(0, places_bl.flatten()).view(*places_bl.shape, *tensor_THD.shape[1:])
                for tensor_THD in tensors_THD
            )
            attended_bAlD = self.rows(*(part_blHD.transpose(1, 2) for part_blHD in parts_blHD))
            attended.append(attended_bAlD.transpose(1, 2).flatten(0, 1))
        return torch.cat(attended).index_select(0, blocks.kept_T).unsqueeze(0)

    def flash(self, query_1ATD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, packed_row: PackedRow) -> Tensor:
        """The same on CUDA, all sequences at once."""
        lengths = packed_row.lengths
        bounds = _bounds(lengths, query_1ATD.device)
        dtype = _flash_dtype(query_1ATD)
        query_SAD, key_SGD, value_SGD = (
            _by_sequence(tensor[0].transpose(0, 1).to(dtype), packed_row)
            for tensor in (query_1ATD, key_1GTD, value_1GTD)
        )
        attended_SAD = varlen_attn(
            query_SAD,
            key_SGD,
            value_SGD,
            bounds,
            bounds,
            max(lengths),
            max(lengths),
            scale=self._scale,
            # The kernel counts the tokens to the left of the present one.
            window_size=(-1 if self._window is None else self._window - 1, 0),
            enable_gqa=query_SAD.shape[1] != key_SGD.shape[1],
        )
        assert isinstance(attended_SAD, Tensor)
        attended_TAD = attended_SAD.index_select(0, packed_row.kept_T) if packed_row.is_shared else attended_SAD
        return attended_TAD.unsqueeze(0)

    def _block(self, query_BAQD: Tensor, key_BGKD: Tensor, value_BGKD: Tensor) -> Tensor:
        """Attention of the last Q of K tokens, [B, A, Q, D]."""
        num_queries, num_keys = query_BAQD.shape[2], key_BGKD.shape[2]
        fits = num_queries == num_keys and (self._window is None or self._window >= num_keys)
        if fits and self._softcap is None:
            return scaled_dot_product_attention(
                query_BAQD,
                key_BGKD,
                value_BGKD,
                is_causal=True,
                scale=self._scale,
                enable_gqa=query_BAQD.shape[1] != key_BGKD.shape[1],
            )
        # With a mask, the fast kernels want as many heads of keys as of queries.
        num_groups = query_BAQD.shape[1] // key_BGKD.shape[1]
        key_BAKD, value_BAKD = (tensor.repeat_interleave(num_groups, dim=1) for tensor in (key_BGKD, value_BGKD))
        visible_QK = _visible(num_queries, num_keys, self._window, query_BAQD.device)
        if self._softcap is not None:
            return self._capped(query_BAQD, key_BAKD, value_BAKD, visible_QK)
        return scaled_dot_product_attention(query_BAQD, key_BAKD, value_BAKD, attn_mask=visible_QK, scale=self._scale)

    def _capped(self, query_BAQD: Tensor, key_BAKD: Tensor, value_BAKD: Tensor, visible_QK: Tensor) -> Tensor:
        """Written out, with all scores of a block in memory: no fused attention of torch caps them."""
        assert self._softcap is not None
        scale = query_BAQD.shape[-1] ** -0.5 if self._scale is None else self._scale
        scores_BAQK = (query_BAQD @ key_BAKD.transpose(2, 3)) * scale
        scores_BAQK = self._softcap * torch.tanh(scores_BAQK / self._softcap)
        scores_BAQK = scores_BAQK.masked_fill(~visible_QK, float("-inf"))
        probs_BAQK = scores_BAQK.softmax(-1, dtype=torch.promote_types(scores_BAQK.dtype, torch.float32))
        return probs_BAQK.to(value_BAKD.dtype) @ value_BAKD


def _by_sequence(tensor_THD: Tensor, packed_row: PackedRow) -> Tensor:
    """The row's tokens as the sequences have them, [S, H, D]; end to end they lie there already."""
    return tensor_THD.index_select(0, packed_row.places_S) if packed_row.is_shared else tensor_THD


# The layers of a forward pass, and the blocks of a row, ask for the same few.
@lru_cache(maxsize=16)
def _visible(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
    """bool [Q, K]: which keys the last Q of K tokens see: up to their own, and `window` of them."""
    num_before = num_keys - num_queries
    visible_QK = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(num_before)
    return visible_QK if window is None else visible_QK.triu(num_before - window + 1)


@lru_cache(maxsize=8)
def _bounds(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """int32 [S + 1]: where each sequence of a packed row begins, and its end."""
    return torch.tensor([0, *lengths], device=device).cumsum(0, dtype=torch.int32)


def _takes_flash(query_BATD: Tensor) -> bool:
    return (
        query_BATD.is_cuda
        and query_BATD.shape[-1] <= _MAX_FLASH_HEAD_DIM
        and _flash_dtype(query_BATD) in (torch.bfloat16, torch.float16)
    )


def _flash_dtype(query_BATD: Tensor) -> torch.dtype:
    """Under autocast the rotary embedding leaves queries and keys in float32."""
    is_mixed = query_BATD.is_cuda and torch.is_autocast_enabled("cuda")
    return torch.get_autocast_dtype("cuda") if is_mixed else query_BATD.dtype


@torch.no_grad()
def _probe(model: PreTrainedModel) -> Tensor:
    ids_BT = torch.arange(min(_NUM_PROBE_TOKENS, model.config.get_text_config().vocab_size), device=model.device)
    logits: Tensor = model(input_ids=ids_BT.unsqueeze(0), use_cache=False).logits
    return logits
