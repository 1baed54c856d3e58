"""Drawing one token for each of many requests at once, each with randomness of its own that has no state.

    u = bits(seed of the request, number of tokens drawn before) in [0, 1)
    token = first j with p_0 + ... + p_j > u

The same request draws the same again whatever shares its batch, after it was set aside and taken up, and on another
engine; only rounding in the logits can move a draw that falls on the border of two tokens. A token of probability 0 is
never drawn.

The bits are those of SplitMix64 (Steele, Lea, Flood 2014), whose finalizer mixes the seed and then the place.
The sum over the vocabulary goes in two stages, since adding up one by one is slow: blocks first, then within one block.
Probabilities are float32, their sums float64, so the borders are as exact as the probabilities.

Dims: B requests, V vocabulary, W tokens of a block, K blocks.
"""

from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

Floats: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Counts: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Words: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]

_BLOCK = 128
_CHUNK_BYTES = 2 << 20
"""Logits of so many rows are worked on at a time, so that they stay in the cache."""
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniforms(seeds_B: Words, places_B: Counts) -> Floats:
    """One number in [0, 1) for each request, in steps of 2^-53, from its seed and the tokens that it has drawn."""
    mixed_B = _mixed(_mixed(seeds_B + _GAMMA) + places_B.astype(np.uint64) * _GAMMA)
    return (mixed_B >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw(logits_BV: Tensor, uniforms_B: Floats) -> tuple[Tensor, Tensor]:
    """Tokens, int64 [B], from softmax(logits), and their log-probs, float32 [B], under it.

    Logits are float32 and may be -inf, but not all of a row.
    """
    size = max(1, _CHUNK_BYTES // (4 * logits_BV.shape[1]))
    parts = [
        _draw_chunk(logits_BV[start : start + size], uniforms_B[start : start + size])
        for start in range(0, len(logits_BV), size)
    ]
    tokens, logprobs = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def _draw_chunk(logits_BV: Tensor, uniforms_B: Floats) -> tuple[Tensor, Tensor]:
    largest_B1 = logits_BV.amax(1, keepdim=True)
    weights_BV = torch.exp(logits_BV - largest_B1)
    if weights_BV.shape[1] <= 2 * _BLOCK:
        tokens_B, totals_B = _draw_directly(weights_BV, uniforms_B)
    else:
        tokens_B, totals_B = _draw_by_blocks(weights_BV, uniforms_B)
    drawn_B1 = torch.from_numpy(tokens_B).unsqueeze(1)
    logprobs_B1 = logits_BV.gather(1, drawn_B1) - largest_B1
    return drawn_B1.squeeze(1), logprobs_B1.squeeze(1) - torch.from_numpy(np.log(totals_B)).float()


def _draw_directly(weights_BV: Tensor, uniforms_B: Floats) -> tuple[Counts, Floats]:
    """Tokens and the sums of all weights."""
    sums_BV = np.cumsum(weights_BV.numpy(), axis=1, dtype=np.float64)
    totals_B = sums_BV[:, -1]
    return _place(sums_BV, uniforms_B * totals_B), totals_B


def _draw_by_blocks(weights_BV: Tensor, uniforms_B: Floats) -> tuple[Counts, Floats]:
    """The same by way of a block of `_BLOCK` tokens."""
    if padding := -weights_BV.shape[1] % _BLOCK:
        weights_BV = torch.nn.functional.pad(weights_BV, (0, padding))
    weights_BKW = weights_BV.view(len(weights_BV), -1, _BLOCK)
    sums_BK = np.cumsum(weights_BKW.sum(2).numpy(), axis=1, dtype=np.float64)
    totals_B = sums_BK[:, -1]
    targets_B = uniforms_B * totals_B
    blocks_B, rows_B = _place(sums_BK, targets_B), np.arange(len(sums_BK))
    before_B = np.where(blocks_B > 0, sums_BK[rows_B, blocks_B - 1], 0.0)
    # How far into the block, as a share of it: within the block its sum is rounded in another way.
    shares_B = (targets_B - before_B) / (sums_BK[rows_B, blocks_B] - before_B)
    within_B = _draw_directly(weights_BKW[rows_B, blocks_B], shares_B)[0]
    return blocks_B * _BLOCK + within_B, totals_B


def _place(sums_BN: Floats, targets_B: Floats) -> Counts:
    """The first of the rising sums beyond each target. Targets are below the last sum, but for rounding."""
    below_B = np.minimum(targets_B, np.nextafter(sums_BN[:, -1], 0.0))
    places_B: Counts = (sums_BN <= below_B[:, None]).sum(1)
    return places_B


def _mixed(words: Words) -> Words:
    """SplitMix64's finalizer."""
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    mixed: Words = words ^ (words >> np.uint64(31))
    return mixed
