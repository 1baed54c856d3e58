"""A row that holds sequences end to end, as attention needs to know it: everything else treats its tokens alike.

    row            p p p a a b b b        two sequences with a prompt in common
    sequence a     0 1 2 3 4              places of its inputs in the row
    sequence b     0 1 2     5 6 7

Attention lays the tokens out by sequence, computes, and puts the results back. A prompt that several sequences share is
laid out for each of them; its results are the same in all, and one of them is kept.

Dims: S inputs of all sequences, T tokens of the row, b sequences of a block, l its longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

Places: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

_CPU = torch.device("cpu")
_LEAST_FILL = 0.75
"""Of a block's longest sequence, what its shortest has at least. Padding costs in attention alone, a call too."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blocks:
    """The sequences of a row, those of like length together, each block padded on the right."""

    places: tuple[Tensor, ...]
    """int64 [b, l] of each block: places in the row. What pads is some token of the same sequence."""
    kept_T: Tensor
    """int64: where a token's result stands in those of all blocks, read one after the other."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedRow:
    """Where the sequences' inputs lie in the row. Its tensors are made once and lie on `device`."""

    lengths: tuple[int, ...]
    """Inputs of each sequence, a shared prompt counted for each."""
    places: Places
    """[S]: the inputs' places in the row, sequence after sequence."""
    num_tokens: int
    """T."""
    device: torch.device = _CPU

    @classmethod
    def of(cls, places: Sequence[int], lengths: Sequence[int], num_tokens: int) -> "PackedRow":
        """From the places of all inputs, which must cover the row."""
        return cls(lengths=tuple(lengths), places=np.array(places, dtype=np.int64), num_tokens=num_tokens)

    @classmethod
    def end_to_end(cls, lengths: Sequence[int]) -> "PackedRow":
        """Of sequences that have nothing in common."""
        return cls.of(range(sum(lengths)), lengths, sum(lengths))

    def to(self, device: torch.device) -> "PackedRow":
        """The same row on another device."""
        return self if device == self.device else replace(self, device=device)

    @property
    def is_shared(self) -> bool:
        """Whether sequences have tokens in common."""
        return len(self.places) != self.num_tokens

    @cached_property
    def places_S(self) -> Tensor:
        """int64: `places`."""
        return self._on_device(self.places)

    @cached_property
    def kept_T(self) -> Tensor:
        """int64: for each token of the row, where it stands in `places`; of several places, the last."""
        kept_T = np.empty(self.num_tokens, dtype=np.int64)
        kept_T[self.places] = np.arange(len(self.places))
        return self._on_device(kept_T)

    @cached_property
    def blocks(self) -> Blocks:
        """For an attention that takes padded rows. All layers of a pass ask for the same."""
        starts = [0, *accumulate(self.lengths)]
        kept_T = np.empty(self.num_tokens, dtype=np.int64)
        blocks, start_of_block = [], 0
        for members in _like_lengths(self.lengths):
            lengths_b = np.array([self.lengths[index] for index in members])
            starts_b = np.array([starts[index] for index in members])
            column_l = np.arange(lengths_b[0])
            places_bl = self.places[starts_b[:, None] + np.minimum(column_l, lengths_b[:, None] - 1)]
            real_bl = column_l < lengths_b[:, None]
            kept_T[places_bl[real_bl]] = start_of_block + np.flatnonzero(real_bl)
            start_of_block += places_bl.size
            blocks.append(self._on_device(places_bl))
        return Blocks(places=tuple(blocks), kept_T=self._on_device(kept_T))

    def _on_device(self, places: Places) -> Tensor:
        return torch.from_numpy(places).to(self.device)


def _like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the sequences of each block, the longest first."""
    blocks: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if blocks and lengths[index] >= _LEAST_FILL * lengths[blocks[-1][0]]:
            blocks[-1].append(index)
        else:
            blocks.append([index])
    return blocks
